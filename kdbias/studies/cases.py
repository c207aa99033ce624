"""One bias of one data set: its drawn samples, their density, the manifests of all arms, what they measure.

draw/         embedding table of the drawn training samples
density/      density of these, and uniformity.json with an entry for each manifest
weights/      a manifest for each way of drawing, named after its method and a digest of its options
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.measurement.files import read_uniformity
from kdbias.studies.bias import draw
from kdbias.studies.description import Arm, Bias
from kdbias.studies.preparation import PART, Machine, Prepared
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.run_record import RECORD, read_record

MEASURES = ("uniformity", "null", "excess", "effective_distinct", "rectification")


@dataclass(frozen=True)
class Case:
    """A bias of a prepared data set; `key` is the digest in the folder's name."""

    prepared: Prepared
    bias: Bias

    @property
    def name(self) -> str:
        return f"{self.prepared.data.name}/{self.bias.name}"

    @property
    def key(self) -> str:
        return fingerprints.of_json([self.prepared.key, self.bias.draw])[:8]

    @property
    def folder(self) -> Path:
        return self.prepared.folder / f"{self.bias.name}-{self.key}"

    @property
    def draw(self) -> Path:
        return self.folder / "draw"

    @property
    def density(self) -> Path:
        return self.folder / "density"

    @property
    def steps(self) -> int:
        return self.bias.steps or self.prepared.data.steps

    @property
    def is_drawn(self) -> bool:
        record = self.draw / RECORD
        return record.exists() and read_record(self.draw).get("status") == "finished"

    @cached_property
    def samples(self) -> int:
        """How many the finished draw has, by its record: a large draw's parts are not opened for it."""
        return int(read_record(self.draw)["counts"]["samples"])

    def manifest(self, arm: Arm) -> Path:
        options = arm.manifest
        digest = fingerprints.of_json(options)[:8]
        return self.folder / "weights" / f"{options['method']}-{digest}.parquet"


def build_case(case: Case, arms: Iterable[Arm], machine: Machine) -> None:
    """Draw, measure, write every arm's manifest and measure each; what is there already is left."""
    import kdbias

    _write_draw(case)
    measure = {"rectification": "chosen", "threads": machine.threads, **case.prepared.data.measure}
    measured = kdbias.uniformity(case.draw, case.density, **measure)
    chosen = {case.manifest(arm): arm.manifest for arm in arms}
    for path, options in chosen.items():
        kdbias.weights(case.density, path, threads=machine.threads, **options)
    known = {entry["name"] for entry in measured.document["schemes"]}
    new = [path for path, o in chosen.items() if o["method"] != "natural" and path.stem not in known]
    if new:
        kdbias.uniformity(case.draw, case.density, weights=new, **measure)


def _write_draw(case: Case) -> None:
    if case.is_drawn:
        return
    table = EmbeddingTable.open(case.prepared.table)
    part = table.column(PART).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(part == "train")
    taken = pa.array(rows)
    name = case.bias.column
    if name is not None and name not in ("label", *table.group_columns):
        raise KdbiasError(
            f"{case.name}: no column {name!r}; there are label, {', '.join(table.group_columns)}"
        )
    column = None if name is None else table.column(name).take(taken)
    kept = rows[draw(case.bias, table.labels().take(taken), column, len(rows), case.name)]
    taken = pa.array(kept)
    write_embedding_table(
        case.draw,
        table.ids().take(taken),
        table.vectors(np.float16)[kept],
        table.labels().take(taken),
        {column: table.column(column).take(taken) for column in table.group_columns if column != PART},
        inputs={"all": table.fingerprint, "draw": fingerprints.of_json(case.bias.draw)},
    )


def measures(case: Case, arm: Arm) -> dict[str, Any]:
    """The measured numbers of an arm's manifest at the bandwidth that was chosen for the case.

    Also `t`, `samples`, `ess_share`, `max_weight`, and the effective identities where there are labels.
    """
    document = read_uniformity(case.density)
    name = "natural" if arm.manifest["method"] == "natural" else case.manifest(arm).stem
    entry = next(e for e in document["schemes"] if e["name"] == name)
    at = next(b for b in entry["bandwidths"] if b["t"] == document["t_chosen"])
    return {
        "t": document["t_chosen"],
        "samples": document["n"],
        **{measure: at.get(measure) for measure in MEASURES},
        "ess_share": entry["ess"] / document["n"],
        "max_weight": entry.get("max_weight"),
        "effective_identities": entry.get("effective_identities"),
    }
