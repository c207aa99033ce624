"""What density tables and weight manifests have in common: one row a sample, checked when it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints, provenance
from kdbias.tables.files import MEND
from kdbias.tables.joins import as_strings, require_unique
from kdbias.tables.parquet_file import read_schema, read_table
from kdbias.tables.plain import as_names, require_numbers, require_plain


@dataclass(frozen=True)
class SampleTable:
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


def read_samples(
    file: Path, what: str, needed: Sequence[str], numbers: Sequence[str], table: pa.Table | None = None
) -> dict[str, Any]:
    """Read and check a table of samples.

    Args:
        file: Parquet, or whatever ``table`` was read from.
        what: it should be, for messages ("a weight manifest").
        needed: columns that it must have, ``sample_id`` among them.
        numbers: columns that hold numbers where they are there.

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
        "fingerprint": fingerprints.of_table(table),
    }
