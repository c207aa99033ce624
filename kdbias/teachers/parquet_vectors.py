"""Vectors in Parquet files: found by their schema, streamed, laid out on disk to be read by row."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.errors import KdbiasError, first_line
from kdbias.tables.joins import as_strings

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_READ_AHEAD = 1 << 16  # bytes; by itself pyarrow reads whole row groups
_NUMBERS = 1 << 18  # in memory at a time


@dataclass(frozen=True)
class ParquetVectors:
    """A column of ids and one of lists of numbers, of equal length, in one file or several.

    shape  (n, d)
    dtype  of the numbers as they are stored
    """

    path: Path
    files: list[Path]
    id_column: str
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
        files = [f for f in files if f.name != "failures.parquet"]
        if not files:
            raise KdbiasError(f"precomputed:{path}: the folder holds no .parquet file")
        with _readable(path):
            footers = [pq.read_metadata(f) for f in files]
            schemas = [footer.schema.to_arrow_schema() for footer in footers]
            names = schemas[0].names
            lists = [f.name for f in schemas[0] if any(is_list(f.type) for is_list in _LISTS)]
            column = "embedding" if "embedding" in lists else lists[0] if len(lists) == 1 else None
            if column is None:
                raise KdbiasError(
                    f"precomputed:{path}: no column 'embedding' of vectors among {', '.join(names)}"
                )
            ids = next((c for c in (id_column, "sample_id") if c is not None and c in names), None)
            if ids is None:
                wanted = id_column or "sample_id"
                raise KdbiasError(f"precomputed:{path}: no id column {wanted!r} among {', '.join(names)}")
            for file, schema in zip(files, schemas, strict=True):
                if not {ids, column} <= set(schema.names):
                    wanted = f"{ids!r} and {column!r}, as {files[0].name} has"
                    raise KdbiasError(f"precomputed:{file}: should have the columns {wanted}")
            types = [schema.field(column).type for schema in schemas]
            dtype = np.result_type(*(kind.value_type.to_pandas_dtype() for kind in types))
            n = sum(footer.num_rows for footer in footers)
            found = cls(path, files, ids, column, (n, 0), np.dtype(dtype))
            dim = next((block.shape[1] for _, block in found.blocks(1)), 0)
        return replace(found, shape=(n, dim))

    def ids(self) -> pa.Array:
        """(n,) large_string."""
        with _readable(self.path):
            tables = [pq.read_table(f, columns=[self.id_column]) for f in self.files]
        return as_strings(pa.chunked_array([as_strings(t.column(0)) for t in tables]))

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Stream (first row, (m, d) vectors as they are stored), m <= rows, holding little more in memory.

        Raises KdbiasError for vectors of unequal length or with missing entries.
        """
        rows = rows or max(1, _NUMBERS // max(1, self.shape[1]))
        start = 0
        for path in self.files:
            with _readable(path), pq.ParquetFile(path, buffer_size=_READ_AHEAD, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=[self.column], use_threads=False):
                    if batch.num_rows:
                        yield start, _matrix(batch.column(0), self.shape[1], path)
                    start += batch.num_rows

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


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError, OSError) as error:
        raise KdbiasError(f"precomputed:{path}: {first_line(error)}") from error


def _matrix(chunk: pa.Array, dim: int, path: Path) -> np.ndarray:
    """Rows of a list column as (m, dim); any length where `dim` is 0."""
    values = chunk.flatten()
    if chunk.null_count or values.null_count:
        raise KdbiasError(f"precomputed:{path}: vectors with missing entries")
    lengths = np.unique(
        [chunk.type.list_size]
        if pa.types.is_fixed_size_list(chunk.type)
        else chunk.value_lengths().to_numpy(zero_copy_only=False)
    )
    if len(lengths) > 1 or (dim and lengths[0] != dim):
        found = ", ".join(map(str, np.union1d(lengths, [dim])[:4]))
        raise KdbiasError(f"precomputed:{path}: vectors of different lengths ({found})")
    return values.to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
