"""A measurement in its folder: made, added to, written."""

import os
import time
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement.density import (
    Bandwidths,
    choose_bandwidths,
    hardness,
    intrinsic_dimension,
    log_density,
    pair_distances,
)
from kdbias.measurement.distribution import Scheme, bandwidth_entry, rectify, scheme_entry
from kdbias.measurement.files import (
    NEIGHBORS,
    UNIFORMITY,
    Measured,
    read_measured,
    read_neighbors,
    read_schemes,
    read_uniformity,
    write_intervals,
    write_measured,
    write_neighbors,
    write_schemes,
)
from kdbias.measurement.passes import PassPlan, PassResult, require_quality, with_quality
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE, first_with_same_vector
from kdbias.sphere.equilibrium import solve
from kdbias.sphere.tiles import TILE
from kdbias.tables import provenance
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import encode
from kdbias.tables.run_record import Run

STAGE = "uniformity"
# With --rectification auto the best re-weighting is searched at every bandwidth up to this many samples, at
# the chosen bandwidth alone beyond: the search costs some hundred products with an n x n matrix.
ALL_BANDWIDTHS_UP_TO = 16_384


class Session:
    """One call of `uniformity` on one table and one output folder.

    Args:
        groups: columns to report by.
        plan: how pairs are seen.
        estimator: ``kind`` (None: as it is, at first ``potential``) and ``exponent`` of the log density.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        run: Run,
        groups: dict[str, pa.Array],
        plan: PassPlan,
        estimator: dict[str, Any],
    ) -> None:
        self.table, self.run, self.groups, self.plan, self.estimator = table, run, groups, plan, estimator
        self.ids = table.ids()
        self.labels = table.labels()
        self.codes = encode(self.labels)[0]

    def measure(
        self, added: list[Scheme], keep_neighbors: bool, started: float
    ) -> tuple[dict[str, Any], str]:
        """Everything from the vectors, in one pass; returns ``uniformity.json`` and the state ``new``."""
        config = self.run.record["config"]
        k, n = config["k"], self.table.n
        announcement = self.plan.announcement(n, self.table.d)
        if self._best_at != "none":
            where = "every bandwidth" if self._best_at == "all" else "the chosen bandwidth"
            announcement += (
                f"; on top of that the search for the best re-weighting at {where}, which may take longer "
                "(--rectification none leaves it out)"
            )
        progress.say(announcement)
        x = self.table.vectors()
        codes = self.codes if (self.codes >= 0).any() else None
        bandwidths = choose_bandwidths(x, codes, config["t"], config["seed"])
        schemes = [Scheme("natural", np.full(n, 1 / n)), *added]
        result = self._pass(x, bandwidths, schemes, k, NEAR_DUPLICATE_COSINE)
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
        self._estimate(measured, pairs.cosines, dimension)
        self._fill(schemes, result, bandwidths)
        searched = {"all": bandwidths.values, "chosen": [bandwidths.chosen], "none": []}[self._best_at]
        best = [self._best(x, first, entry, entry["t"] in searched) for entry in schemes[0].bandwidths]
        if keep_neighbors:
            if pairs.ids is None or pairs.cosines is None:
                raise KdbiasError("a single sample has no neighbours to keep; leave out --keep-neighbors")
            write_neighbors(self.run.out, self.ids, pairs.ids, pairs.cosines, self._provenance({}, 0.0))
        if result.half_widths is not None:
            doc = self._provenance({}, 0.0, coverage=result.search["coverage"])
            write_intervals(self.run.out, self.ids, bandwidths.values, result.half_widths[0], doc)
        head = {
            "search": result.search,
            "intrinsic_dimension": dimension,
            "best": best,
        }
        return self._write(x, measured, schemes, head, "new", started)

    def extend(self, added: list[Scheme], keep_neighbors: bool, started: float) -> tuple[dict[str, Any], str]:
        """Add schemes and groups to a finished measurement, or restate its log density by another estimator.

        Returns:
            The content of ``uniformity.json`` and the state: ``finished`` where there was nothing to do.
        """
        document = read_uniformity(self.run.out)
        if keep_neighbors and not (self.run.out / NEIGHBORS).exists():
            raise KdbiasError(
                f"{self.run.out} was measured without --keep-neighbors, so its neighbours are gone; measure "
                "again with --keep-neighbors --overwrite"
            )
        known = {entry["name"]: entry for entry in document["schemes"]}
        fresh = [s for s in added if known.get(s.name, {}).get("fingerprint") != s.fingerprint]
        for scheme in fresh:
            before = known.get(scheme.name, {}).get("weights")
            if before is not None and os.path.abspath(before) != os.path.abspath(str(scheme.weights)):
                raise KdbiasError(
                    f"{self.run.out} has a scheme {scheme.name!r} from {before} already; rename "
                    f"{scheme.weights}"
                )
        old_groups = list(document["schemes"][0]["groups"])
        new_groups = [name for name in self.groups if name not in old_groups]
        other_estimator = self._wants_other(document["estimator"])
        if not fresh and not new_groups and not other_estimator:
            progress.say(f"{self.run.out} is finished: nothing to do")
            return document, "finished"
        measured = read_measured(self.run.out, document, self.ids)
        schemes = read_schemes(self.run.out, document)
        self.groups = {name: self.table.column(name) for name in (*old_groups, *new_groups)}
        if other_estimator:
            stored = (self.run.out / NEIGHBORS).exists()
            cosines = read_neighbors(self.run.out)[2] if stored else None
            self._estimate(measured, cosines, document["intrinsic_dimension"])
        else:
            self.estimator = document["estimator"]
        if fresh:
            progress.say(self.plan.announcement(self.table.n, self.table.d))
        x = self.table.vectors()
        head = {name: document[name] for name in ("search", "intrinsic_dimension", "best")}
        if fresh:
            result = self._pass(x, measured.bandwidths, fresh, 0, None)
            self._fill(fresh, result, measured.bandwidths)
            places = {scheme.name: i for i, scheme in enumerate(schemes)}
            for scheme in fresh:
                if scheme.name in places:
                    progress.say(f"{scheme.weights} has changed; scheme {scheme.name!r} is measured anew")
                    schemes[places[scheme.name]] = scheme
                else:
                    places[scheme.name] = len(schemes)
                    schemes.append(scheme)
            head["search"] = with_quality(head["search"], result.search, [places[s.name] for s in fresh])
        state = "restated" if other_estimator else "extended"
        return self._write(x, measured, schemes, head, state, started)

    def _pass(
        self, x: np.ndarray, bandwidths: Bandwidths, schemes: list[Scheme], k: int, near: float | None
    ) -> PassResult:
        p = np.stack([scheme.p for scheme in schemes])
        result = self.plan.run(x, bandwidths.values, p, k, near)
        chosen = bandwidths.values.index(bandwidths.chosen)
        require_quality(result.search, [scheme.name for scheme in schemes], chosen)
        return result

    def _fill(self, schemes: list[Scheme], result: PassResult, bandwidths: Bandwidths) -> None:
        chosen = bandwidths.values.index(bandwidths.chosen)
        for m, scheme in enumerate(schemes):
            p = scheme.p
            potential = result.pairs.without_self[m, chosen] + p
            # A sample that is never drawn does not see itself: at a large t it may see nothing at all.
            scheme.log_density = np.log(potential, out=np.full(len(p), np.nan), where=potential > 0)
            scheme.bandwidths = []
            for i, t in enumerate(bandwidths.values):
                energy, error = float(result.pair_energies[m, i]), result.energy_errors
                relative = float(error[m, i]) / energy if error is not None and energy > 0 else None
                entry = bandwidth_entry(self.table.d, t, p, energy + float(p @ p), energy, relative)
                scheme.bandwidths.append(entry)

    def _estimate(self, measured: Measured, cosines: np.ndarray | None, dimension: float | None) -> None:
        """Fill in the log densities by the wanted estimator, and say which exponent it took."""
        if self.estimator["kind"] is None:
            self.estimator = {**self.estimator, "kind": "potential"}
        if self.estimator["kind"] == "knn" and self.estimator["exponent"] is None:
            self.estimator = {**self.estimator, "exponent": dimension}
        bandwidths = measured.bandwidths
        measured.log_density = log_density(
            self.estimator["kind"],
            potential=measured.natural[bandwidths.values.index(bandwidths.chosen)],
            t=bandwidths.chosen,
            knn_distance=measured.knn_distance,
            cosines=cosines,
            exponent=self.estimator["exponent"],
        )

    def _wants_other(self, stored: dict[str, Any]) -> bool:
        kind, exponent = self.estimator["kind"], self.estimator["exponent"]
        if kind is None:
            return False
        return kind != stored["kind"] or (kind == "knn" and exponent not in (None, stored["exponent"]))

    @property
    def _best_at(self) -> str:
        """Bandwidths at which the best re-weighting is searched: ``all``, ``chosen`` or ``none``."""
        which: str = self.run.record["config"]["rectification"]
        if which == "auto":
            return "all" if self.table.n <= ALL_BANDWIDTHS_UP_TO else "chosen"
        return which

    def _best(
        self, x: np.ndarray, first: np.ndarray, natural: dict[str, Any], wanted: bool
    ) -> dict[str, Any]:
        """The least energy that any re-weighting reaches at this bandwidth, with its certificate."""
        t = natural["t"]
        unknown = ("energy", "natural_energy", "gap", "ess_share", "effective_distinct")
        none: dict[str, Any] = {"t": t} | dict.fromkeys(unknown)
        if not wanted:
            return {**none, "reason": "not searched at this bandwidth; ask with --rectification all"}
        distinct = len(np.unique(first))
        needed = 2 * distinct * (distinct + TILE) // 2
        budget, threads = self.plan.budget, self.plan.threads
        if needed > budget:
            return {
                **none,
                "reason": f"needs {needed / 2**30:,.1f} GiB for the kernel of {distinct:,} distinct samples, "
                f"more than --memory {budget / 2**30:,.1f} GiB",
            }
        if natural["uniformity"] is None:
            return {**none, "reason": natural["reason"]}
        progress.say(f"searching the best re-weighting at t={t:g} (for the rectification)")
        found = solve(x, t, duplicates=first, tolerance=5e-3, memory=budget, threads=threads)
        return {
            "t": t,
            "energy": found.energy,
            "natural_energy": found.start_energy,
            "gap": found.gap,
            "ess_share": found.ess,
            "effective_distinct": 1 / found.energy,
            "reason": None if found.proven else "the kernel is approximated, so there is no certificate",
        }

    def _write(
        self,
        x: np.ndarray,
        measured: Measured,
        schemes: list[Scheme],
        head: dict[str, Any],
        state: str,
        started: float,
    ) -> tuple[dict[str, Any], str]:
        entries = [
            scheme_entry(s, x, self.codes, self.groups, measured.hardness, measured.nearest) for s in schemes
        ]
        rectify(entries, entries[0]["bandwidths"], head["best"])
        counts = measured.counts()
        document = {
            "n": self.table.n,
            "d": self.table.d,
            "t_chosen": measured.bandwidths.chosen,
            "bandwidth_rule": measured.bandwidths.rule,
            "search": head["search"],
            "estimator": self.estimator,
            "intrinsic_dimension": head["intrinsic_dimension"],
            "duplicates": counts,
            "best": head["best"],
            "schemes": entries,
        }
        seconds = self.run.record.get("seconds", 0.0) + time.perf_counter() - started  # of all calls
        doc = self._provenance(
            {"samples": self.table.n, **counts},
            seconds,
            t_chosen=document["t_chosen"],
            estimator=self.estimator,
        )
        columns = {name: self.table.column(name) for name in self.table.group_columns}
        staged = self.run.stage()  # what the files say must agree at any moment
        if state in ("new", "restated"):
            write_measured(staged, self.ids, self.labels, columns, measured, doc)
        write_schemes(staged, self.ids, measured, schemes, doc)
        write_json(staged / UNIFORMITY, document)
        self.run.finish(doc["counts"], seconds, schemes=[s.name for s in schemes])
        if self.plan.snapshot is not None:
            self.plan.snapshot.unlink(missing_ok=True)
        return document, state

    def _provenance(self, counts: dict[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
        record = self.run.record
        where = str(self.table.path.resolve())
        return provenance.document(
            STAGE, record["config"], record["inputs"], counts, seconds, embeddings=where, **more
        )


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
