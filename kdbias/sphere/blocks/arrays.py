"""Arrays in a file that is whole or absent, with a digest of all of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash

from kdbias.errors import MachineError
from kdbias.tables.files import atomic_path, remove


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, one after another, and their digest."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.array([*arrays], dtype=np.str_))
        for array in arrays.values():
            np.save(file, array)
        np.save(file, np.array(_digest(arrays)))


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None where the file is absent or damaged."""
    try:
        with open(path, "rb") as file:
            names = np.load(file, allow_pickle=False).tolist()
            arrays = {name: np.load(file, allow_pickle=False) for name in names}
            digest = str(np.load(file, allow_pickle=False))
    except MemoryError:
        raise
    except Exception:  # none, or a damaged one, of which NumPy raises what its bytes lead to
        return None
    return arrays if digest == _digest(arrays) else None


def required_arrays(path: Path) -> dict[str, np.ndarray]:
    """`read_arrays` of a file that should be there.

    Raises:
        MachineError: it is gone or damaged; it is removed, so that its unit is done again.
    """
    arrays = read_arrays(path)
    if arrays is None:
        with contextlib.suppress(OSError):
            remove(path)
        raise MachineError(f"{path} is gone or damaged; run the same command again to make it anew")
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, types, shapes and values: cheap beside the pass, as it meets chance alone."""
    digest = xxhash.xxh3_128()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
