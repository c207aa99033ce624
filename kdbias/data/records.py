"""The container format of MXNet RecordIO: records, and the index of their offsets.

A record is the magic number, a word with a flag of 3 bits and a length of 29, the payload, and zeros up to
a multiple of 4 bytes. A payload that contains the magic number at a multiple of 4 was split there: its
parts carry the flags 1, 2, ..., 3 (a whole record 0), and the magic number goes back between them. An
image's payload is a header (flag, float32 label, two ids; a flag above 0 is the number of float32 labels
that follow) and then the encoded image.
"""

import os
from array import array
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.access import MAX_FILE_BYTES
from kdbias.data.decode import UnreadableImage
from kdbias.data.sharded import RandomAccess
from kdbias.errors import KdbiasError, first_line
from kdbias.wording import counted

MAGIC = 0xCED7230A
LENGTH_BITS = 29
HEADER_BYTES = 24
ADVICE = "remove the .idx, and kdbias scans the .rec instead"

_OLD_MAGIC = 0x3ED7230A


def _part(file: RandomAccess, offset: int, inside: bool) -> tuple[int, int]:
    """Flag and length of the record, or part of one, at an offset of file 0.

    Raises:
        UnreadableImage: nothing there, or no part that may come `inside` a split record, or outside.
    """
    magic, word = np.frombuffer(file.read(0, offset, 8), "<u4").tolist()
    if magic != MAGIC:
        raise UnreadableImage(f"{wrong_magic(magic)} at byte {offset:,}")
    flag, length = divmod(word, 1 << LENGTH_BITS)
    if flag > 3 or (flag > 1) != inside:
        raise UnreadableImage(f"damaged: part {flag} of a split record out of order at byte {offset:,}")
    return flag, length


def behind(offset: Any, length: Any) -> Any:
    """The offset behind a record, or part of one, of so many bytes of payload; or arrays of such."""
    return offset + 8 + (length + 3) // 4 * 4


def wrong_magic(magic: int) -> str:
    """What to say of a number that stands where the magic number should."""
    if magic == _OLD_MAGIC:
        return "records of an obsolete kind (magic 0x3ed7230a): convert them with the tool that wrote them"
    return "no RecordIO record"


def read_record(file: RandomAccess, offset: int) -> bytes:
    """The payload at an offset of file 0, parts joined.

    Raises:
        UnreadableImage: no record there, parts out of order, too large, or the file ends before.
    """
    parts: list[bytes] = []
    total, flag = 0, 1
    while flag not in (0, 3):
        flag, length = _part(file, offset, inside=bool(parts))
        total += length
        if total > MAX_FILE_BYTES:
            raise UnreadableImage(f"record of more than {MAX_FILE_BYTES:,} bytes")
        parts.append(file.read(0, offset + 8, length))
        offset = behind(offset, length)
    return MAGIC.to_bytes(4, "little").join(parts)


def image_start(payload: bytes) -> int:
    """Where the encoded image begins in a payload; UnreadableImage where it ends before."""
    if len(payload) < HEADER_BYTES:
        raise UnreadableImage(f"damaged record: {len(payload)} bytes, shorter than a header")
    flag = int.from_bytes(payload[:4], "little")
    start = HEADER_BYTES + 4 * flag
    if start > len(payload):
        raise UnreadableImage(f"damaged record: {flag} labels announced in {len(payload)} bytes")
    return start


def read_index(index: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and byte offsets of an ``.idx`` file ("key<tab>offset" a line), int64.

    Raises:
        KdbiasError: a line of another form.
    """
    from pyarrow import csv

    try:
        table = csv.read_csv(
            index,
            read_options=csv.ReadOptions(column_names=["key", "offset"]),
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}),
        )
        if any(column.null_count for column in table.columns) or not len(table):
            raise pa.ArrowInvalid("empty values")
    except pa.ArrowInvalid as error:
        raise KdbiasError(f"{index}: damaged index ({first_line(error)}); {ADVICE}") from None
    return table["key"].to_numpy(), table["offset"].to_numpy()


def scan_records(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys 0, 1, ... and byte offsets of all records, found by walking from record to record.

    Raises:
        KdbiasError: a record, or a part of one, that does not follow on its predecessor.
    """
    size, access = os.path.getsize(file), RandomAccess([file])
    offsets, offset, inside = array("q"), 0, False
    try:
        while offset < size:
            flag, length = _part(access, offset, inside)
            if not inside:
                offsets.append(offset)
            offset, inside = behind(offset, length), flag in (1, 2)
    except UnreadableImage as error:
        raise KdbiasError(f"{file}: {error}") from None
    if offset > size:
        raise KdbiasError(
            f"{file}: truncated: the last record ends {counted(offset - size, 'byte')} behind the file's end"
        )
    if inside:
        raise KdbiasError(f"{file}: truncated: the last part of a split record is missing")
    return np.arange(len(offsets), dtype=np.int64), np.array(offsets, np.int64)
