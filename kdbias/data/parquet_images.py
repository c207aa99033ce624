"""Images inside Parquet files, read a row group at a time."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.decode import UnreadableImage
from kdbias.data.stores import UNREADABLE, open_input, read_at

CACHE_BYTES = 1 << 28
"""Row groups kept in memory by one process, in bytes of encoded images (at least one row group is kept)."""

_LARGE_GROUP = 1 << 24


class ParquetImages:
    """A column of images, see `image_bytes`, of one or more Parquet files.

    Each process opens the files for itself on first use, so the object may be pickled, forked and shared by
    threads freely.

    Args:
        files: paths or URIs of Parquet files with the same schema.
        column: name of the image column.
        cache_bytes: limit on cached row groups.
        root: folder or URI that paths beside missing bytes start from; None follows none.
    """

    def __init__(
        self, files: Sequence[str], column: str, cache_bytes: int = CACHE_BYTES, *, root: str | None = None
    ) -> None:
        self.files = tuple(files)
        self.column = column
        self.root = root
        self.cache_bytes = cache_bytes
        groups = []
        for number, file in enumerate(self.files):
            with open_input(file) as handle:
                footer = pq.read_metadata(handle)
            for g in range(footer.num_row_groups):
                groups.append(
                    (number, g, footer.row_group(g).num_rows, _column_bytes(footer.row_group(g), column))
                )
        table = np.array(groups, np.int64).reshape(-1, 4)
        self._groups, self._bytes = table[:, :3], table[:, 3]
        self._starts = np.concatenate([[0], np.cumsum(self._groups[:, 2])])
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._opened: dict[int, pq.ParquetFile] = {}
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_opened", "_cache", "_process", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def is_slow_at_random(self) -> bool:
        """Whether the images neither fit the cache nor lie in row groups small enough to be read for one
        image."""
        return bool(self._bytes.sum() > self.cache_bytes and self._bytes.mean() > _LARGE_GROUP)

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return image_bytes(self._row_group(group)[row - int(self._starts[group])], self.root)

    def location(self, row: int) -> str:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        first = int(np.flatnonzero(self._groups[:, 0] == self._groups[group, 0])[0])
        return f"{os.path.basename(self.files[self._groups[group, 0]])}#{row - int(self._starts[first])}"

    def _row_group(self, group: int) -> pa.ChunkedArray:
        if self._process != os.getpid():  # a forked child must not share the parent's file positions and lock
            self._forget()
        with self._lock:  # pyarrow's reader is not made for several threads
            values = self._cache.get(group)
            if values is None:
                values = self._cache[group] = self._load(group)
                while len(self._cache) > 1 and sum(v.nbytes for v in self._cache.values()) > self.cache_bytes:
                    self._cache.popitem(last=False)
            else:
                self._cache.move_to_end(group)
            return values

    def _load(self, group: int) -> pa.ChunkedArray:
        number, index, _ = self._groups[group].tolist()
        try:
            if number not in self._opened:
                self._opened[number] = pq.ParquetFile(
                    open_input(self.files[number]), page_checksum_verification=True
                )
            table = self._opened[number].read_row_group(index, columns=[self.column], use_threads=False)
        except UNREADABLE as error:
            raise UnreadableImage(f"row group {index} of {self.files[number]} is damaged: {error}") from None
        return table[self.column]


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


def _column_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """Bytes of a column (of its field ``bytes``) in a row group, decompressed."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in (column, f"{column}.bytes"))
