"""Which samples of a data set are trained on, judged on and kept for references; tables of some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.filters import matching
from kdbias.data.source import Source, require_column
from kdbias.errors import KdbiasError
from kdbias.studies.biases import Reference
from kdbias.studies.draws import require_enough
from kdbias.studies.settings import DataSet
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.joins import encode
from kdbias.wording import counted

PART = "study_part"
TRAIN, TEST, RESERVE, COPY = "train", "test", "reserve", "copy"
"""Its values; a copy is a near duplicate of a training sample."""


def parts_of(source: Source, data: DataSet) -> np.ndarray:
    """(n,) texts: train, test, reserve, or empty for samples that are neither.

    Raises:
        KdbiasError: samples of two parts, or people that are reserved as a whole and judged all the same.
    """
    named = {TRAIN: data.train_where, TEST: data.test_where, RESERVE: data.reference_where}
    found = {part: satisfying(source, where, part == TRAIN) for part, where in named.items()}
    train, test, reserve = found.values()
    if data.holdout is not None:
        rows = np.flatnonzero(train & ~reserve)
        rng = np.random.default_rng(data.holdout_seed)
        held_out = rng.choice(rows, round(data.holdout * len(rows)), replace=False)
        train[held_out], test[held_out] = False, True
    for one, other in ((train, test), (train, reserve), (test, reserve)):
        if (one & other).any():
            names = " and ".join(part for part, mask in found.items() if mask is one or mask is other)
            both = counted(int((one & other).sum()), "sample", "is/are")
            raise KdbiasError(f"data.{data.name}: {both} both {names}")
    own = np.select([train, test, reserve], [TRAIN, TEST, RESERVE], "")
    return own if data.deployment is not None else keep_references(source, data, own)


def keep_references(source: Source, data: DataSet, part: np.ndarray) -> np.ndarray:
    """The parts (n,) after some of the test samples are kept for references, as described.

    Raises:
        KdbiasError: none is left to judge on, or people that are reserved as a whole and judged all the same.
    """
    test, reserve = part == TEST, part == RESERVE
    units = None if data.reserve_by is None else _units(source, data.reserve_by, data.name)
    if data.reserve is not None:
        kept = _reserved(data, np.flatnonzero(test), units)
        test[kept], reserve[kept] = False, True
        if not test.any():
            raise KdbiasError(f"data.{data.name}: reserve leaves no sample to judge on; reserve less")
    if units is not None and len(shared := np.intersect1d(units[test], units[reserve])):
        raise KdbiasError(
            f"data.{data.name}: {counted(len(shared), 'value')} of {data.reserve_by} would be in the test "
            "samples and in the references"
        )
    return np.where(reserve, RESERVE, part)


def satisfying(source: Source, where: tuple[str, ...], default: bool) -> np.ndarray:
    """(n,) bool: the samples that satisfy the conditions; `default` of all without any."""
    found = matching(source, where)
    return np.full(source.n, default) if found is None else found


def _units(source: Source, column: str, name: str) -> np.ndarray:
    """(n,) codes of the values of a column; a sample without one is refused."""
    require_column(f"data.{name}.reserve_by", column, source.columns())
    codes = encode(pc.cast(source.column(column), pa.large_string()))[0]
    if (codes < 0).any():
        raise KdbiasError(f"data.{name}: {int((codes < 0).sum()):,} samples have no {column} to reserve by")
    return codes


def _reserved(data: DataSet, rows: np.ndarray, units: np.ndarray | None) -> np.ndarray:
    """Some of the test samples, drawn one by one, or value by value of the column."""
    rng, wanted = np.random.default_rng(data.reserve_seed), round((data.reserve or 0) * len(rows))
    if units is None:
        return rng.choice(rows, wanted, replace=False)
    order = rng.permutation(np.unique(units[rows]))
    ends = np.cumsum([np.count_nonzero(units[rows] == unit) for unit in order])
    return rows[np.isin(units[rows], order[: np.searchsorted(ends, wanted) + 1])]


@dataclass(frozen=True)
class ReferenceTable:
    """A reference in its folder, to be drawn from a table."""

    folder: Path
    source: Path
    wanted: Reference

    def write(self) -> None:
        """Draw it, where that is not done."""
        table, place = EmbeddingTable.open(self.source), self.wanted.place
        columns = {"label": table.labels(), **{name: table.column(name) for name in table.group_columns}}
        keep = matching(_Columns(columns), self.wanted.where)
        rows = np.arange(table.n) if keep is None else np.flatnonzero(keep)
        order = np.random.default_rng(self.wanted.seed).permutation(rows)[self.wanted.skip :]
        count = len(order) if self.wanted.samples is None else self.wanted.samples
        require_enough(count, len(order), "reserved samples", place)
        drawn = fingerprints.of_json(self.wanted.draw)
        write_rows(self.folder, table, np.sort(order[:count]), {"reserve": table.fingerprint, "draw": drawn})


@dataclass(frozen=True)
class _Columns:
    """Columns that conditions are about."""

    by_name: dict[str, pa.Array]

    def columns(self) -> dict[str, pa.Array]:
        """Values by name."""
        return self.by_name


def texts(values: np.ndarray) -> pa.Array:
    """Texts as a column."""
    return pa.array(values.tolist(), pa.large_string())


def write_rows(
    out: Path,
    table: EmbeddingTable,
    rows: np.ndarray,
    inputs: dict[str, str],
    more: dict[str, pa.Array] | None = None,
) -> None:
    """Write these rows (int, ascending) of an embedding table as another, `more` columns in place of PART."""
    taken = pa.array(rows)
    groups = {name: table.column(name).take(taken) for name in table.group_columns if name != PART}
    vectors, labels = table.vectors(np.float16)[rows], table.labels().take(taken)
    write_embedding_table(out, table.ids().take(taken), vectors, labels, groups | (more or {}), inputs=inputs)
