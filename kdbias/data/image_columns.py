"""Columns of encoded images, in Parquet files and Arrow streams."""

import os
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.access import UNREADABLE, open_input, read_at
from kdbias.data.decode import UnreadableImage
from kdbias.data.sharded import Lazy, Sharded
from kdbias.tables.plain import is_bytes

CACHE_BYTES = 1 << 28
"""Row groups kept in memory by one process, in bytes of encoded images (at least one row group is kept)."""

_LARGE_GROUP = 1 << 24


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images: bytes, or a struct with a field ``bytes``."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
    return is_bytes(kind)


def image_bytes(value: pa.Scalar, root: str | None) -> bytes:
    """The image of a binary value, or of a struct with a binary field ``bytes``.

    Where the bytes are null, the field ``path`` may name a file, which is read from below the root alone.

    Raises:
        UnreadableImage: neither bytes nor such a file.
    """
    path = None
    if isinstance(value, pa.StructScalar) and value.is_valid:
        if value.type.get_field_index("path") >= 0:
            path = value["path"].as_py()
        value = value["bytes"]
    if value.is_valid and not pa.types.is_struct(value.type):
        return value.as_py()
    if not path or root is None:
        raise UnreadableImage("no image: the value is null")
    try:
        return read_at(root, path.removeprefix(f"{root.rstrip('/')}/"))
    except UnreadableImage as error:
        raise UnreadableImage(f"no image: its bytes are null; it was left at {path!r} ({error})") from None


class _ColumnImages(Sharded[pa.ChunkedArray]):
    """A column of images of files with the same schema, each part a stretch of it.

    Args:
        files: paths (or URIs).
        column: name of the image column.
        lengths, names: of the parts, see `Sharded`.
        root: folder or URI that paths beside missing bytes start from; None follows none.
    """

    def __init__(
        self,
        files: Sequence[str],
        column: str,
        lengths: Sequence[int] | np.ndarray,
        names: Sequence[str],
        root: str | None,
    ) -> None:
        super().__init__(lengths, names)
        self.files, self.column, self.root = tuple(files), column, root

    def read(self, row: int) -> bytes:
        part, at = self.place(row)
        return image_bytes(self.opened(part)[at], self.root)


class ArrowImages(_ColumnImages):
    """A column of images in Arrow streams, memory-mapped, each file a part of so many rows."""

    survives_fork = True

    def __init__(self, files: Sequence[str], column: str, lengths: Sequence[int], root: str) -> None:
        names = [os.sep.join(file.split(os.sep)[-2:]) for file in files]
        super().__init__(files, column, lengths, names, root)

    def _open(self, number: int) -> pa.ChunkedArray:
        return mapped_stream(self.files[number])[self.column]


def mapped_stream(file: str) -> pa.Table:
    """The rows of an Arrow stream, memory-mapped.

    Raises:
        OSError, ArrowException: no such file, or a damaged one.
    """
    with pa.ipc.open_stream(pa.memory_map(file)) as stream:
        table = stream.read_all()
    table.validate(full=True)  # a damaged stream could point outside its memory
    return table


class ParquetImages(_ColumnImages):
    """A column of images of Parquet files, read a row group at a time.

    Args:
        files: paths or URIs.
        column: name of the image column.
        cache_bytes: limit on cached row groups.
        root: folder or URI that paths beside missing bytes start from; None follows none.
    """

    def __init__(
        self, files: Sequence[str], column: str, cache_bytes: int = CACHE_BYTES, *, root: str | None = None
    ) -> None:
        groups = []
        for number, file in enumerate(files):
            with open_input(file) as handle:
                footer = pq.read_metadata(handle)
            for index in range(footer.num_row_groups):
                group = footer.row_group(index)
                groups.append((number, index, group.num_rows, _column_bytes(group, column)))
        table = np.array(groups, np.int64).reshape(-1, 4)
        names = [os.path.basename(file) for file in files]
        super().__init__(files, column, table[:, 2], names, root)
        self.cache_bytes = cache_bytes
        self._groups, self._bytes = table[:, :2], table[:, 3]
        self._files = _ParquetFiles(files)

    @property
    def is_slow_at_random(self) -> bool:
        """Whether the images neither fit the cache nor lie in row groups small enough to be read for one
        image."""
        return bool(self._bytes.sum() > self.cache_bytes and self._bytes.mean() > _LARGE_GROUP)

    def location(self, row: int) -> str:
        """FILE#ROW of a row."""
        number = int(self._groups[self.place(row)[0], 0])
        first = int(np.searchsorted(self._groups[:, 0], number))
        return f"{self.names[number]}#{row - int(self._starts[first])}"

    def _too_many(self, held: Collection[pa.ChunkedArray]) -> bool:
        return sum(values.nbytes for values in held) > self.cache_bytes

    def _open(self, number: int) -> pa.ChunkedArray:
        file, index = self._groups[number].tolist()
        try:  # by one thread at a time, which pyarrow's reader asks for
            parquet = self._files.opened(file)
            return parquet.read_row_group(index, columns=[self.column], use_threads=False)[self.column]
        except UNREADABLE as error:
            raise UnreadableImage(f"row group {index} of {self.files[file]} is damaged: {error}") from None


class _ParquetFiles(Lazy[pq.ParquetFile]):
    at_once = 64

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        super().__init__()

    def _open(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(open_input(self.files[number]), page_checksum_verification=True)


def _column_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """Bytes of a column (of its field ``bytes``) in a row group, decompressed."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in (column, f"{column}.bytes"))
