"""One Parquet file: written whole with its provenance or not at all, read or refused in one line."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.errors import KdbiasError, first_line
from kdbias.tables import provenance
from kdbias.tables.files import MEND, atomic_path, refuse_special
from kdbias.tables.foreign import mistaken


def write_table(path: str | os.PathLike[str], table: pa.Table, doc: dict[str, Any]) -> None:
    """Write a Parquet file with provenance, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(provenance.attach(table, doc), temporary, compression="ZSTD")


def floats(values: np.ndarray) -> pa.Array:
    """A column of numbers, null where they are not finite."""
    return pa.array(values, mask=~np.isfinite(values))


@contextlib.contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file where reading it inside the block shows that it is damaged, or no Parquet file.

    Raises:
        KdbiasError: no such file, or one that is no whole Parquet file. What the machine refuses (permission,
            a failing disk) stays an OSError.
    """
    refuse_special(path)
    try:
        yield
    except FileNotFoundError:
        raise KdbiasError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        # Of damage, Arrow raises OSErrors that have no number.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        if (mistake := mistaken(path, "Parquet")) is not None:
            raise KdbiasError(mistake) from None
        reason = first_line(error)
        raise KdbiasError(f"{path}: not a readable Parquet file ({reason}); {MEND}") from None


def read_schema(path: str | os.PathLike[str]) -> pa.Schema:
    with readable(path):
        return pq.read_schema(path)


def read_footer(path: str | os.PathLike[str]) -> pq.FileMetaData:
    with readable(path):
        return pq.read_metadata(path)


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file.

    Args:
        columns: those to read; None reads all.

    Raises:
        KdbiasError: no such file, a damaged one, or one that lacks a column.
    """
    with readable(path), pq.ParquetFile(path) as file:
        require_columns(path, file.schema_arrow, columns or ())
        return file.read(columns=None if columns is None else list(columns))


def require_columns(path: str | os.PathLike[str], schema: pa.Schema, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise KdbiasError(
            f"{path} lacks the column(s) {', '.join(missing)} (it has: {', '.join(schema.names)}); {MEND}"
        )


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The provenance document of a file, or None where it has none."""
    return provenance.from_schema(read_schema(path))
