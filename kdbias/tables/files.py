"""Files that are either whole or absent, and folders in which one process works at a time.

A folder's lock is POSIX's (``fcntl.lockf``): advisory, of the process, and given back by the system however
it dies. Unlike ``flock``'s it is not shared with forked workers, which may outlive a killed parent by
seconds. Where there is no such lock (Windows, some network file systems) nothing is locked.
"""

import contextlib
import errno
import glob
import itertools
import os
import re
import socket
import stat
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path

from kdbias.errors import KdbiasError, UnwritableError
from kdbias.wording import did_you_mean, similar

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".kdbias-tmp"
MEND = "put back a whole copy, or make it again with --overwrite"
"""What to do about a file that is damaged."""
_LISTED = 10_000  # names of a folder that are looked through for a proposal
_DAY = 86_400.0  # seconds
_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter is a drive of Windows
_writing: set[Path] = set()  # temporary files of this process
LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_OURS = re.compile(rb"(\d+ on [^\n]*\n?)?\Z")


def refuse_store(path: str | os.PathLike[str], verb: str = "write to") -> None:
    """Refuse a URI (``s3://...``), which whatever knows no stores would take for a folder ``s3:``."""
    text = os.fspath(path)
    if _STORE.match(text):
        text = text if "://" in text else text.replace(":/", "://", 1)  # a Path has lost a slash
        raise KdbiasError(f"{text} is in a store, which kdbias does not {verb} here; give a local path")


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
    """The error of a path at which nothing lies; a URI is refused as one."""
    refuse_store(path, "read")
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
    target = Path(path)
    owner = f"{_host()}-{os.getpid()}"
    temporary = target.with_name(f"{target.name}.{owner}-{uuid.uuid4().hex[:8]}{_SUFFIX}")
    refuse_store(path)
    refuse_special(path)
    _writing.add(temporary)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
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
        _writing.discard(temporary)


def _is_about(error: OSError, temporary: Path) -> bool:
    """Whether an error came from writing this file, not from another one that was read meanwhile."""
    if isinstance(error, UnwritableError):
        return False
    if error.filename is None:  # a full disk names no file
        return error.errno is not None or temporary.name in str(error)
    named = Path(os.fsdecode(error.filename))
    return named == temporary or named in temporary.parents


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


def clean_temporaries(folder: str | os.PathLike[str], name: str = "") -> int:
    """Remove what killed processes left behind in ``folder``, or of its file ``name``; returns how many.

    A file whose process still runs, or may run on another host (which writes to it within a day), is left.
    """
    pattern = f"{glob.escape(name)}{'.' if name else ''}*{_SUFFIX}"
    stale = [path for path in Path(folder).glob(pattern) if not _may_be_alive(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _host() -> str:
    """This machine's name, as it stands in names of temporary files."""
    return "".join(c for c in socket.gethostname() if c.isalnum())[:16] or "host"


def _may_be_alive(path: Path) -> bool:
    """Whether the process that writes a temporary file still runs, as far as can be known."""
    owner = path.name.removesuffix(_SUFFIX).rpartition(".")[2].split("-")
    if len(owner) != 3 or not owner[1].isdigit():
        return False
    if owner[0] != _host():
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime < _DAY
        return False
    if int(owner[1]) == os.getpid():  # or of another process before, that had its number: in a container
        return path in _writing
    try:
        os.kill(int(owner[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class FolderLock:
    """A lock that is held until :meth:`release`, or until the object or the process is gone."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self._pid = path, descriptor, os.getpid()

    @property
    def held(self) -> bool:
        """Whether this process still has it."""
        return self._descriptor >= 0 and self._pid == os.getpid()

    def release(self) -> None:
        """Give it back; again does nothing."""
        if not self.held:
            return
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            self.path.unlink()  # still locked, so that nobody takes a file that is about to vanish
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.release()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # another process gets a run without its lock


_held: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()


def reserve(descriptor: int, size: int) -> None:
    """Make an open file so large, with room for all of it on its disk.

    Writing to a map for which the disk has no room ends the process by a signal.
    """
    os.truncate(descriptor, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock an existing folder for this process; within it, the same lock serves again.

    Raises:
        KdbiasError: another process holds it (named by its id), or what lies there is somebody's.
    """
    path = folder.resolve() / LOCK
    if (mine := _mine(path)) is not None or fcntl is None:
        return mine
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _CLOSED, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _foreign(path) from None
            return None  # a folder that cannot be written to cannot be spoilt either
        if not _is_ours(descriptor):
            os.close(descriptor)
            raise _foreign(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_still_there(path, descriptor):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
                lock = _held[path] = FolderLock(path, descriptor)
                return lock
        except OSError as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in _TAKEN:
                return None
            raise KdbiasError(
                f"{folder} is in use by another kdbias process (pid {owner or 'unknown'}): "
                "wait for it or stop it, or choose another -o"
            ) from None
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a process has locked the folder; False where there are no locks to tell it by."""
    path = folder.resolve() / LOCK
    if _mine(path) is not None:
        return True  # not looked at: a process that closes a file loses its own locks on it
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | _CLOSED)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # lets go when it is closed
    except OSError as error:
        return error.errno in _TAKEN
    finally:
        os.close(descriptor)
    return False


def _mine(path: Path) -> FolderLock | None:
    """The lock that this process has, or None."""
    mine = _held.get(path)
    return mine if mine is not None and mine.held else None


def _is_ours(descriptor: int) -> bool:
    """Whether a file is such a lock, or empty."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and bool(_OURS.match(os.pread(descriptor, 400, 0)))


def _foreign(path: Path) -> KdbiasError:
    """The refusal of somebody's file under the lock's name."""
    return KdbiasError(f"{path} is no lock that kdbias wrote; move it away, or choose another -o")


def is_still_there(path: Path, descriptor: int) -> bool:
    """False where the last holder removed the file between its opening and its locking here."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
