"""A measurement in its folder: made, added to, written."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement import best, files
from kdbias.measurement.comparison import another, remembered
from kdbias.measurement.density import (
    Measured,
    choose_bandwidths,
    hardness,
    intrinsic_dimension,
    last_distance,
    log_density,
    nearest_different,
)
from kdbias.measurement.distribution import Sampling, rectify, regroup, scheme_entry
from kdbias.measurement.passes import PassPlan
from kdbias.measurement.search_quality import with_quality
from kdbias.measurement.sight import Sight
from kdbias.measurement.suspects import judged
from kdbias.sphere.duplicates import NEAR_DUPLICATE_COSINE, first_with_same_vector
from kdbias.sphere.room import beside, filled
from kdbias.tables import provenance
from kdbias.tables.columns import encode_parts
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.run_record import Run, Stage
from kdbias.targets.opening import OpenTarget

STAGE = Stage(
    "uniformity",
    files=("uniformity.json", *files.TABLES),
    folders=("pairs",),
    passing=("pass.npz",),
    later=("rectification",),
)


@dataclass(frozen=True)
class _Asked:
    """What a call asks of a finished measurement that it does not hold.

    Attributes:
        fresh: samplings to measure, those of a changed manifest among them.
        groups: columns to report by.
        restated: log densities by another estimator.
        retargeted: all schemes held against another target.
        sought: bandwidths at which the best re-weighting is to be searched.
        nearest: the re-weighting nearest to the target is to be searched.
    """

    fresh: list[Sampling]
    groups: dict[str, pa.Array]
    restated: bool
    retargeted: bool
    sought: list[float]
    nearest: bool

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Session:
    """One call of `uniformity` on one table and one output folder.

    Args:
        groups: columns to report by.
        plan: how pairs are seen.
        aim: the target that was named; None for that of the folder, if it has one.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        run: Run,
        groups: dict[str, pa.Array],
        plan: PassPlan,
        aim: OpenTarget | None = None,
    ) -> None:
        self.began = time.perf_counter()
        self.table, self.run, self.groups, self.plan, self.settings = table, run, groups, plan, plan.settings
        self._load = EmbeddingTable.vectors if plan.blocks is None else plan.blocks.reference
        self.aim = aim if aim is None else aim.loaded(self._load)
        self.ids, self.labels = table.id_parts(), table.column_parts("label")
        self.codes, self.names = encode_parts(self.labels)

    def complete(self, added: list[Sampling]) -> tuple[dict[str, Any], str]:
        """Measure all, or what a finished folder lacks; returns ``uniformity.json`` and what was done."""
        return self._extend(added) if self.run.state == "finished" else self._measure(added)

    def _measure(self, added: list[Sampling]) -> tuple[dict[str, Any], str]:
        """Everything from the vectors, in one pass; returns ``uniformity.json`` and the state ``new``."""
        n, k = self.table.n, self.run.record["config"]["k"]
        search = best.announcement(self.settings.rectification, n, self.table.d, self.plan.resources)
        progress.say(self.plan.announcement(n, self.table.d) + search)
        x = self.plan.vectors(self.table, k, 1 + len(added))
        self.codes = beside(x, self.codes)
        codes = self.codes if (self.codes >= 0).any() else None
        bandwidths = choose_bandwidths(x, codes, self.settings.t, self.settings.seed)
        samplings = [Sampling("natural", filled(x, n, 1 / n)), *added]
        sight = Sight(self.table, x, self.plan, self.aim)
        result = sight.measure(samplings, bandwidths, k, NEAR_DUPLICATE_COSINE)
        assert result is not None
        pairs, first = result.pairs, first_with_same_vector(x)
        target = sight.compare(samplings, samplings[0], first)
        measured = Measured(
            bandwidths,
            natural=pairs.first_potentials(),
            knn_distance=last_distance(x, pairs.ids),
            nearest=nearest_different(x, pairs.ids, first),
            first=first,
            near_duplicates=pairs.counts if pairs.counts is not None else np.zeros(n, dtype=np.int64),
            hardness=hardness(x, self.codes),
        )
        seen, labels = self.table.image_facts(), (self.codes, self.names)
        measured.suspects, suspects = judged(x, self.ids, labels, seen, measured, pairs, self.plan.device)
        dimension = None if pairs.cosines is None else intrinsic_dimension(pairs.cosines)
        estimator = self._estimate(measured, pairs.cosines, dimension)
        measured.log_density = beside(x, measured.log_density)
        natural = samplings[0].bandwidths
        entries = [scheme_entry(s, x, self.codes, self.groups, measured) for s in samplings]
        least = best.not_searched(natural)
        sought = best.sought(least, natural, self.settings.rectification, bandwidths.chosen)
        least = best.search_best(least, sought, x, first, self.plan.resources)
        rectify(entries, natural, least)
        if self.settings.keep_neighbors:
            if pairs.ids is None or pairs.cosines is None:
                raise KdbiasError("a single sample has no neighbours to keep; leave out --keep-neighbors")
            files.write_neighbors(self._sheet(self.run.out, {}, 0.0), pairs.ids, pairs.cosines)
        if result.half_widths is not None:
            sheet = self._sheet(self.run.out, {}, 0.0, coverage=result.search["coverage"])
            files.write_intervals(sheet, bandwidths.values, result.half_widths[0])
        document = {
            "n": n,
            "d": self.table.d,
            "t_chosen": bandwidths.chosen,
            "bandwidth_rule": bandwidths.rule,
            "search": result.search,
            "estimator": estimator,
            "intrinsic_dimension": dimension,
            "duplicates": measured.counts(),
            "best": least,
            "target": target,
            "suspects": suspects,
            "schemes": entries,
        }
        return self._write(document, measured, samplings, "new")

    def _extend(self, added: list[Sampling]) -> tuple[dict[str, Any], str]:
        """Add schemes, groups and a target to a finished measurement, or restate its log density.

        What is stored about a scheme stays as it is; a scheme whose manifest has changed is measured anew,
        and so is how far all schemes are from a target where another one is named.

        Returns:
            The content of ``uniformity.json`` and the state: ``finished`` where there was nothing to do.
        """
        out, document = self.run.out, files.read_uniformity(self.run.out)
        if self.settings.keep_neighbors:
            files.require_neighbors(out)
        asked = self._asked(document, added)
        if not asked and self.run.already_finished():
            self.plan.clean()  # what a kill right after the end has left
            return document, "finished"
        measured = files.read_measured(out, document, self.ids)
        samplings = files.read_samplings(out, document)
        if asked.restated:
            document["estimator"] = self._estimate(
                measured, files.stored_cosines(out), document["intrinsic_dimension"]
            )
        if asked.fresh or asked.retargeted:
            self._add(document, measured, samplings, asked)
        limits = measured.first, self.plan.resources
        if asked.sought:
            document["best"] = best.search_best(document["best"], asked.sought, self.table.vectors(), *limits)
            rectify(document["schemes"], document["schemes"][0]["bandwidths"], document["best"])
        if asked.nearest and self.aim is not None:
            best.add_nearest(document, self.table.vectors(), self.aim, *limits)
        regroup(document["schemes"], samplings, self.groups if asked.retargeted else asked.groups)
        state, whole = "restated" if asked.restated else "extended", asked.restated or asked.retargeted
        return self._write(document, measured, list(samplings.values()), state, whole)

    def _asked(self, document: dict[str, Any], added: list[Sampling]) -> _Asked:
        """What is to be done to a folder; a target that it remembers is opened where that takes one."""
        fresh = files.not_measured(self.run.out, added, document)
        known, target = document["schemes"][0]["groups"], document["target"]
        retargeted = self._aims_anew(target, bool(fresh))
        return _Asked(
            fresh,
            {name: values for name, values in self.groups.items() if name not in known},
            self._wants_other(document["estimator"]),
            retargeted,
            self._sought(document),
            self._seeks_nearest(target, retargeted),
        )

    def _aims_anew(self, target: dict[str, Any] | None, fresh: bool) -> bool:
        """Whether all schemes are to be compared with another target than the folder has.

        Where none is named, fresh ones are compared with that of the folder.
        """
        if self.aim is not None:
            return another(self.aim, target, self.run)
        if target is not None and fresh:
            self.aim = remembered(self.run, target, self.table, self._load)
        return False

    def _add(
        self, document: dict[str, Any], measured: Measured, samplings: dict[str, Sampling], asked: _Asked
    ) -> None:
        """Measure further samplings; they and their entries take the place of those of their name.

        Where the target is another one, all the others are compared with it, too.
        """
        natural, fresh = document["schemes"][0], asked.fresh
        self.groups = {name: self.table.column(name) for name in natural["groups"]} | self.groups
        others = samplings.keys() - {sampling.name for sampling in fresh} if asked.retargeted else set()
        stored = [sampling for name, sampling in samplings.items() if name in others]
        progress.say(self.plan.announcement(self.table.n, self.table.d))
        x = self.plan.vectors(self.table, 0, len(fresh) + len(stored))
        sight = Sight(self.table, x, self.plan, self.aim)
        result = sight.measure(fresh, measured.bandwidths, stored=stored)
        for sampling in fresh:
            if sampling.name in samplings:
                progress.say(f"{sampling.weights} has changed; scheme {sampling.name!r} is measured anew")
            samplings[sampling.name] = sampling
        known = None if stored else document["target"]
        document["target"] = sight.compare([*fresh, *stored], samplings["natural"], measured.first, known)
        if result is not None:
            places = [list(samplings).index(sampling.name) for sampling in fresh]
            document["search"] = with_quality(document["search"], result.search, places)
        made = [scheme_entry(s, x, self.codes, self.groups, measured) for s in fresh]
        rectify(made, natural["bandwidths"], document["best"])
        entries = {entry["name"]: entry for entry in (*document["schemes"], *made)}
        document["schemes"] = list(entries.values())

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

    def _seeks_nearest(self, target: dict[str, Any] | None, retargeted: bool) -> bool:
        """Whether the re-weighting nearest to the folder's target is to be searched now."""
        if target is None or retargeted or self.settings.rectification != "all":
            return False
        if target["best"]["reason"] != best.NEAREST_NOT_SEARCHED:
            return False
        self.aim = self.aim or remembered(self.run, target, self.table, self._load)
        return True

    def _sought(self, document: dict[str, Any]) -> list[float]:
        """Bandwidths of a folder at which the best re-weighting is asked for and not known."""
        asked, natural = self.settings.rectification, document["schemes"][0]["bandwidths"]
        if asked == "auto":
            return []
        distinct = self.table.n - document["duplicates"]["exact_duplicates"]
        room = self.plan.resources.no_room(distinct)
        return best.sought(document["best"], natural, asked, document["t_chosen"], room)

    def _write(
        self,
        document: dict[str, Any],
        measured: Measured,
        samplings: list[Sampling],
        state: str,
        whole: bool = True,
    ) -> tuple[dict[str, Any], str]:
        """Write all files that may have changed: the density table where ``whole``."""
        seconds = self.run.record.get("seconds", 0.0) + time.perf_counter() - self.began  # of all calls
        counts = {"samples": self.table.n, **document["duplicates"]}
        more = {"t_chosen": document["t_chosen"], "estimator": document["estimator"]}
        kept: dict[str, Any] = {"schemes": [sampling.name for sampling in samplings]}
        if document["target"] is not None:
            kept_of = ("kind", "fingerprints", "with", "cluster_by")
            more["target"] = {name: document["target"].get(name) for name in kept_of}
        if self.aim is not None:
            kept["paths"] = {"towards": self.aim.named.placed}
        sheet = self._sheet(self.run.stage(), counts, seconds, **more)  # files must agree at any moment
        if whole:
            columns = {name: self.table.column_parts(name) for name in self.table.group_columns}
            files.write_measured(sheet, self.labels, columns, measured, samplings[0].witness)
        files.write_samplings(sheet, measured, samplings)
        write_json(sheet.out / files.UNIFORMITY, document)
        self.run.finish(counts, seconds, **kept)
        self.plan.clean()
        return document, state

    def _sheet(self, out: Path, counts: dict[str, Any], seconds: float, **more: Any) -> files.Sheet:
        """What the tables have in common that are written into a folder."""
        record = self.run.record
        more |= {"embeddings": str(self.table.path.resolve())}
        doc = provenance.document(STAGE.name, record["config"], record["inputs"], counts, seconds, **more)
        return files.Sheet(out, self.ids, self.table.cut, doc)
