"""Files that are either whole or absent; what changes them changes their store, too, if they mirror one."""

import contextlib
import ctypes
import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from kdbias.errors import KdbiasError, UnwritableError
from kdbias.scratch import named, store_uri, uri_of
from kdbias.tables.temporaries import done_with, temporary_beside
from kdbias.wording import did_you_mean, similar

MEND = "put back a whole copy, or make it again with --overwrite"
"""What to do about a file that is damaged."""
_WEB = re.compile(r"https?:/", re.IGNORECASE)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_LISTED = 10_000  # names of a folder that are looked through for a proposal


def refuse_web(path: str | os.PathLike[str]) -> None:
    """Refuse a URI that names no folder or file which can be written (``https://...``)."""
    text = os.fspath(path)
    if _WEB.match(text):
        text = text if "://" in text else text.replace(":/", "://", 1)  # a Path has lost a slash
        raise KdbiasError(f"{text} cannot be written to; give a local path or a place in a store (s3://...)")


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Refuse a FIFO, a socket or a device: reading one may wait for ever, writing replace it."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # whoever opens it says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise KdbiasError(f"{path} is {kind}; a plain file is needed here")


def require_there(path: str | os.PathLike[str], what: str = "file") -> None:
    """Refuse a path at which nothing lies; the nearest that there is follows."""
    if not os.path.exists(path):
        raise absent(path, what)


def absent(path: str | os.PathLike[str], what: str = "file") -> KdbiasError:
    """The error of a path at which nothing lies."""
    return KdbiasError(f"{path}: no such {what}{nearest_path(path)}")


def nearest_path(path: str | os.PathLike[str]) -> str:
    """The end of a message about a path that is not there: ``; did you mean 'pets/cat'?``, or nothing.

    The first part of it that is not there is looked for among the first 10,000 names of its folder.
    """
    text = os.fspath(path)
    folder, name = os.path.split(text.rstrip(os.sep))
    tail = ""
    while folder and not os.path.isdir(folder):
        tail = os.path.join(name, tail) if tail else name
        if folder == os.path.dirname(folder):
            return ""
        folder, name = os.path.split(folder)
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in itertools.islice(entries, _LISTED)]
    except OSError:
        return ""
    found = [os.path.join(folder, near) for near in similar(name, names)]
    whole = [os.path.join(near, tail) for near in found if tail]
    return did_you_mean([path for path in whole if os.path.exists(path)] or found)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed over ``path``.

    On an error the temporary file is removed and ``path`` is left as it was.

    Raises:
        UnwritableError: nothing can be written there; it names ``path``, never the temporary file.
    """
    refuse_web(path)
    target = Path(path) if store_uri(path) is None else _mirrors().local_path(path)
    refuse_special(path)
    temporary = temporary_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        if uri_of(target) is not None:
            _mirrors().put(temporary, target)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and _is_about(error, temporary):
            code = error.errno or errno.EIO
            code = errno.ENOTDIR if code == errno.EEXIST else code  # a file where its folder should be
            raise UnwritableError(code, os.strerror(code), str(target)) from error
        raise
    finally:
        done_with(temporary)


def _is_about(error: OSError, temporary: Path) -> bool:
    """Whether an error came from writing this file, not from another one that was read meanwhile."""
    if isinstance(error, UnwritableError):
        return False
    if error.filename is None:  # a full disk names no file
        return error.errno is not None or temporary.name in str(error)
    named = Path(os.fsdecode(error.filename))
    return named == temporary or named in temporary.parents


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8, whole or not at all; what lies in a store is named by its URI in it."""
    with atomic_path(path) as temporary:
        temporary.write_text(named(text), encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if uri_of(path) is not None:
        _mirrors().drop(path)
    path.unlink(missing_ok=True)


def remove_tree(folder: Path, wholly: bool = False) -> None:
    """Remove a folder with all that is in it, as far as it can be; ``wholly`` raises OSError for the rest."""
    if uri_of(folder) is not None:
        _mirrors().drop(folder)
    shutil.rmtree(folder, ignore_errors=not wholly)


def move(old: Path, new: Path) -> None:
    """Give a file or folder another name, in place of the file that has it."""
    os.replace(old, new)
    if uri_of(new) is not None:
        _mirrors().rename(old, new)


def exchange(one: Path, other: Path) -> None:
    """Let two local folders beside each other take each other's place: at one moment, where that can be."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # no such call in this system
        swap = ctypes.CDLL(None).renameat2
        if swap(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE) == 0:
            return
    aside = aside_of(other)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def aside_of(folder: Path) -> Path:
    """Where `exchange` keeps a folder for a moment; a kill just then leaves it there."""
    return folder.with_name(f".{folder.name}.replaced")


def _mirrors() -> ModuleType:
    from kdbias.tables import mirrors  # with pyarrow, which no --help waits for

    return mirrors


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (a no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Make an open file so large, with room for all of it on its disk.

    Writing to a map for which the disk has no room ends the process by a signal.
    """
    os.truncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
