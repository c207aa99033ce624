"""Reading files below a data root, and nothing outside it."""

import errno
import os
import stat
import unicodedata
from functools import lru_cache

from kdbias.data.decode import UnreadableImage
from kdbias.errors import KdbiasError

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
    real = os.path.realpath(path)
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
    if "://" in root:
        return f"{root.rstrip('/')}/{path}"
    return os.path.join(root, *path.replace("\\", "/").split("/"))


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
    if not (folder == real_root or folder.startswith(real_root.rstrip(os.sep) + os.sep)):
        raise UnreadableImage(f"path {path!r} leaves the data root through a symbolic link")
    try:
        handle = _open(os.path.join(folder, os.path.basename(full)), real_root)
    except UnreadableImage:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT and (other := _found(root, path)) is not None:
            return read_below(root, other)
        raise UnreadableImage(f"cannot open {path!r}: {error.strerror or error}") from None
    with os.fdopen(handle, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(f"{path!r} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"{path!r} has {status.st_size:,} bytes, limit {MAX_FILE_BYTES:,}")
        try:
            return file.read()
        except OSError as error:
            raise UnreadableImage(f"cannot read {path!r}: {error.strerror or error}") from None


def _open(path: str, real_root: str) -> int:
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
    return os.path.realpath(folder)
