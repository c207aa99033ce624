"""Temporary files beside outputs: named by who writes them, removed once that process is gone."""

import contextlib
import glob
import os
import shutil
import socket
import time
import uuid
from pathlib import Path

SUFFIX = ".kdbias-tmp"
_DAY = 86_400.0  # seconds
_writing: set[Path] = set()  # temporary files of this process


def temporary_beside(target: Path) -> Path:
    """A new name beside a file, of this process; given back by `done_with`."""
    owner = f"{host()}-{os.getpid()}"
    path = target.with_name(f"{target.name}.{owner}-{uuid.uuid4().hex[:8]}{SUFFIX}")
    _writing.add(path)
    return path


def done_with(path: Path) -> None:
    """Say that nothing is written to a temporary file any more."""
    _writing.discard(path)


def clean_temporaries(folder: str | os.PathLike[str], name: str = "") -> int:
    """Remove what killed processes left behind in ``folder``, or of its file ``name``; returns how many.

    What belongs to a process that still runs, or may run on another host (it writes within a day), is left.
    """
    pattern = f"{glob.escape(name)}{'.' if name else ''}*{SUFFIX}"
    stale = [path for path in Path(folder).glob(pattern) if not may_be_alive(path)]
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(stale)


def host() -> str:
    """This machine's name, as it stands in names of temporary files."""
    return "".join(c for c in socket.gethostname() if c.isalnum())[:16] or "host"


def may_be_alive(path: Path) -> bool:
    """Whether the process that writes a temporary file still runs, as far as can be known."""
    owner = path.name.removesuffix(SUFFIX).rpartition(".")[2].split("-")
    if len(owner) != 3 or not owner[1].isdigit():
        return False
    if owner[0] != host():
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
