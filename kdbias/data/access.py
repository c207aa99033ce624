"""Files of data sets, by path or URI: below a data root and nowhere else, and their digests.

Stores are those that pyarrow or fsspec knows (s3, gs, hdfs, ...). Digests keep to a budget of bytes, however
many and large the files are.
"""

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa
from pyarrow import fs

from kdbias.data.decode import UnreadableImage
from kdbias.errors import KdbiasError, MachineError
from kdbias.tables import fingerprints
from kdbias.tables.stores import located, told
from kdbias.tables.stores import names_in as names_in_store

MAX_FILE_BYTES = 1 << 29
"""Larger files are no images: they are refused before they fill the memory."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FLAGS = os.O_RDONLY | _NOFOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def leaves_root(path: str) -> bool:
    """Whether a relative path, taken literally, points outside the folder it starts from."""
    if "\0" in path or path.startswith(("/", "\\")) or os.path.isabs(path) or path[1:2] == ":":
        return True
    return ".." in path.replace("\\", "/").split("/")


def is_inside(path: str, root: str) -> bool:
    """Whether a path, links followed, lies in the folder ``root`` (itself without links)."""
    return _is_below(os.path.realpath(path), root)


def _is_below(real: str, root: str) -> bool:
    """`is_inside` for a path without links."""
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def join_root(root: str, path: str, what: str) -> str:
    """``root/path`` for a path that a file names, refused when it leaves the root.

    Raises:
        KdbiasError: the path is absolute or climbs out of the root.
    """
    if leaves_root(path):
        raise KdbiasError(
            f"{what}: {path!r} leaves the data root {root!r}; give a path below it, or another --root"
        )
    return join(root, path.replace("\\", "/"))


def spellings(name: str) -> list[str]:
    """A name or path as it stands, and as other systems write it: with ``/``, composed and decomposed."""
    slashed = name.replace("\\", "/")
    forms = [unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")]
    return list(dict.fromkeys((name, slashed, *forms)))


def _found(root: str, path: str) -> str | None:
    """Another spelling of a relative path under which a file is there; each folder may have its own."""
    found = ""
    for part in path.replace("\\", "/").split("/"):
        there = (os.path.join(found, name) for name in spellings(part))
        found = next((name for name in there if os.path.lexists(os.path.join(root, name))), "")
        if not found:
            return None
    return found if found != path else None


def read_below(root: str, path: str) -> bytes:
    """Bytes of a regular file at a relative path below ``root``.

    Where no file has the path as it stands, one is sought that has it in another of its `spellings`.

    Raises:
        UnreadableImage: missing, not a regular file, too large, or outside the root once links are followed.
    """
    real_root = _real(root)
    if leaves_root(path):
        raise UnreadableImage(f"path {path!r} leaves the data root")
    full = os.path.join(root, path)
    # The folder is resolved once for all its files; O_NOFOLLOW makes sure that the file itself is no link.
    folder = _real(os.path.dirname(full))
    if not _is_below(folder, real_root):
        raise UnreadableImage(f"path {path!r} leaves the data root through a symbolic link")
    try:
        with os.fdopen(_open(os.path.join(folder, os.path.basename(full)), real_root), "rb", 0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage(f"{path!r} is not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise UnreadableImage(f"{path!r} has {status.st_size:,} bytes, limit {MAX_FILE_BYTES:,}")
            return file.read()
    except OSError as error:
        if error.errno == errno.ENOENT and (other := _found(root, path)) is not None:
            return read_below(root, other)
        raise UnreadableImage(f"cannot read {path!r}: {error.strerror or error}") from None


def _open(path: str, real_root: str) -> int:
    """A file descriptor for `path`; a link is followed only while it stays inside `real_root`."""
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        if error.errno not in (errno.ELOOP, getattr(errno, "EMLINK", errno.ELOOP)):
            raise
    real = os.path.realpath(path)
    if not is_inside(real, real_root):
        raise UnreadableImage(f"{path!r} is a symbolic link that leaves the data root")
    return os.open(real, _FLAGS)


@lru_cache(maxsize=65536)
def _real(folder: str) -> str:
    """The folder without symbolic links."""
    return os.path.realpath(folder)


UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged or missing file raises."""


def is_uri(path: str) -> bool:
    """Whether a path names its store ("s3://bucket/x.parquet")."""
    return "://" in path


def without_scheme(path: str) -> str:
    """A local file's path for its URI (so that links are checked as for any local path); other URIs as they
    are."""
    if not path.startswith("file://"):
        return path
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(path).path)


def open_input(path: str) -> pa.NativeFile:
    """A file for reading at any position; a local one is memory-mapped.

    Raises:
        OSError: it is not there or cannot be read.
        KdbiasError: as the store refuses.
    """
    if not is_uri(path):
        return pa.memory_map(path)
    filesystem, inner = located(path)
    with told(path):
        return filesystem.open_input_file(inner)


def size_of(path: str) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: no such file.
    """
    if not is_uri(path):
        return os.path.getsize(path)
    filesystem, inner = located(path)
    with told(path):
        info = filesystem.get_file_info(inner)
    if info.type is not fs.FileType.File:
        raise FileNotFoundError(2, "no such file", path)
    return info.size


def names_in(folder: str) -> list[str] | None:
    """Names in a folder, or None if it is none."""
    if not is_uri(folder):
        return os.listdir(folder) if os.path.isdir(folder) else None
    return names_in_store(folder)


def parent_of(path: str) -> str:
    """The folder that holds a file."""
    if not is_uri(path):
        return os.path.dirname(os.path.abspath(path))
    base, mark, options = path.partition("?")
    return base.rpartition("/")[0] + mark + options


def read_at(root: str, path: str) -> bytes:
    """Bytes of a file at a relative path below a folder or URI, sought as `read_below` does.

    Each process connects to a store for itself. (The S3 client does not survive a fork: workers should be
    spawned.)

    Raises:
        UnreadableImage: missing, too large, refused, or outside the root.
        MachineError: the store cannot be reached.
    """
    if not is_uri(root):
        return read_below(root, path)
    if leaves_root(path):
        raise UnreadableImage(f"path {path!r} leaves the data root")
    for spelling in spellings(path):
        try:
            with told(root), open_input(join(root, spelling)) as file:
                size = file.size()
                if size > MAX_FILE_BYTES:
                    raise UnreadableImage(f"{path!r} has {size:,} bytes, limit {MAX_FILE_BYTES:,}")
                return file.read()
        except FileNotFoundError:
            continue
        except (MachineError, UnreadableImage):
            raise
        except KdbiasError as error:
            raise UnreadableImage(f"cannot read {path!r}: {error}") from None
    raise UnreadableImage(f"cannot read {path!r}: no such file")


def join(root: str, path: str) -> str:
    """``root/path``; the options of a URI ("?region=...") stay at the end."""
    if not is_uri(root):
        return os.path.join(root, path)
    base, mark, options = root.partition("?")
    return f"{base.rstrip('/')}/{path}{mark}{options}"


WHOLE_BYTES = 1 << 30
"""Data sets up to this size are digested whole."""

SPREAD_BYTES = 1 << 26
"""What is read of larger ones, spread over all their files (up to twice as much where these are many)."""

_PIECE = 1 << 20
_SMALLEST_PIECE = 1 << 12


def digests_of(files: Sequence[str]) -> list[str]:
    """A digest of each file of a data set, 32 hex digits.

    Up to 1 GiB in all, every byte counts. Beyond, a file counts by its size, both its ends and pieces spread
    between them, about 64 MiB over all files. What goes unnoticed then is a change that leaves every size as
    it was and lies between the pieces, such as an image overwritten by one of as many bytes.

    Args:
        files: paths or URIs, the files of one data set.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    sizes = [size_of(file) for file in files]
    if sum(sizes) <= WHOLE_BYTES:
        return [_whole(file) for file in files]
    gaps = max(1, SPREAD_BYTES // _PIECE // len(files))
    piece = min(_PIECE, max(_SMALLEST_PIECE, SPREAD_BYTES // (gaps * len(files))))
    return [_spread(file, size, gaps, piece) for file, size in zip(files, sizes, strict=True)]


def digest_of(file: str) -> str:
    """The digest of a data set of one file, see `digests_of`."""
    return digests_of([file])[0]


def _whole(file: str) -> str:
    """Fingerprint of all of a file's bytes, local or behind a URI."""
    if not is_uri(file):
        return fingerprints.of_file(file)
    with open_input(file) as handle:
        return fingerprints.of_stream(handle)


def _spread(file: str, size: int, gaps: int, piece: int) -> str:
    """Fingerprint of a file's size and of `gaps + 1` pieces of `piece` bytes spread over it."""
    if size <= (gaps + 1) * piece:
        return _whole(file)
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open_input(file) as handle:
        for number in range(gaps + 1):
            handle.seek(min(number * (size // gaps), size - piece))
            digest.update(handle.read(piece))
    return digest.hexdigest()
