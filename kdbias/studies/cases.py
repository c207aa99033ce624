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
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.measurement.files import read_uniformity
from kdbias.studies.preparation import PART, Prepared, write_rows
from kdbias.studies.settings import Arm, Bias, DataSet, Fraction, LongTail, Machine, Skew
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.run_record import RECORD, read_record

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
        """Steps that every student takes, whole epochs apart."""
        return self.bias.steps or self.data.steps

    @property
    def is_drawn(self) -> bool:
        """Whether the draw is finished."""
        record = self.draw / RECORD
        return record.exists() and read_record(self.draw).get("status") == "finished"

    @cached_property
    def samples(self) -> int:
        """How many the finished draw has, by its record: a large draw's parts are not opened for it."""
        return int(read_record(self.draw)["counts"]["samples"])

    def manifest(self, arm: Arm) -> Path:
        """The weight manifest by which an arm draws."""
        options = arm.manifest
        digest = fingerprints.of_json(options)[:8]
        return self.folder / "weights" / f"{options['method']}-{digest}.parquet"


def build_case(case: Case, arms: Iterable[Arm], machine: Machine) -> None:
    """Draw, measure, write every arm's manifest and measure each; what is there already is left."""
    import kdbias

    _write_draw(case)
    measure = {"rectification": "chosen", "threads": machine.threads, **case.data.measure}
    measured = kdbias.uniformity(case.draw, case.density, **measure)
    chosen = {case.manifest(arm): arm.manifest for arm in arms}
    for path, options in chosen.items():
        kdbias.weights(case.density, path, threads=machine.threads, **options)
    known = {entry["name"] for entry in measured.document["schemes"]}
    new = [path for path, o in chosen.items() if o["method"] != "natural" and path.stem not in known]
    if new:
        kdbias.uniformity(case.draw, case.density, weights=new, **measure)


def _write_draw(case: Case) -> None:
    """Write the case's training samples, once."""
    if case.is_drawn:
        return
    table = EmbeddingTable.open(case.prepared.table)
    part = table.column(PART).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(part == "train")
    taken = pa.array(rows)
    name = getattr(case.bias.chosen, "column", None)
    if name is not None and name not in ("label", *table.group_columns):
        raise KdbiasError(
            f"{case.name}: no column {name!r}; there are label, {', '.join(table.group_columns)}"
        )
    column = None if name is None else table.column(name).take(taken)
    kept = rows[draw(case.bias, table.labels().take(taken), column, len(rows), case.name)]
    inputs = {"all": table.fingerprint, "draw": fingerprints.of_json(case.bias.draw)}
    write_rows(case.draw, table, kept, inputs)


def draw(bias: Bias, labels: pa.Array | None, column: pa.Array | None, n: int, where: str) -> np.ndarray:
    """Rows of the samples that a bias keeps, ascending int64; a function of the arguments alone.

    Args:
        labels: (n,) texts, for a long tail.
        column: (n,) values of the bias's column, for a skew.
        n: how many samples there are to draw from.
        where: what messages call the case.

    Raises:
        KdbiasError: more samples asked for than there are, or a label that is missing.
    """
    rng, kind = np.random.default_rng(bias.seed), bias.chosen
    if isinstance(kind, LongTail):
        return _long_tail(kind, labels, rng, where)
    if isinstance(kind, Skew):
        assert column is not None
        return _skew(kind, column, rng, where)
    if isinstance(kind, Fraction):
        count = round(n * (kind.fraction or 0)) if kind.samples is None else kind.samples
        return np.sort(_chosen(rng, np.arange(n), count, "samples", where))
    return np.arange(n)


def _long_tail(bias: LongTail, labels: pa.Array | None, rng: np.random.Generator, where: str) -> np.ndarray:
    """Class number c of C keeps m * imbalance^(-c / (C - 1)) samples, at least 1; the seed orders classes.

    m is `samples`, or the size of the smallest class.
    """
    if labels is None or labels.null_count:
        raise KdbiasError(f"{where}: a long tail needs a label for every sample")
    encoded = pc.dictionary_encode(labels)
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    if len(names) < 2:
        raise KdbiasError(f"{where}: a long tail needs two classes or more")
    smallest = int(np.bincount(codes).min())
    most = smallest if bias.samples is None else bias.samples
    _require_enough(most, smallest, "samples of the largest class", where)
    kept = []
    for place, code in enumerate(rng.permutation(np.argsort(names, kind="stable"))):
        count = max(1, round(most * float(bias.imbalance) ** (-place / (len(names) - 1))))
        kept.append(rng.choice(np.flatnonzero(codes == code), count, replace=False))
    return np.sort(np.concatenate(kept))


def _skew(bias: Skew, column: pa.Array, rng: np.random.Generator, where: str) -> np.ndarray:
    """Rows drawn with one value at its share, int (samples,), sorted."""
    hit = pc.equal(pc.cast(column, pa.large_string()), bias.value).fill_null(False)
    hit = hit.to_numpy(zero_copy_only=False)
    count = round(bias.share * bias.samples)
    own = _chosen(rng, np.flatnonzero(hit), count, f"samples with {bias.column}={bias.value}", where)
    others = _chosen(rng, np.flatnonzero(~hit), bias.samples - count, "other samples", where)
    return np.sort(np.concatenate([own, others]))


def _chosen(rng: np.random.Generator, rows: np.ndarray, count: int, what: str, where: str) -> np.ndarray:
    """`count` of these rows, drawn without replacement."""
    _require_enough(count, len(rows), what, where)
    return rng.choice(rows, count, replace=False)


def _require_enough(count: int, available: int, what: str, where: str) -> None:
    """Refuse to draw none, or more samples than there are."""
    if not 0 < count <= available:
        raise KdbiasError(f"{where}: asks for {count:,} {what}; there are {available:,}")


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
