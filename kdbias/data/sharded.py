"""What the readers of images share: finding part and row, and opening files in each process for itself.

Files of bytes are read in any order; columns of encoded images in Arrow streams and Parquet files by part.
"""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.access import UNREADABLE, open_input, read_at
from kdbias.data.decode import UnreadableImage
from kdbias.tables.columns import is_bytes
from kdbias.wording import counted

CACHE_BYTES = 1 << 28
"""Row groups kept in memory by one process, in bytes of encoded images (at least one row group is kept)."""

_LARGE_GROUP = 1 << 24

T = TypeVar("T")


class Lazy(Generic[T]):
    """Numbered things, each opened when it is first asked for.

    May be pickled, forked and shared by threads: a copy, or a forked child, opens anew what it needs, unless
    what is opened lies in memory and `survives_fork`. At most `at_once` are kept, those last used.
    """

    at_once: ClassVar[float] = math.inf
    survives_fork: ClassVar[bool] = False

    def __init__(self) -> None:
        self._forget()

    def _open(self, number: int) -> T:
        """Open one; called by one thread at a time."""
        raise NotImplementedError

    def _too_many(self, held: Collection[T]) -> bool:
        """Whether the one used longest ago is to be dropped."""
        return len(held) > self.at_once

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[int, T] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_process", "_lock", "_held")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def opened(self, number: int) -> T:
        """The thing of this number, as this process opened it."""
        if self._process != os.getpid():  # a thread may have held the lock when this process was forked
            held = self._held
            self._forget()
            if self.survives_fork:
                self._held = held
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
            else:
                self._held[number] = self._open(number)
                while len(self._held) > 1 and self._too_many(self._held.values()):
                    self._held.popitem(last=False)  # closes once the last reader drops it
            return self._held[number]


class Sharded(Lazy[T]):
    """Images in parts (files, row groups, arrays, splits), one part after another.

    Args:
        lengths: images of each part.
        names: what to call each part, for people.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        super().__init__()

    def place(self, row: int) -> tuple[int, int]:
        """The part that holds a row, and where in it."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return part, row - int(self._starts[part])

    def location(self, row: int) -> str:
        """SHARD#PLACE of a row."""
        part, at = self.place(row)
        return f"{self.names[part]}#{at}"


class _Handle:
    """A file descriptor that closes when nobody holds it any more."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class _Files(Lazy[T]):
    """Files, by number.

    Args:
        files: absolute paths, or URIs.
    """

    at_once = 64

    def __init__(self, files: Sequence[str]) -> None:
        self.files = tuple(files)
        super().__init__()


class RandomAccess(_Files[_Handle]):
    """Spans of bytes of a list of files, in any order; every read names its position."""

    def _open(self, number: int) -> _Handle:
        return _Handle(self.files[number])

    def read(self, file: int, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of file number ``file``.

        Raises:
            UnreadableImage: the file is gone, cannot be read, or ends before.
        """
        try:
            handle = self.opened(file)
            parts: list[bytes] = []
            missing = offset + length - os.fstat(handle.number).st_size
            if missing <= 0:  # else a damaged length would be asked of the memory
                missing = length
                while missing and (part := os.pread(handle.number, missing, offset + length - missing)):
                    parts.append(part)
                    missing -= len(part)
        except OSError as error:
            raise UnreadableImage(f"cannot read {self.files[file]}: {error.strerror or error}") from None
        if missing:
            raise UnreadableImage(
                f"truncated: {self.files[file]} ends {counted(missing, 'byte')} before the end of this image"
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)


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

    Attributes:
        files: paths (or URIs).
        column: name of the image column.
        root: folder or URI that paths beside missing bytes start from; None follows none.
    """

    files: tuple[str, ...]
    column: str
    root: str | None

    def read(self, row: int) -> bytes:
        part, at = self.place(row)
        return image_bytes(self.opened(part)[at], self.root)

    def by_shard(self, rows: np.ndarray, at_hand: int) -> np.ndarray:
        """(n,) int64: the part of each row."""
        return np.searchsorted(self._starts, rows, side="right") - 1


class ArrowImages(_ColumnImages):
    """A column of images in Arrow streams, memory-mapped, each file a part of so many rows."""

    survives_fork = True

    def __init__(self, files: Sequence[str], column: str, lengths: Sequence[int], root: str) -> None:
        names = [os.sep.join(file.split(os.sep)[-2:]) for file in files]
        super().__init__(lengths, names)
        self.files, self.column, self.root = tuple(files), column, root

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
            for index, group in enumerate(map(footer.row_group, range(footer.num_row_groups))):
                groups.append((number, index, group.num_rows, _column_bytes(group, column)))
        table = np.array(groups, np.int64).reshape(-1, 4)
        super().__init__(table[:, 2], [os.path.basename(file) for file in files])
        self.files, self.column, self.root, self.cache_bytes = tuple(files), column, root, cache_bytes
        self._groups, self._bytes = table[:, :2], table[:, 3]
        self._files = _ParquetFiles(files)

    @property
    def is_slow_at_random(self) -> bool:
        """Whether the images neither fit the cache nor lie in row groups small enough to be read for one
        image."""
        return bool(self._bytes.sum() > self.cache_bytes and self._bytes.mean() > _LARGE_GROUP)

    def by_shard(self, rows: np.ndarray, at_hand: int) -> np.ndarray:
        """(n,) int64: the row group of each row; so many are kept from now on, whatever they take."""
        self.cache_bytes = max(self.cache_bytes, at_hand * int(self._bytes.max()))
        return super().by_shard(rows, at_hand)

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


class _ParquetFiles(_Files[pq.ParquetFile]):
    def _open(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(open_input(self.files[number]), page_checksum_verification=True)


def _column_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """Bytes of a column (of its field ``bytes``) in a row group, decompressed."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in (column, f"{column}.bytes"))
