"""Memory that is filled by one process of a machine and mapped by all that ask for the same.

It is a file in shared memory, else in the folder for temporary files, named after a digest of all that
decides its content, so that none is ever read for another. Whoever comes first fills it under a lock
(``flock``), the others wait; it counts once its end says that it is whole. Each keeps a shared lock while it
has it mapped, and the last to leave removes it. The system gives locks back however a process dies, so what
killed ones leave is seen to be nobody's: it is never read, and removed by the next that fills a file. No
operation of a group is needed, which would have to be called by all.
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import socket
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdbias.progress import say
from kdbias.tables.files import reserve
from kdbias.tables.folder_lock import is_still_there
from kdbias.wording import human_bytes

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

Fill = Callable[[np.ndarray], None]
Held = Callable[[int, Fill], np.ndarray]
"""What gives (size,) uint8 that `fill` has filled."""

_SHARED = "/dev/shm"
_WHOLE = b"kdbias: whole\n"
_PAUSE = 0.01  # seconds


def in_own_memory(size: int, fill: Fill) -> np.ndarray:
    """(size,) uint8 of this process, filled."""
    memory = np.empty(size, np.uint8)
    fill(memory)
    return memory


def in_machine_memory(digest: str, size: int, fill: Fill) -> np.ndarray:
    """(size,) uint8 that all processes of this user and machine which name the same digest share.

    Where there are no such locks, or neither place has room, it is this process's own, which is said.

    Args:
        digest: of all that decides the content, fit for the name of a file.
    """
    if fcntl is not None:
        for folder in (_SHARED, tempfile.gettempdir()):
            with contextlib.suppress(OSError):
                return _mapped(Path(folder, _prefix() + digest), size, fill)
    say(
        f"neither {_SHARED} nor {tempfile.gettempdir()} has {human_bytes(size)} that the processes of this "
        "machine could share: each holds them for itself (docker run --shm-size, or TMPDIR, gives room)"
    )
    return in_own_memory(size, fill)


def _prefix() -> str:
    """How the names of files of this user and machine begin: the folder may be one that machines share."""
    return f"kdbias-{os.getuid()}-{socket.gethostname()}-"


def _mapped(path: Path, size: int, fill: Fill) -> np.ndarray:
    """The content of the file, filled by this process where no other has.

    Raises:
        OSError: it cannot be made there, or somebody else's lies there.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_uid != os.getuid():
                raise PermissionError(path)
            if _locked(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) and is_still_there(path, descriptor):
                if os.fstat(descriptor).st_size:  # of killed processes: never read, nor cut, but done anew
                    path.unlink()
                else:
                    _remove_left(path)
                    _filled(path, descriptor, size, fill)
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another fills it
            if is_still_there(path, descriptor) and _is_whole(descriptor, size):
                return _kept(path, descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another removed it, or died while it filled it
        time.sleep(_PAUSE)


def _filled(path: Path, descriptor: int, size: int, fill: Fill) -> None:
    """Fill the file, and say at its end that it is whole."""
    try:
        reserve(descriptor, size + len(_WHOLE))
        fill(np.frombuffer(mmap.mmap(descriptor, size), np.uint8))
        os.pwrite(descriptor, _WHOLE, size)
    except BaseException:
        path.unlink()
        raise


def _kept(path: Path, descriptor: int, size: int) -> np.ndarray:
    """The file as an array; when that is freed, or the process ends, the last one removes the file."""
    # What is written to it, as to a tensor on top of it, stays with this process: else it would be killed.
    mapping = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    weakref.finalize(mapping, _left, path, descriptor, os.getpid())
    return np.frombuffer(mapping, np.uint8)


def _left(path: Path, descriptor: int, process: int | None = None) -> None:
    """Close the file, and remove it where no process has a lock on it.

    Who has it mapped goes on to see it. A fork of the process that is named shares its lock, and has no say.
    """
    try:
        mine = process in (None, os.getpid()) and _locked(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if mine and is_still_there(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _remove_left(but: Path) -> None:
    """Remove what killed processes have left, whatever it was, but the file that is about to be filled."""
    for folder in (_SHARED, tempfile.gettempdir()):
        for path in {*glob.glob(glob.escape(f"{folder}/{_prefix()}") + "*")} - {str(but)}:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                _left(Path(path), descriptor)


def _locked(descriptor: int, how: int) -> bool:
    """Whether the lock was to be had; where not, the one that was held is gone, too."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _is_whole(descriptor: int, size: int) -> bool:
    """Whether the file is as large as it should be, and says at its end that it was filled."""
    whole = os.fstat(descriptor).st_size == size + len(_WHOLE)
    return whole and os.pread(descriptor, len(_WHOLE), size) == _WHOLE
