"""Tables with a row a sample: what they have in common, and the density table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import NONE
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.tables import columns, fingerprints, provenance
from kdbias.tables.columns import as_names, require_numbers, require_plain
from kdbias.tables.files import MEND, absent
from kdbias.tables.joins import align, as_strings, require_unique, shown
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import read_schema, read_table, require_columns, write_table
from kdbias.tables.run_record import inside
from kdbias.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DENSITY = "density.parquet"
_SHOWN = 5  # first rows
_NUMBERS = ("knn_distance", "log_density", "near_duplicates", columns.WITNESS)
_OWN = (*columns.DENSITY, *columns.SUSPECT, columns.WITNESS)


@dataclass(frozen=True, repr=False)
class SampleTable(Result):
    """A table with one row a sample, in memory.

    Attributes:
        path: the file.
        table: all its columns.
        group_columns: names of those that are not the table's own.
        provenance: what made it ({} for a hand-made file).
        fingerprint: digest of the values.
    """

    path: Path
    table: pa.Table
    group_columns: list[str]
    provenance: dict[str, Any]
    fingerprint: str

    @property
    def n(self) -> int:
        """Samples."""
        return self.table.num_rows

    @property
    def ids(self) -> pa.Array:
        """(n,) large_string, unique."""
        return as_strings(self.table.column("sample_id"))

    @property
    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        if "label" not in self.table.column_names:
            return pa.nulls(self.n, pa.large_string())
        return as_names(self.table.column("label"))

    def blocks(self) -> list[str | Table]:
        """How many samples, and the first rows."""
        first = self.table.slice(0, _SHOWN).to_pylist()
        rows = [{key: _written(value) for key, value in row.items()} for row in first]
        return [f"{self.path}: {counted(self.n, 'sample')}", Table.of(rows, self.table.column_names)]

    def to_pandas(self) -> "pd.DataFrame":
        """All columns, a row a sample; ``attrs["kdbias"]`` is the provenance."""
        frame = self.table.to_pandas()
        frame.attrs["kdbias"] = self.provenance
        return frame


def _written(value: Any) -> str:
    """A value of a first row."""
    return NONE if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def read_samples(
    file: Path,
    what: str,
    needed: Sequence[str],
    numbers: Sequence[str],
    table: pa.Table | None = None,
    apart: Sequence[str] = (),
) -> dict[str, Any]:
    """Read and check a table of samples.

    Args:
        file: Parquet, or whatever ``table`` was read from.
        what: it should be, for messages ("a weight manifest").
        needed: columns that it must have, ``sample_id`` among them.
        numbers: columns that hold numbers where they are there.
        apart: columns that the fingerprint leaves out where they are there.

    Returns:
        What `SampleTable` holds, without its group columns.

    Raises:
        KdbiasError: a column is missing, twice there or of another type, there are no rows, or ids repeat.
    """
    schema = read_schema(file) if table is None else table.schema
    names = schema.names
    if len(set(names)) != len(names):
        raise KdbiasError(f"{file}: column names occur twice ({', '.join(names)})")
    missing = ", ".join(map(repr, (name for name in needed if name not in names)))
    if missing:
        raise KdbiasError(f"{file} is not {what}: no column {missing} (it has: {', '.join(names)})")
    table = read_table(file) if table is None else table
    if not table.num_rows:
        raise KdbiasError(f"{file} holds no samples; {MEND}")
    require_plain(table, file, {"sample_id", "label"}.intersection(names))
    require_numbers(table, file, [name for name in numbers if name in names])
    require_unique(table.column("sample_id"), str(file))
    return {
        "path": file,
        "table": table,
        "provenance": provenance.from_schema(schema, file) or {},
        "fingerprint": fingerprints.of_table(table.select([name for name in names if name not in apart])),
    }


def potential_column(t: float) -> str:
    """Name of the column with the potential at bandwidth t: ``potential_t5``, ``potential_t2.5``."""
    return f"{columns.POTENTIAL}{t:g}"


def write_density(path: str | os.PathLike[str], table: pa.Table, doc: dict[str, Any]) -> None:
    """Write ``density.parquet`` (columns by the contract, section 3)."""
    require_columns(path, table.schema, columns.DENSITY)
    write_table(path, table, doc)


@dataclass(frozen=True, repr=False)
class DensityTable(SampleTable):
    """A density table in memory; its group columns are neither fixed nor potentials.

    Attributes:
        bandwidths: the t of each potential column, ascending.
    """

    bandwidths: list[float]

    def plot(self) -> "Figure":
        """How crowded it is around samples."""
        from kdbias.display import plots

        label, title = "log density; right = crowded", "How crowded it is around samples"
        return plots.figure(plots.histogram(self.numbers("log_density"), label, title))

    @property
    def first_equal(self) -> np.ndarray:
        """(n,) int64 row of the first sample with the same vector, its own where it is the first."""
        rows = np.arange(self.n)
        first = as_strings(self.table.column("duplicate_of"))
        repeats = np.flatnonzero(first.is_valid().to_numpy(zero_copy_only=False))
        if len(repeats):
            rows[repeats] = align(first.take(pa.array(repeats)), self.ids, "duplicate_of", str(self.path))
        return rows

    def only(self, rows: np.ndarray) -> "DensityTable":
        """The table of some rows (m,), ascending; what was measured of them stays as it is.

        Copies are copies of the first that is left.
        """
        first = self.first_equal[rows]
        _, place, group = np.unique(first, return_index=True, return_inverse=True)
        mine = place[group]
        table, name = self.table.take(pa.array(rows)), "duplicate_of"
        ids = as_strings(table.column("sample_id"))
        copies = ids.take(pa.array(mine, mask=mine == np.arange(len(rows))))
        return replace(self, table=table.set_column(table.column_names.index(name), name, copies))

    def numbers(self, name: str) -> np.ndarray:
        """A numeric column as (n,) float64, nulls as NaN."""
        return self.table.column(name).to_numpy().astype(np.float64)

    @property
    def witness(self) -> np.ndarray | None:
        """(n,) float64: > 0 where natural sampling has more than the target, < 0 less; None without one."""
        return self.numbers(columns.WITNESS) if columns.WITNESS in self.table.column_names else None

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
                f"({shown(self.ids, bad)}); {MEND}"
            )
        return values


def read_density(path: str | os.PathLike[str]) -> DensityTable:
    """Read ``density.parquet`` or the folder that ``kdbias uniformity`` wrote.

    Raises:
        KdbiasError: no such file, or none whose columns are those of a density table.
    """
    path = local_path(path)
    file = path / DENSITY if path.is_dir() else path
    if not file.exists():
        if not path.exists():
            raise absent(path, "file or folder")
        raise KdbiasError(
            f"{path} holds no {DENSITY}{inside(path, 'uniformity') or '; make it with kdbias uniformity'}"
        )
    # A target that a folder gets later makes no other data of it: what was made from them stays theirs.
    found = read_samples(file, "a density table", columns.DENSITY, _NUMBERS, apart=(columns.WITNESS,))
    table, names = found["table"], found["table"].column_names
    potentials = [name for name in names if name.startswith(columns.POTENTIAL)]
    require_plain(table, file, names)
    require_numbers(table, file, potentials)
    return DensityTable(
        **found,
        group_columns=[name for name in names if name not in (*_OWN, *potentials)],
        bandwidths=sorted(_bandwidth(name, file) for name in potentials),
    )


def _bandwidth(name: str, where: Path) -> float:
    """The t of a potential's column."""
    try:
        return float(name.removeprefix(columns.POTENTIAL))
    except ValueError:
        raise KdbiasError(f"{where}: the column {name!r} names no bandwidth, as potential_t5 does") from None
