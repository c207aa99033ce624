"""Vectors in Parquet files: found by their schema, streamed, laid out on disk to be read by row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables.columns import as_names, plain_type
from kdbias.tables.files import refuse_special
from kdbias.tables.given import float_type, id_column_of, vector_column
from kdbias.tables.joins import as_strings
from kdbias.tables.listing import LISTING
from kdbias.tables.parquet_file import (
    open_parquet,
    read_footer,
    read_schema,
    read_table,
    stream_vectors,
)

_NUMBERS = 1 << 18  # in memory at a time


@dataclass(frozen=True)
class ParquetVectors:
    """A column of lists or tensors of floats, of equal length, in one file or several.

    id_column  the column of ids, None without
    shape      (n, d)
    dtype      of the numbers as they are stored
    """

    path: Path
    files: list[Path]
    id_column: str | None
    column: str
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def open(cls, path: Path, id_column: str | None = None) -> ParquetVectors:
        """Open a file or a folder of them; reads footers and one row.

        Raises KdbiasError where a column is missing or it is not clear which one holds the vectors.
        """
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        files = [f for f in files if f.name not in ("failures.parquet", LISTING)]
        if not files:
            raise KdbiasError(f"precomputed:{path}: the folder holds no .parquet file")
        for file in files:
            refuse_special(file)
        footers = [read_footer(file) for file in files]
        schemas = [footer.schema.to_arrow_schema() for footer in footers]
        column = vector_column(schemas[0])
        if column is None:
            kinds = ", ".join(f"{field.name} ({field.type})" for field in schemas[0])
            raise KdbiasError(f"precomputed:{path}: no column 'embedding' of vectors among {kinds}")
        ids = id_column_of(schemas[0], id_column)
        types = [_number_type(*each, column, ids) for each in zip(files, schemas, strict=True)]
        n = sum(footer.num_rows for footer in footers)
        found = cls(path, files, ids, column, (n, 0), np.result_type(*types))
        dim = next((block.shape[1] for _, block in found.blocks(1)), 0)
        return replace(found, shape=(n, dim))

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Stream (first row, (m, d) vectors as they are stored), m <= rows, holding little more in memory.

        Raises KdbiasError for vectors of unequal length or with missing entries.
        """
        rows = rows or max(1, _NUMBERS // max(1, self.shape[1]))
        return stream_vectors(map(open_parquet, self.files), rows, self.column, self.shape[1] or None)

    def lay_out(self, rows: np.ndarray, folder: Path) -> np.ndarray:
        """The vectors of some rows, (m, d) of float16 or float32, mapped from a temporary file in `folder`.

        Samples may stand in any order, Parquet can only be read through: so memory does not grow with n. The
        file has no name, and its space is free again when the array is gone. `rows` (m,) are increasing.
        """
        dtype = np.dtype(np.float16 if self.dtype == np.float16 else np.float32)
        with tempfile.TemporaryFile(dir=folder, suffix=".kdbias-tmp") as scratch:
            for start, block in self.blocks():
                first, last = np.searchsorted(rows, (start, start + len(block)))
                scratch.write(block[rows[first:last] - start].astype(dtype, copy=False).data)
            scratch.flush()
            return np.memmap(scratch, dtype, "r", shape=(len(rows), self.shape[1]))


def _number_type(file: Path, schema: pa.Schema, column: str, ids: str | None) -> type:
    """NumPy's type of the numbers in the column of vectors, which each of several files should have."""
    if not {ids or column, column} <= set(schema.names):
        wanted = f"{ids!r} and {column!r}" if ids else repr(column)
        raise KdbiasError(f"precomputed:{file}: should have the columns {wanted}, as the first file has")
    kind = float_type(schema.field(column).type)
    if kind is None:
        raise KdbiasError(f"precomputed:{file}: its column {column!r} holds no lists of floats")
    return kind.to_pandas_dtype()


def texts(files: Sequence[Path], name: str | None) -> pa.Array | None:
    """(n,) large_string of a column of plain values in all of the files; None where not every one has it."""
    schemas = [read_schema(file) for file in files]
    if name is None or not all(
        name in schema.names and plain_type(schema.field(name).type) for schema in schemas
    ):
        return None
    return as_strings(pa.chunked_array([as_names(read_table(f, [name])[name]) for f in files]))
