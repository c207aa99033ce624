"""The scratch folder, in which mirrors of stores lie: the user's own, or one that goes with its process."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdbias import scratch
from kdbias.errors import KdbiasError, MachineError
from kdbias.progress import say
from kdbias.tables.temporaries import SUFFIX, host, may_be_alive, temporary_beside
from kdbias.wording import human_bytes

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_TOLD = 1 << 28  # bytes to bring here that are worth a line
_TURN = ".turn"
_PRIVATE = "kdbias-scratch"
_SHARE = (
    "processes that work together share what lies in a store through a scratch folder that all of them see: "
    f"set {scratch.VARIABLE} to one"
)


def require_root(uri: str) -> None:
    """A scratch folder: the user's, or one of this process, which is removed when it ends."""
    named = scratch.root()
    try:
        if named is not None:
            Path(named).mkdir(parents=True, exist_ok=True)
            os.environ[scratch.VARIABLE] = os.path.dirname(named)  # wherever this process goes
            return
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise KdbiasError(f"{uri}: {_SHARE}")
        home = Path(tempfile.gettempdir())
        for left in home.glob(f"{_PRIVATE}.{host()}-*{SUFFIX}"):
            if not may_be_alive(left):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        made = temporary_beside(home / _PRIVATE)
        made.mkdir(mode=0o700)
    except OSError as error:
        where = named or tempfile.gettempdir()
        raise MachineError(
            f"no scratch folder can be made in {where} ({error.strerror}); set {scratch.VARIABLE} to one"
        ) from None
    os.environ[scratch.VARIABLE] = os.fspath(made)
    Path(scratch.root() or "").mkdir()
    atexit.register(_remove, made, os.getpid())


def _remove(made: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(made, ignore_errors=True)


def require_shared(*texts: str) -> None:
    """Refuse places in stores where several processes are to see one mirror of them.

    Args:
        texts: what may name such places.

    Raises:
        KdbiasError: the scratch folder is this process's own.
    """
    home = scratch.root()
    if home is not None and Path(home).parent.name.startswith(f"{_PRIVATE}."):
        seen = next((text for text in texts if home in text), None)
        if seen is not None:
            raise KdbiasError(f"{seen}: {_SHARE}")


def require_room(uri: str, needed: int) -> None:
    """Refuse what the scratch folder has no room for, and say what takes its time."""
    home = scratch.root() or ""
    free = shutil.disk_usage(home).free
    if needed > free:
        raise MachineError(
            f"{uri}: {human_bytes(needed)} are to be copied to the scratch folder {home}, where "
            f"{human_bytes(free)} are free; set {scratch.VARIABLE} to a folder with more room"
        )
    if needed > _TOLD:
        say(f"{uri}: {human_bytes(needed)} are copied to the scratch folder {home}")


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """One process at a time looks at locks of mirrors and brings these up to date."""
    if fcntl is None:
        yield
        return
    with open(Path(scratch.root() or "", _TURN), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
