"""The density table: how crowded the neighbourhood of each sample is."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables import columns, fingerprints, provenance
from kdbias.tables.files import MEND
from kdbias.tables.joins import align, as_strings, require_unique, shown
from kdbias.tables.parquet_file import read_schema, read_table, write_table
from kdbias.tables.plain import require_numbers, require_plain

DENSITY = "density.parquet"


def potential_column(t: float) -> str:
    """Name of the column with the potential at bandwidth t: ``potential_t5``, ``potential_t2.5``."""
    return f"{columns.POTENTIAL}{t:g}"


def write_density(path: str | os.PathLike[str], table: pa.Table, doc: dict[str, Any]) -> None:
    """Write ``density.parquet`` (columns by the contract, section 3)."""
    missing = [name for name in columns.DENSITY if name not in table.column_names]
    if missing:
        raise KdbiasError(f"a density table needs the column(s) {', '.join(missing)}")
    write_table(path, table, doc)


@dataclass(frozen=True)
class DensityTable:
    """A density table in memory.

    Attributes:
        path: the Parquet file.
        table: all its columns.
        group_columns: names of columns that are neither fixed nor potentials.
        bandwidths: the t of each potential column, ascending.
        provenance: what made it.
        fingerprint: digest of the values.
    """

    path: Path
    table: pa.Table
    group_columns: list[str]
    bandwidths: list[float]
    provenance: dict[str, Any]
    fingerprint: str

    @property
    def n(self) -> int:
        return self.table.num_rows

    @property
    def ids(self) -> pa.Array:
        return as_strings(self.table.column("sample_id"))

    @property
    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        return as_strings(self.table.column("label"))

    @property
    def first_equal(self) -> np.ndarray:
        """(n,) int64 row of the first sample with the same vector, its own where it is the first."""
        rows = np.arange(self.n)
        first = as_strings(self.table.column("duplicate_of"))
        repeats = np.flatnonzero(first.is_valid().to_numpy(zero_copy_only=False))
        if len(repeats):
            rows[repeats] = align(first.take(pa.array(repeats)), self.ids, "duplicate_of", str(self.path))
        return rows

    def numbers(self, name: str) -> np.ndarray:
        """A numeric column as (n,) float64, nulls as NaN."""
        return self.table.column(name).to_numpy().astype(np.float64)

    def potential(self, t: float) -> np.ndarray:
        """(n,) float64 natural potentials at bandwidth t; refuses a t that was not measured."""
        name = potential_column(t)
        if name not in self.table.column_names:
            measured = ", ".join(f"{b:g}" for b in self.bandwidths)
            raise KdbiasError(f"{self.path} has no potential at t={t:g}; measured: {measured}")
        values = self.numbers(name)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise KdbiasError(
                f"{self.path}: {len(bad):,} of {self.n:,} values of {name} are not finite numbers > 0 "
                f"({shown(self.ids.take(pa.array(bad[:4])))}); {MEND}"
            )
        return values


def read_density(path: str | os.PathLike[str]) -> DensityTable:
    """Read ``density.parquet`` or the folder that ``kdbias uniformity`` wrote."""
    file = Path(path) / DENSITY if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise KdbiasError(f"{path} holds no {DENSITY}; make it with kdbias uniformity")
    schema = read_schema(file)
    missing = [name for name in columns.DENSITY if name not in schema.names]
    if missing:
        raise KdbiasError(f"{file} is not a density table (missing: {', '.join(missing)})")
    table = read_table(file)
    if not table.num_rows:
        raise KdbiasError(f"{file} holds no samples; {MEND}")
    potentials = {name: _bandwidth(name, file) for name in schema.names if name.startswith(columns.POTENTIAL)}
    require_plain(table, file, schema.names)
    require_numbers(table, file, ["knn_distance", "log_density", "near_duplicates", *potentials])
    require_unique(table.column("sample_id"), str(file))
    return DensityTable(
        path=file,
        table=table,
        group_columns=[name for name in schema.names if name not in (*columns.DENSITY, *potentials)],
        bandwidths=sorted(potentials.values()),
        provenance=provenance.from_schema(schema, file) or {},
        fingerprint=fingerprints.of_table(table),
    )


def _bandwidth(name: str, where: Path) -> float:
    """The t of a potential's column."""
    try:
        return float(name.removeprefix(columns.POTENTIAL))
    except ValueError:
        raise KdbiasError(f"{where}: the column {name!r} names no bandwidth, as potential_t5 does") from None
