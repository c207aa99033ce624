"""One Parquet file: written whole with its provenance or not at all, read or refused in one line.

What kdbias writes has page checksums, for every reader, and a seal (:mod:`kdbias.tables.seal`), against which
everything here compares what it reads.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdbias.errors import KdbiasError, first_line
from kdbias.tables import provenance
from kdbias.tables.files import MEND, absent, atomic_path, refuse_special
from kdbias.tables.given import mistaken
from kdbias.tables.seal import Seal, read_seal, seal

_READ_AHEAD = 1 << 16  # bytes; by itself pyarrow reads a whole row group, and the next ones, at once


@contextlib.contextmanager
def parquet_writer(
    path: str | os.PathLike[str], schema: pa.Schema, **encoding: Any
) -> Iterator[pq.ParquetWriter]:
    """A writer whose file is sealed and put in place, whole, when the block ends.

    Args:
        encoding: further arguments of `pyarrow.parquet.ParquetWriter`.
    """
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, schema, write_page_checksum=True, **encoding) as writer:
            yield writer
        seal(temporary)


def write_table(path: str | os.PathLike[str], table: pa.Table, doc: dict[str, Any]) -> None:
    """Write a Parquet file with provenance, atomically."""
    table = provenance.attach(table, doc)
    with parquet_writer(path, table.schema, compression="ZSTD") as writer:
        writer.write_table(table)


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
        raise absent(path) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Of damage, Arrow raises OSErrors that have no number.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        if (mistake := mistaken(path, "Parquet")) is not None:
            raise KdbiasError(mistake) from None
        reason = first_line(error)
        raise KdbiasError(f"{path}: not a readable Parquet file ({reason}); {MEND}") from None


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file that is open; what is read of it is what was written.

    Attributes:
        path: of the file.
        file: as pyarrow opened it.
    """

    path: str | os.PathLike[str]
    file: pq.ParquetFile
    _seal: Seal | None

    @property
    def schema(self) -> pa.Schema:
        """Columns and metadata."""
        return self.file.schema_arrow

    @property
    def mark(self) -> str:
        """The mark of its seal; "" where it has none."""
        return "" if self._seal is None else self._seal.mark

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows: of these columns, or of all.

        Raises:
            KdbiasError: a column is missing or damaged.
        """
        require_columns(self.path, self.schema, columns or ())
        for group in range(self.file.num_row_groups):
            self._require(group, columns)
        table = self.file.read(columns=None if columns is None else list(columns))
        require_texts(table)
        return table

    def batches(self, rows: int, column: str, only: int | None = None) -> Iterator[pa.RecordBatch]:
        """Stream one column, at most so many rows at a time, holding little more in memory.

        Args:
            only: the one row group that is read; None reads all.
        """
        for group in range(self.file.num_row_groups) if only is None else [only]:
            self._require(group, [column])
            yield from self.file.iter_batches(rows, [group], [column], use_threads=False)

    def vectors(
        self, rows: int, column: str, dim: int | None = None, only: int | None = None
    ) -> Iterator[np.ndarray]:
        """Stream a column of lists or tensors of floats, at most so many rows at a time.

        Args:
            dim: numbers a row; None takes the first row's.
            only: the one row group that is read; None reads all.

        Returns:
            Blocks (m, dim) of the type that is stored, m >= 1, in order.

        Raises:
            KdbiasError: a row has no vector, one of another length, or one with a missing number.
        """
        first = sum(self.file.metadata.row_group(group).num_rows for group in range(only or 0))
        for batch in self.batches(rows, column, only):
            if batch.num_rows:
                block = self._matrix(batch.column(0), dim, first)
                dim = block.shape[1]
                yield block
            first += batch.num_rows

    def _matrix(self, lists: pa.Array, dim: int | None, first: int) -> np.ndarray:
        """Rows of a column of vectors, which begin at row `first` of the file."""
        lists = lists.storage if isinstance(lists, pa.ExtensionArray) else lists
        lengths = pc.list_value_length(lists)
        dim = lengths[0].as_py() if dim is None else dim
        numbers = lists.flatten()
        if lists.null_count:
            fault, row = "no vector", int(np.argmin(lists.is_valid()))
        elif not pc.all(pc.equal(lengths, dim)).as_py():
            row = int(np.argmax(pc.not_equal(lengths, dim)))
            fault = f"a vector of length {lengths[row].as_py():,}, not {dim:,} as before"
        elif numbers.null_count:
            fault, row = "a vector with a missing number", int(np.argmin(numbers.is_valid())) // dim
        else:
            return numbers.to_numpy(zero_copy_only=False).reshape(len(lists), dim)
        raise KdbiasError(f"{self.path}: row {first + row:,} has {fault}; {MEND}")

    def head(self, rows: int) -> pa.Table:
        """The first rows."""
        if not self.file.num_row_groups:
            return self.schema.empty_table()
        self._require(0, None)
        batch = next(self.file.iter_batches(max(rows, 1), [0]), None)
        table = self.schema.empty_table() if batch is None else pa.Table.from_batches([batch])
        require_texts(table)
        return table.slice(0, rows)

    def _require(self, group: int, columns: Sequence[str] | None) -> None:
        if self._seal is not None:
            self._seal.require(group, columns)


@contextlib.contextmanager
def open_parquet(path: str | os.PathLike[str]) -> Iterator[ParquetTable]:
    """Open a Parquet file.

    Raises:
        KdbiasError: no such file, no Parquet file, or one whose footer is not what was written.
    """
    with readable(path), open(path, "rb", buffering=0) as raw:
        sealed = read_seal(raw)
        # A seal says more than page checksums, and costs less.
        how = {"pre_buffer": False, "page_checksum_verification": sealed is None}
        with pq.ParquetFile(path, buffer_size=_READ_AHEAD, **how) as file:
            str(file.schema_arrow)  # names that are no UTF-8 show here
            yield ParquetTable(path, file, sealed)


def stream_vectors(
    files: Iterable[contextlib.AbstractContextManager[ParquetTable]],
    rows: int,
    column: str,
    dim: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream (first row, (m, dim) vectors as they are stored) over files, as `ParquetTable.vectors` does."""
    start = 0
    for opening in files:
        with opening as file:
            for block in file.vectors(rows, column, dim):
                yield start, block
                start += len(block)


def read_schema(path: str | os.PathLike[str]) -> pa.Schema:
    """Columns and metadata of a file; raises KdbiasError as `open_parquet`."""
    with open_parquet(path) as table:
        return table.schema


def read_footer(path: str | os.PathLike[str]) -> pq.FileMetaData:
    """Rows, row groups and columns of a file; raises KdbiasError as `open_parquet`."""
    with open_parquet(path) as table:
        return table.file.metadata


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a file.

    Args:
        columns: those to read; None reads all.

    Raises:
        KdbiasError: no such file, a damaged one, or one that lacks a column.
    """
    with open_parquet(path) as table:
        return table.read(columns)


def require_whole(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is damaged anywhere.

    Raises:
        KdbiasError: no such file, no Parquet file, or one that is not what was written.
    """
    with open_parquet(path) as table:
        for group in range(table.file.num_row_groups):
            table._require(group, None)


def require_texts(table: pa.Table) -> None:
    """Raise ArrowInvalid where a text is no UTF-8: Arrow itself takes such bytes as they are."""
    for column in table.columns:
        if pa.types.is_nested(column.type) or "string" in str(column.type):
            column.validate(full=True)


def require_columns(path: str | os.PathLike[str], schema: pa.Schema, columns: Sequence[str]) -> None:
    """Raise KdbiasError where a file lacks some of the columns; it names them and those that are there."""
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise KdbiasError(
            f"{path} lacks the column(s) {', '.join(missing)} (it has: {', '.join(schema.names)}); {MEND}"
        )


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The provenance document of a file, or None where it has none."""
    return provenance.from_schema(read_schema(path), path)
