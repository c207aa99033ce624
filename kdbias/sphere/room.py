"""Room for a number a sample: in memory, or in a file where the vectors lie in one."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import MachineError
from kdbias.tables.files import reserve
from kdbias.wording import human_bytes


def room(x: np.ndarray, shape: int | tuple[int, ...], kind: Any = np.float64) -> np.ndarray:
    """An array of no content yet, to be held beside the vectors ``x``.

    Where these are mapped from a file, it lies in a nameless file of the same folder, which goes with it.

    Raises:
        MachineError: there is no room on that disk.
    """
    if not isinstance(x, np.memmap) or x.filename is None:
        return np.empty(shape, kind)
    sides = (shape,) if isinstance(shape, int) else shape
    folder, size = Path(x.filename).parent, max(1, math.prod(sides)) * np.dtype(kind).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            reserve(file.fileno(), size)
        except OSError as error:
            needed = f"no room for {human_bytes(size)} ({error.strerror})"
            raise MachineError(f"{folder}: {needed}; make some, or choose another -o") from error
        return np.asarray(np.memmap(file, kind, "r+", shape=sides))


def beside(x: np.ndarray, array: np.ndarray) -> np.ndarray:
    """An array, moved to where `room` is for it if that is a file."""
    if not isinstance(x, np.memmap):
        return array
    found = room(x, array.shape, array.dtype)
    found[...] = array
    return found


def filled(x: np.ndarray, shape: int | tuple[int, ...], value: float) -> np.ndarray:
    """`room` for float64 numbers that are all one value."""
    found = room(x, shape)
    found.fill(value)
    return found
