"""Digests of a Parquet file's bytes, kept in the file itself between its pages and its footer.

Page checksums cover pages, but neither their headers nor the footer: its schema, its offsets, its metadata.
A seal covers all that a reader decodes: each column chunk (headers and pages of a column in a row group) and
the footer. Readers go by offsets and never look between pages and footer, and whoever rewrites the file,
such as pandas, leaves the seal out: a file without one was edited, or written before there were seals.

The seal's bytes: 8 for each chunk, the row groups one after another; 8 of their own digest and the footer's;
4 for the number of chunks; the mark. Digests are XXH3 (64 bits).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64, xxh3_64_digest

from kdbias.errors import KdbiasError
from kdbias.tables.files import MEND

_MARK = b"kdbias\x00\x01"
_DIGEST = 8
_HEAD = _DIGEST + 4 + len(_MARK)
_TAIL = 8  # the footer's length and Parquet's mark
_PIECE = 1 << 18  # bytes at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Seal:
    """The digests of an open file's column chunks.

    Attributes:
        file: what was opened.
        footer: its metadata.
        digests: of the chunks, row groups one after another.
        mark: the digest of these and of the footer, in hex: another one for any other file.
    """

    file: BinaryIO
    footer: pq.FileMetaData
    digests: bytes
    mark: str

    def require(self, group: int, columns: Sequence[str] | None = None) -> None:
        """Refuse a row group whose columns (None: all) are not what was written.

        Raises:
            KdbiasError: they are not.
        """
        row_group = self.footer.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            path = chunk.path_in_schema
            if columns is not None and not any(path == c or path.startswith(f"{c}.") for c in columns):
                continue
            place = (group * row_group.num_columns + number) * _DIGEST
            if _chunk_digest(self.file, chunk) != self.digests[place : place + _DIGEST]:
                raise _rotten(self.file.name, f"the column {path}")


def _rotten(path: str, what: str) -> KdbiasError:
    """The refusal of a file that is not what was written."""
    return KdbiasError(f"{path} is damaged: {what} differs from what was written; {MEND}")


def read_seal(file: BinaryIO) -> Seal | None:
    """The seal of a Parquet file that is open, its footer checked; None where it has none.

    Raises:
        KdbiasError: the footer is not what was written.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    start = size - _TAIL - int.from_bytes(tail[:4], "little") - _HEAD  # of the seal, but for the chunks'
    if len(tail) < _TAIL or start < 0:
        return None
    file.seek(start)
    head, footer = file.read(_HEAD), file.read()
    if not head.endswith(_MARK):
        return None
    length = _DIGEST * int.from_bytes(head[_DIGEST : _DIGEST + 4], "little")
    file.seek(max(0, start - length))
    digests = file.read(min(length, start))
    if xxh3_64_digest(digests + footer) != head[:_DIGEST]:
        raise _rotten(file.name, "its footer")
    return Seal(file, pq.read_metadata(pa.BufferReader(footer)), digests, head[:_DIGEST].hex())


def seal(path: str | os.PathLike[str]) -> None:
    """Seal a Parquet file that has just been written."""
    with open(path, "r+b") as file:
        start = file.seek(-_TAIL, os.SEEK_END)
        start -= int.from_bytes(file.read(4), "little")
        file.seek(start)
        footer = file.read()
        metadata = pq.read_metadata(pa.BufferReader(footer))
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        digests = [_chunk_digest(file, g.column(i)) for g in groups for i in range(g.num_columns)]
        joined = b"".join(digests)
        file.seek(start)
        own = xxh3_64_digest(joined + footer)
        file.write(joined + own + len(digests).to_bytes(4, "little") + _MARK + footer)


def _chunk_digest(file: BinaryIO, chunk: pq.ColumnChunkMetaData) -> bytes:
    """Digest of the bytes of a column chunk, those of its page headers included."""
    first = chunk.dictionary_page_offset
    start = chunk.data_page_offset if first is None else min(first, chunk.data_page_offset)
    left, digest, piece = chunk.total_compressed_size, xxh3_64(), memoryview(bytearray(_PIECE))
    file.seek(start)
    while left > 0 and (count := file.readinto(piece[: min(left, _PIECE)])):  # type: ignore[attr-defined]
        digest.update(piece[:count])
        left -= count
    return digest.digest()
