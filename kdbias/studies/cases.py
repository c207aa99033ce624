"""One bias of one data set: its drawn samples, their density, the manifests of all arms, what they measure.

draw/         embedding table of the drawn training samples
density/      density of these, and uniformity.json with an entry for each manifest
towards-*/    the same against a target, where there is one
weights/      a manifest for each way of drawing, named after its method and a digest of its options
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.measurement.files import UNIFORMITY, read_uniformity
from kdbias.studies.biases import Bias
from kdbias.studies.draws import draw
from kdbias.studies.preparation import AIM, Prepared
from kdbias.studies.samples import COPY, PART, TRAIN, write_rows
from kdbias.studies.settings import REFERENCE, Arm, DataSet, Machine
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.run_record import RECORD, read_record
from kdbias.tables.weight_manifest import read_manifest

MEASURES = ("uniformity", "null", "excess", "effective_distinct", "rectification")


@dataclass(frozen=True)
class Case:
    """A bias of a prepared data set; `key` is the digest in the folder's name."""

    prepared: Prepared
    bias: Bias

    @property
    def data(self) -> DataSet:
        """The data set, as described."""
        return self.prepared.data

    @property
    def name(self) -> str:
        """DATASET/BIAS."""
        return f"{self.data.name}/{self.bias.name}"

    @property
    def key(self) -> str:
        """Digest of what decides the drawn samples."""
        return fingerprints.of_json([self.prepared.key, self.bias.draw])[:8]

    @property
    def folder(self) -> Path:
        """Where all of the case lies."""
        return self.prepared.folder / f"{self.bias.name}-{self.key}"

    @property
    def draw(self) -> Path:
        """Embedding table of the drawn samples."""
        return self.folder / "draw"

    @property
    def density(self) -> Path:
        """Their density folder."""
        return self.folder / "density"

    @property
    def steps(self) -> int:
        """Steps that every student takes."""
        return self.bias.steps or self.data.steps

    @property
    def is_drawn(self) -> bool:
        """Whether the draw is finished."""
        record = self.draw / RECORD
        return record.exists() and read_record(self.draw).get("status") == "finished"

    def manifest(self, arm: Arm) -> Path:
        """The weight manifest by which an arm draws."""
        options = self.identity(arm)
        digest = fingerprints.of_json(options)[:8]
        return self.folder / "weights" / f"{options['method']}-{digest}.parquet"

    def identity(self, arm: Arm) -> dict[str, Any]:
        """What decides an arm's manifest: its options, with what a reference holds in place of its name."""
        return self._aimed(arm.manifest, lambda folder: f"{REFERENCE} {folder.name.rpartition('-')[2]}")

    def options(self, arm: Arm) -> dict[str, Any]:
        """An arm's options of `kdbias.weights`, with the folder of a reference in place of its name."""
        return self._aimed(arm.manifest, str)

    def _aimed(self, options: Mapping[str, Any], named: Callable[[Path], str]) -> dict[str, Any]:
        """Options whose target, where it is a reference of the data set, is named otherwise."""
        name = self.data.named_reference(options.get("towards") or "")
        aim = {} if name is None else {"towards": named(self.prepared.references[name].folder)}
        return {**options, **aim}

    @property
    def aim(self) -> dict[str, Any] | None:
        """The options that name what the manifests are measured against; None for nothing."""
        given = {name: self.data.measure[name] for name in AIM if name in self.data.measure}
        if self.data.reference:
            given.setdefault("towards", REFERENCE)
        return self._aimed(given, str) if given else None

    @property
    def compared(self) -> Path:
        """Where they are measured against it; the folder of a reference says what it holds."""
        about = {name: Path(value).name for name, value in (self.aim or {}).items()}
        return self.folder / f"towards-{fingerprints.of_json(about)[:8]}"


def build_case(case: Case, arms: Iterable[Arm], machine: Machine) -> None:
    """Draw, measure, write every arm's manifest and measure each; what is there already is left."""
    import kdbias

    _write_draw(case)
    measure = {"rectification": "chosen", "threads": machine.threads, **case.prepared.measure}
    kdbias.uniformity(case.draw, case.density, **measure)
    chosen = {case.manifest(arm): arm for arm in arms}
    for path, arm in chosen.items():
        kdbias.weights(case.density, path, threads=machine.threads, **case.options(arm))
    paths = [path for path, arm in chosen.items() if arm.manifest["method"] != "natural"]
    _measure(case.draw, case.density, paths, measure)
    if case.aim is not None:
        _measure(case.draw, case.compared, paths, measure | case.aim | {"rectification": "none"})


def _measure(draw: Path, folder: Path, manifests: Iterable[Path], options: dict[str, Any]) -> None:
    """Measure the draw as these manifests would sample it, too, but for those that are measured already."""
    import kdbias

    known = set()
    if (folder / UNIFORMITY).exists():
        known = {entry["name"] for entry in read_uniformity(folder)["schemes"]}
    new = [path for path in manifests if path.stem not in known]
    if new or not known:
        kdbias.uniformity(draw, folder, weights=new, **options)


def _write_draw(case: Case) -> None:
    """Write the case's training samples, once."""
    if case.is_drawn:
        return
    table = EmbeddingTable.open(case.prepared.table)
    part = table.column(PART).to_numpy(zero_copy_only=False)
    name = getattr(case.bias.chosen, "column", None)
    rows = np.flatnonzero(np.isin(part, (TRAIN, COPY) if name == PART else (TRAIN,)))
    taken = pa.array(rows)
    if name is not None and name not in ("label", *table.group_columns):
        raise KdbiasError(
            f"{case.name}: no column {name!r}; there are label, {', '.join(table.group_columns)}"
        )
    column = None if name is None else table.column(name).take(taken)
    kept = rows[draw(case.bias, table.labels().take(taken), column, len(rows), case.name)]
    inputs = {"all": table.fingerprint, "draw": fingerprints.of_json(case.bias.draw)}
    write_rows(case.draw, table, kept, inputs)


def measures(case: Case, arm: Arm) -> dict[str, Any]:
    """The measured numbers of an arm's manifest at the bandwidth that was chosen for the case.

    Also `t`, `samples`, `ess_share`, `max_weight`, and the effective identities where there are labels. Where
    the data set has a target, `discrepancy` and the share `removed` of natural sampling's; of arms that are
    matched to one, what `bound` them.
    """
    document = read_uniformity(case.density)
    entry = _entry(case, arm, document)
    at = next(b for b in entry["bandwidths"] if b["t"] == document["t_chosen"])
    against = _entry(case, arm, read_uniformity(case.compared))["discrepancy"] if case.aim else {}
    about = read_manifest(case.manifest(arm)).provenance.get("target") if arm.towards else None
    return {
        "t": document["t_chosen"],
        "samples": document["n"],
        **{measure: at.get(measure) for measure in MEASURES},
        "ess_share": entry["ess"] / document["n"],
        "max_weight": entry.get("max_weight"),
        "effective_identities": entry.get("effective_identities"),
        "discrepancy": against.get("value"),
        "removed": against.get("removed"),
        "bound": about and about["bound"],
    }


def _entry(case: Case, arm: Arm, document: dict[str, Any]) -> dict[str, Any]:
    """An arm's scheme in a `uniformity.json`."""
    name = "natural" if arm.manifest["method"] == "natural" else case.manifest(arm).stem
    return next(e for e in document["schemes"] if e["name"] == name)
