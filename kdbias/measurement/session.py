"""A measurement in its folder: made, added to, written."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement import files
from kdbias.measurement.density import (
    Bandwidths,
    Measured,
    choose_bandwidths,
    hardness,
    intrinsic_dimension,
    log_density,
    pair_distances,
)
from kdbias.measurement.distribution import Sampling, bandwidth_entry, group_rows, rectify, scheme_entry
from kdbias.measurement.passes import PassPlan, PassResult, require_quality, with_quality
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE, first_with_same_vector
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.tiles import TILE
from kdbias.tables import provenance
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import encode
from kdbias.tables.run_record import Run, Stage
from kdbias.wording import counted

STAGE = Stage(
    "uniformity",
    files=("density.parquet", "uniformity.json", "schemes.parquet", "neighbors.parquet", "intervals.parquet"),
    passing=("pass.npz",),
)
# With --rectification auto the best re-weighting is searched at every bandwidth up to this many samples, at
# the chosen bandwidth alone beyond: the search costs some hundred products with an n x n matrix.
ALL_BANDWIDTHS_UP_TO = 16_384


class Session:
    """One call of `uniformity` on one table and one output folder.

    Args:
        groups: columns to report by.
        plan: how pairs are seen.
    """

    def __init__(self, table: EmbeddingTable, run: Run, groups: dict[str, pa.Array], plan: PassPlan) -> None:
        self.table, self.run, self.groups, self.plan, self.settings = table, run, groups, plan, plan.settings
        self.began = time.perf_counter()
        self.ids = table.ids()
        self.labels = table.labels()
        self.codes = encode(self.labels)[0]

    def measure(self, added: list[Sampling]) -> tuple[dict[str, Any], str]:
        """Everything from the vectors, in one pass; returns ``uniformity.json`` and the state ``new``."""
        n, k = self.table.n, self.run.record["config"]["k"]
        self._announce()
        x = self.table.vectors()
        codes = self.codes if (self.codes >= 0).any() else None
        bandwidths = choose_bandwidths(x, codes, self.settings.t, self.settings.seed)
        samplings = [Sampling("natural", np.full(n, 1 / n)), *added]
        result = self._pass(x, bandwidths, samplings, k, NEAR_DUPLICATE_COSINE)
        pairs = result.pairs
        first = first_with_same_vector(x)
        measured = Measured(
            bandwidths,
            natural=pairs.potentials[0],
            knn_distance=_last_distance(x, pairs.ids),
            nearest=_nearest_different(x, pairs.ids, first),
            first=first,
            near_duplicates=pairs.counts if pairs.counts is not None else np.zeros(n, dtype=np.int64),
            hardness=hardness(x, self.codes),
            log_density=np.empty(0),
        )
        dimension = None if pairs.cosines is None else intrinsic_dimension(pairs.cosines)
        estimator = self._estimate(measured, pairs.cosines, dimension)
        natural = samplings[0].bandwidths
        entries = [scheme_entry(s, x, self.codes, self.groups, measured) for s in samplings]
        best = [self._best(x, first, entry, bandwidths.chosen) for entry in natural]
        rectify(entries, natural, best)
        if self.settings.keep_neighbors:
            if pairs.ids is None or pairs.cosines is None:
                raise KdbiasError("a single sample has no neighbours to keep; leave out --keep-neighbors")
            files.write_neighbors(self.run.out, self.ids, pairs.ids, pairs.cosines, self._provenance({}, 0.0))
        if result.half_widths is not None:
            doc = self._provenance({}, 0.0, coverage=result.search["coverage"])
            files.write_intervals(self.run.out, self.ids, bandwidths.values, result.half_widths[0], doc)
        document = {
            "n": n,
            "d": self.table.d,
            "t_chosen": bandwidths.chosen,
            "bandwidth_rule": bandwidths.rule,
            "search": result.search,
            "estimator": estimator,
            "intrinsic_dimension": dimension,
            "duplicates": measured.counts(),
            "best": best,
            "schemes": entries,
        }
        return self._write(document, measured, samplings, "new")

    def extend(self, added: list[Sampling]) -> tuple[dict[str, Any], str]:
        """Add schemes and groups to a finished measurement, or restate its log density by another estimator.

        What is stored about a scheme stays as it is; a scheme whose manifest has changed is measured anew.

        Returns:
            The content of ``uniformity.json`` and the state: ``finished`` where there was nothing to do.
        """
        out, document = self.run.out, files.read_uniformity(self.run.out)
        if self.settings.keep_neighbors and not (out / files.NEIGHBORS).exists():
            raise KdbiasError(
                f"{out} was measured without --keep-neighbors, so its neighbours are gone; measure "
                "again with --keep-neighbors --overwrite"
            )
        fresh = _fresh(out, added, document)
        known = document["schemes"][0]["groups"]
        new_groups = {name: values for name, values in self.groups.items() if name not in known}
        restated = self._wants_other(document["estimator"])
        if not (fresh or new_groups or restated) and self.run.already_finished():
            return document, "finished"
        measured = files.read_measured(out, document, self.ids)
        samplings = files.read_samplings(out, document)
        if restated:
            cosines = files.read_neighbors(out)[2] if (out / files.NEIGHBORS).exists() else None
            document["estimator"] = self._estimate(measured, cosines, document["intrinsic_dimension"])
        for group, values in new_groups.items():
            for entry in document["schemes"]:
                entry["groups"][group] = group_rows(values, samplings[entry["name"]])
        if fresh:
            self._add(document, measured, samplings, fresh)
        state = "restated" if restated else "extended"
        return self._write(document, measured, list(samplings.values()), state)

    def _add(
        self,
        document: dict[str, Any],
        measured: Measured,
        samplings: dict[str, Sampling],
        fresh: list[Sampling],
    ) -> None:
        """Measure further samplings; they and their entries take the place of those of their name."""
        progress.say(self.plan.announcement(self.table.n, self.table.d))
        x = self.table.vectors()
        result = self._pass(x, measured.bandwidths, fresh, 0, None)
        for sampling in fresh:
            if sampling.name in samplings:
                progress.say(f"{sampling.weights} has changed; scheme {sampling.name!r} is measured anew")
            samplings[sampling.name] = sampling
        places = [list(samplings).index(sampling.name) for sampling in fresh]
        document["search"] = with_quality(document["search"], result.search, places)
        natural = document["schemes"][0]
        groups = {name: self.table.column(name) for name in natural["groups"]}
        made = [scheme_entry(s, x, self.codes, groups, measured) for s in fresh]
        rectify(made, natural["bandwidths"], document["best"])
        entries = {entry["name"]: entry for entry in (*document["schemes"], *made)}
        document["schemes"] = list(entries.values())

    def _announce(self) -> None:
        line = self.plan.announcement(self.table.n, self.table.d)
        if self._best_at != "none":
            where = "every bandwidth" if self._best_at == "all" else "the chosen bandwidth"
            line += (
                f"; on top of that the search for the best re-weighting at {where}, which may take longer "
                "(--rectification none leaves it out)"
            )
        progress.say(line)

    def _pass(
        self, x: np.ndarray, bandwidths: Bandwidths, samplings: list[Sampling], k: int, near: float | None
    ) -> PassResult:
        """One pass; fills in what it says of each sampling."""
        result = self.plan.run(x, bandwidths.values, np.stack([s.p for s in samplings]), k, near)
        chosen = bandwidths.values.index(bandwidths.chosen)
        require_quality(result.search, [s.name for s in samplings], chosen)
        for m, sampling in enumerate(samplings):
            p = sampling.p
            potential = result.pairs.without_self[m, chosen] + p
            # A sample that is never drawn does not see itself: at a large t it may see nothing at all.
            sampling.log_density = np.log(potential, out=np.full(len(p), np.nan), where=potential > 0)
            for i, t in enumerate(bandwidths.values):
                energy, error = float(result.pair_energies[m, i]), result.energy_errors
                relative = float(error[m, i]) / energy if error is not None and energy > 0 else None
                entry = bandwidth_entry(self.table.d, t, p, energy + float(p @ p), energy, relative)
                sampling.bandwidths.append(entry)
        return result

    def _estimate(
        self, measured: Measured, cosines: np.ndarray | None, dimension: float | None
    ) -> dict[str, Any]:
        """Fill in the log densities by the wanted estimator; returns it with the exponent that it took."""
        kind, exponent = self.settings.estimator or "potential", self.settings.exponent
        if kind == "knn" and exponent is None:
            exponent = dimension
        bandwidths = measured.bandwidths
        measured.log_density = log_density(
            kind,
            potential=measured.natural[bandwidths.values.index(bandwidths.chosen)],
            t=bandwidths.chosen,
            knn_distance=measured.knn_distance,
            cosines=cosines,
            exponent=exponent,
        )
        return {"kind": kind, "exponent": exponent}

    def _wants_other(self, stored: dict[str, Any]) -> bool:
        kind, exponent = self.settings.estimator, self.settings.exponent
        if kind is None:
            return False
        return kind != stored["kind"] or (kind == "knn" and exponent not in (None, stored["exponent"]))

    @property
    def _best_at(self) -> str:
        """Bandwidths at which the best re-weighting is searched: ``all``, ``chosen`` or ``none``."""
        if self.settings.rectification == "auto":
            return "all" if self.table.n <= ALL_BANDWIDTHS_UP_TO else "chosen"
        return self.settings.rectification

    def _best(
        self, x: np.ndarray, first: np.ndarray, natural: dict[str, Any], chosen: float
    ) -> dict[str, Any]:
        """The least energy that any re-weighting reaches at this bandwidth, with its certificate."""
        t, reason = natural["t"], natural["reason"]
        distinct = int((first == np.arange(len(first))).sum())
        needed, budget = 2 * distinct * (distinct + TILE) // 2, self.settings.memory
        if t not in {"all": [t], "chosen": [chosen], "none": []}[self._best_at]:
            reason = "not searched at this bandwidth; ask with --rectification all"
        elif needed > budget:
            reason = (
                f"needs {needed / 2**30:,.1f} GiB for the kernel of {counted(distinct, 'distinct sample')}, "
                f"more than --memory {budget / 2**30:,.1f} GiB"
            )
        elif natural["uniformity"] is not None:
            progress.say(f"searching the best re-weighting at t={t:g} (for the rectification)")
            found = solve(x, t, duplicates=first, tolerance=5e-3, memory=budget, threads=self.plan.threads)
            return {
                "t": t,
                "energy": found.energy,
                "natural_energy": found.start_energy,
                "gap": found.gap,
                "ess_share": found.ess,
                "effective_distinct": 1 / found.energy,
                "reason": None if found.proven else "the kernel is approximated, so there is no certificate",
            }
        unknown = ("energy", "natural_energy", "gap", "ess_share", "effective_distinct")
        return {"t": t, **dict.fromkeys(unknown), "reason": reason}

    def _write(
        self, document: dict[str, Any], measured: Measured, samplings: list[Sampling], state: str
    ) -> tuple[dict[str, Any], str]:
        seconds = self.run.record.get("seconds", 0.0) + time.perf_counter() - self.began  # of all calls
        counts = {"samples": self.table.n, **document["duplicates"]}
        more = {"t_chosen": document["t_chosen"], "estimator": document["estimator"]}
        doc = self._provenance(counts, seconds, **more)
        staged = self.run.stage()  # what the files say must agree at any moment
        if state != "extended":
            columns = {name: self.table.column(name) for name in self.table.group_columns}
            files.write_measured(staged, self.ids, self.labels, columns, measured, doc)
        files.write_samplings(staged, self.ids, measured, samplings, doc)
        write_json(staged / files.UNIFORMITY, document)
        self.run.finish(counts, seconds, schemes=[sampling.name for sampling in samplings])
        self.plan.snapshot.unlink(missing_ok=True)
        return document, state

    def _provenance(self, counts: dict[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
        record = self.run.record
        where = str(self.table.path.resolve())
        return provenance.document(
            STAGE.name, record["config"], record["inputs"], counts, seconds, embeddings=where, **more
        )


def _fresh(out: Path, added: list[Sampling], document: dict[str, Any]) -> list[Sampling]:
    """Those that are not measured yet; raises KdbiasError where one is called as one from another file."""
    entries = {entry["name"]: entry for entry in document["schemes"]}
    fresh = [s for s in added if s.fingerprint != entries.get(s.name, {}).get("fingerprint")]
    for sampling in fresh:
        before = entries.get(sampling.name, {}).get("weights")
        if before is not None and os.path.abspath(before) != os.path.abspath(str(sampling.weights)):
            raise KdbiasError(
                f"{out} has a scheme {sampling.name!r} from {before} already; rename {sampling.weights}"
            )
    return fresh


def _last_distance(x: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """(n,) distance to the k-th neighbour; NaN where a sample has none (or none was found)."""
    if ids is None:
        return np.full(len(x), np.nan)
    return np.where(ids[:, -1] < 0, np.nan, pair_distances(x, ids[:, -1]))


def _nearest_different(x: np.ndarray, ids: np.ndarray | None, first: np.ndarray) -> np.ndarray:
    """(n,) distance to the nearest neighbour with another vector; NaN where all k have the same one."""
    result = np.full(len(x), np.nan)
    if ids is None:
        return result
    different = (first[ids] != first[:, None]) & (ids >= 0)
    rows = np.flatnonzero(different.any(axis=1))
    nearest = np.arange(len(x))
    nearest[rows] = ids[rows, different[rows].argmax(axis=1)]
    result[rows] = pair_distances(x, nearest)[rows]
    return result
