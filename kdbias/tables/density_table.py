"""Tables with a row a sample: what they have in common, and the density table."""

import os
from collections.abc import Iterable, Sequence
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
from kdbias.tables.columns import as_names, encode_parts, refuse_repeated, require_numbers, require_plain
from kdbias.tables.files import MEND, absent
from kdbias.tables.joins import ColumnParts, Ids, align, as_strings, require_unique, shown
from kdbias.tables.listing import cut_of, located, part_names
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import read_schema, read_table, require_columns, write_table
from kdbias.tables.parted_table import PartedTable
from kdbias.tables.run_record import RECORD, inside
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
    """A table with one row a sample, in memory, or in parts of which each is read when it is asked for.

    Attributes:
        path: the file, or the folder of parts.
        table: all its columns.
        group_columns: names of those that are not the table's own.
        provenance: what made it ({} for a hand-made file).
        fingerprint: digest of the values.
    """

    path: Path
    table: pa.Table | PartedTable
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
    def id_parts(self) -> Ids:
        """The same, a part at a time."""
        return self.table.ids() if isinstance(self.table, PartedTable) else Ids.of(self.ids)

    def column_parts(self, name: str) -> ColumnParts | pa.ChunkedArray:
        """A column, of a table in parts a part at a time."""
        table = self.table
        return table.parts_of(name) if isinstance(table, PartedTable) else table.column(name)

    @property
    def label_parts(self) -> ColumnParts | pa.Array:
        """`labels`, of a table in parts a part at a time."""
        if not isinstance(self.table, PartedTable) or "label" not in self.table.column_names:
            return self.labels
        stored = self.table.parts_of("label")
        return ColumnParts(stored.lengths, lambda part: as_names(stored.read(part)))

    @property
    def label_codes(self) -> np.ndarray:
        """(n,) int64 codes of the labels by their sorted values, -1 for none."""
        parts = Ids.of(self.label_parts) if isinstance(self.label_parts, pa.Array) else self.label_parts
        return encode_parts(parts)[0]

    @property
    def cut(self) -> list[int]:
        """Rows of each part; of a table in one file, what they would be."""
        return list(self.table.lengths) if isinstance(self.table, PartedTable) else cut_of(self.n)

    @property
    def labels(self) -> pa.Array:
        """(n,) large_string with nulls."""
        if "label" not in self.table.column_names:
            return pa.nulls(self.n, pa.large_string())
        return as_names(self.table.column("label"))

    def numbers(self, name: str) -> np.ndarray:
        """A numeric column as (n,) float64, nulls as NaN."""
        found, start = np.empty(self.n), 0
        for values in _chunks(self.column_parts(name)):
            found[start : start + len(values)] = values.to_numpy(zero_copy_only=False)
            start += len(values)
        return found

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


def _chunks(column: ColumnParts | pa.ChunkedArray) -> Iterable[pa.Array]:
    """The arrays that a column consists of."""
    return column if isinstance(column, ColumnParts) else column.chunks


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
        file: Parquet, a folder of parts, or whatever ``table`` was read from.
        what: it should be, for messages ("a weight manifest").
        needed: columns that it must have, ``sample_id`` among them.
        numbers: columns that hold numbers where they are there.
        apart: columns that the fingerprint leaves out where they are there.

    Returns:
        What `SampleTable` holds, without its group columns.

    Raises:
        KdbiasError: a column is missing, twice there or of another type, there are no rows, or ids repeat.
    """
    stored = PartedTable.open(file, "*.parquet") if table is None and file.is_dir() else table
    schema = read_schema(file) if stored is None else stored.schema
    names = schema.names
    refuse_repeated(names, file)
    missing = ", ".join(map(repr, (name for name in needed if name not in names)))
    if missing:
        raise KdbiasError(f"{file} is not {what}: no column {missing} (it has: {', '.join(names)})")
    found = read_table(file) if stored is None else stored
    if not found.num_rows:
        raise KdbiasError(f"{file} holds no samples; {MEND}")
    require_plain(found, file, {"sample_id", "label"}.intersection(names))
    require_numbers(found, file, [name for name in numbers if name in names])
    parted = isinstance(found, PartedTable)
    require_unique(found.ids() if parted else found.column("sample_id"), str(file))
    return {
        "path": file,
        "table": found,
        "provenance": provenance.from_schema(schema, file) or {},
        "fingerprint": found.fingerprint(apart) if parted else fingerprints.of_table(found, apart),
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
        rows, first, start = np.arange(self.n), [pa.array([], pa.large_string())], 0
        repeats = [np.empty(0, np.int64)]
        for values in _chunks(self.column_parts("duplicate_of")):
            repeats.append(start + np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)))
            first.append(as_strings(values.drop_null()))
            start += len(values)
        if len(copies := np.concatenate(repeats)):
            rows[copies] = align(pa.concat_arrays(first), self.id_parts, "duplicate_of", str(self.path))
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


def density_file(path: str | os.PathLike[str]) -> Path:
    """The density table of a folder that ``kdbias uniformity`` wrote: a file, or a folder of parts.

    A path that is no folder, or itself a table, is given back.
    """
    folder = local_path(path)
    in_parts = bool(part_names(folder)) and not (folder / RECORD).exists()
    return located(folder / DENSITY) if folder.is_dir() and not in_parts else folder


def read_density(path: str | os.PathLike[str]) -> DensityTable:
    """Read ``density.parquet``, or its parts, or those of the folder that ``kdbias uniformity`` wrote.

    Raises:
        KdbiasError: no such file, or none whose columns are those of a density table.
    """
    path, file = local_path(path), density_file(path)
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
