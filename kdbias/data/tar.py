"""The members of a plain tar, every header checked.

Python's tarfile takes a damaged header, a zeroed block or the end of a cut file for the end of the archive,
and some of its versions never come back from a negative size. Here all of these are refused: headers must
follow on each other up to the end mark (two blocks of zeros), and only zeros may follow that.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from kdbias.errors import KdbiasError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_PIECE = 1 << 20
_MAX_EXTENDED_BYTES = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_FILES = (b"0", b"\0", b"7")
_OTHERS = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: headers without content
_FOLDER, _LONG_NAME, _LONG_LINK, _VOLUME, _SPARSE = b"5", b"L", b"K", b"V", b"S"
_EXTENDED = (b"x", b"X", b"g")


class Member(NamedTuple):
    """A file in a tar, or a link or device, which holds nothing.

    Attributes:
        name: path in the tar.
        offset, size: where its content lies, in bytes.
        is_file: whether it is a file.
    """

    name: str
    offset: int
    size: int
    is_file: bool


def read_members(handle: BinaryIO, file: str) -> Iterator[Member]:
    """The files, links and devices of a tar (ustar, GNU, pax or older), in its order.

    Args:
        handle: the tar, opened unbuffered or buffered; it may be moved between two members.
        file: its name, for messages.

    Raises:
        KdbiasError: compressed, empty, cut or damaged, joined to another, a sparse member, or a name that is
            not UTF-8.
    """
    size = os.fstat(handle.fileno()).st_size
    at, extended, shared = 0, dict[str, str](), dict[str, str]()
    while True:
        header = _read(handle, at, _BLOCK)
        if header == _ZEROS and not extended:
            return _check_end(handle, file, at)
        try:
            kind, length = _checked(header)
            if kind not in (*_EXTENDED, _LONG_NAME, _LONG_LINK):
                fields = shared | extended
                member, length = _member(header, kind, at + _BLOCK, length, fields)
                if at + _BLOCK + length > size:
                    raise ValueError(f"the member {member.name!r} is cut")
                if kind not in (_FOLDER, _VOLUME) and not (kind == b"\0" and member.name.endswith("/")):
                    yield member
                extended = {}
            elif length > _MAX_EXTENDED_BYTES:
                raise ValueError(f"an extended header of {length:,} bytes")
            else:
                body = _read(handle, at + _BLOCK, length)
                if len(body) < length:
                    raise ValueError("an extended header is cut")
                (shared if kind == b"g" else extended).update(_fields(kind, body))
        except UnicodeDecodeError as error:
            raise KdbiasError(
                f"{file}: the name {error.object[:100]!r} of the member at byte {at:,} is not UTF-8; rename "
                "it and pack the tar anew"
            ) from None
        except ValueError as error:
            raise _no_tar(file, b"" if at else header, f"{error}, at byte {at:,} of {size:,}") from None
        at += _BLOCK + -(-length // _BLOCK) * _BLOCK


def _no_tar(file: str, start: bytes, what: str) -> KdbiasError:
    """Error for a file that is compressed, as its start shows, or no tar."""
    packer = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if packer is None:
        return _damaged(file, what)
    return KdbiasError(f"{file}: compressed with {packer}; decompress it first: images are read in any order")


def _damaged(file: str, what: str) -> KdbiasError:
    """Error for a tar that is cut short or damaged."""
    return KdbiasError(f"{file}: no whole .tar ({what}); copy it again, or pack its files anew")


def _read(handle: BinaryIO, at: int, length: int) -> bytes:
    """`length` bytes from offset `at`, fewer at the file's end."""
    handle.seek(at)
    return handle.read(length)


def _check_end(handle: BinaryIO, file: str, at: int) -> None:
    """Refuse an end mark of a single block, and anything but zeros behind it."""
    handle.seek(at)
    seen = 0
    while piece := handle.read(_PIECE):
        if piece.count(0) < len(piece):
            place = at + seen + len(piece) - len(piece.lstrip(b"\0"))
            what = f"not zeros alone behind its end mark, but something at byte {place:,}"
            raise _damaged(file, f"{what}: a zeroed header, or tars joined to one file")
        seen += len(piece)
    if seen < 2 * _BLOCK:
        raise _damaged(file, f"it is cut within its end mark, at byte {at:,}")


def _checked(header: bytes) -> tuple[bytes, int]:
    """Type and size that a header announces; ValueError where it is none."""
    if len(header) < _BLOCK:
        raise ValueError("it ends within a header" if header else "it ends without its end mark")
    if header == _ZEROS:
        raise ValueError("an extended header without a member")
    summed = header[:148] + b" " * 8 + header[156:]
    total, stored = sum(summed), _number(header[148:156])
    if stored != total and stored != total - 256 * sum(byte > 127 for byte in summed):  # some old writers
        raise ValueError("a damaged header")
    return header[156:157], _number(header[124:136])


def _number(field: bytes) -> int:
    """A number in octal digits, or in base 256 behind the byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits and not digits.isdigit():
        raise ValueError(f"a header with the number {field!r}")
    return int(digits or b"0", 8)


def _member(
    header: bytes, kind: bytes, offset: int, length: int, fields: dict[str, str]
) -> tuple[Member, int]:
    """A member, and how many bytes its content takes."""
    name = fields.get("path")
    if name is None:
        name = _text(header[:100])
        prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
        name = f"{prefix}/{name}" if prefix else name
    if kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in fields):
        raise ValueError(f"the member {name!r} is sparse: pack without --sparse")
    if kind not in (*_FILES, *_OTHERS, _VOLUME):
        raise ValueError(f"the member {name!r} is of the unknown type {kind!r}")
    if kind in _OTHERS:
        return Member(name, offset, 0, False), 0
    length = int(fields.get("size", length))
    return Member(name, offset, length, True), length


def _text(field: bytes) -> str:
    """A header field up to its first zero byte."""
    return field.partition(b"\0")[0].decode()


def _fields(kind: bytes, body: bytes) -> dict[str, str]:
    """What an extended header says of the member behind it (kind "g": of all that follow): a long name, or
    records "length key=value\\n", of which only those that matter are decoded."""
    if kind in (_LONG_NAME, _LONG_LINK):
        return {"path": _text(body)} if kind == _LONG_NAME else {}
    fields: dict[str, str] = {}
    at, body = 0, body.rstrip(b"\0")
    while at < len(body):
        digits, space, _ = body[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() and space else 0
        record = body[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) < length or not record.endswith(b"\n") or not equals:
            raise ValueError("a damaged extended header")
        if key == b"size" and not (value.isdigit() and len(value) < 20):
            raise ValueError(f"an extended header with the size {value[:40]!r}")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
            fields[key.decode("latin-1")] = value.decode()
        at += length
    return fields
