"""Locks of folders on a disk: one process works in a folder at a time.

The lock is POSIX's (``fcntl.lockf``): advisory, of the process, and given back by the system however it dies.
Unlike ``flock``'s it is not shared with forked workers, which may outlive a killed parent by seconds. Where
there is no such lock (Windows, some network file systems) nothing is locked.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import weakref
from pathlib import Path
from typing import Protocol

from kdbias.errors import KdbiasError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_OURS = re.compile(rb"(\d+ on [^\n]*\n?)?\Z")


class Claimed(Protocol):
    """What a lock holds beside its file: the folder's place in a store."""

    def require(self) -> None:
        """Raise MachineError where it was lost."""

    def release(self) -> None:
        """Give it back."""


class FolderLock:
    """A lock that is held until :meth:`release`, or until the object or the process is gone.

    Attributes:
        claim: of the folder that this one mirrors, see :mod:`kdbias.tables.mirrors`.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor, self._pid = path, descriptor, os.getpid()
        self.claim: Claimed | None = None

    @property
    def held(self) -> bool:
        """Whether this process still has it."""
        return self._descriptor >= 0 and self._pid == os.getpid()

    def release(self) -> None:
        """Give it back; again does nothing."""
        if not self.held:
            return
        if self.claim is not None:
            self.claim.release()
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


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock an existing folder for this process; within it, the same lock serves again.

    Raises:
        KdbiasError: another process holds it (named by its id), or what lies there is somebody's.
    """
    path = folder.resolve() / LOCK
    if (held := mine(folder)) is not None or fcntl is None:
        return held
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
    if mine(folder) is not None:
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


def mine(folder: Path) -> FolderLock | None:
    """The lock that this process has of a folder, or None."""
    found = _held.get(folder.resolve() / LOCK)
    return found if found is not None and found.held else None


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
