"""Files that are either whole or absent."""

import contextlib
import errno
import json
import os
import socket
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError, UnwritableError

_SUFFIX = ".kdbias-tmp"
MEND = "put back a whole copy, or make it again with --overwrite"
"""What to do about a file that is damaged."""


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


def clean_temporaries(folder: str | os.PathLike[str]) -> int:
    """Remove what killed processes left behind in ``folder``; returns how many files.

    A file whose process still runs, or may run on another host, is left alone.
    """
    stale = [path for path in Path(folder).glob(f"*{_SUFFIX}") if not _may_be_alive(path)]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:16] or "host"


def _may_be_alive(path: Path) -> bool:
    owner = path.name.removesuffix(_SUFFIX).rpartition(".")[2].split("-")
    if len(owner) != 3 or not owner[1].isdigit():
        return False
    if owner[0] != _host():
        return True
    try:
        os.kill(int(owner[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write strict JSON (no NaN) atomically, indented for people."""
    text = json.dumps(obj, indent=2, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(_text(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KdbiasError(f"{path}: not a JSON file ({error}); {MEND}") from None


def read_document(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """A JSON object that has at least these keys.

    Raises:
        KdbiasError: no such file, no JSON, no object, or keys are missing (they are named).
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise KdbiasError(f"{path} holds no JSON object; {MEND}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise KdbiasError(f"{path} lacks {', '.join(missing)}; {MEND}")
    return content


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KdbiasError(f"{path}: not a TOML file ({error})") from None


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KdbiasError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise KdbiasError(f"{path} is a folder; a file is needed here") from None
