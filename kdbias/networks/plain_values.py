"""Stand-ins for what training scripts store beside the weights: a checkpoint is read without its code.

NumPy's numbers and arrays (a best accuracy, a state of random numbers) and argparse's options are no tensors,
and torch refuses a file for them. NumPy's own functions are not let in: a dtype from a pickle can claim flags
that make memory out of its bytes. What stands here knows plain numbers alone.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from kdbias.errors import first_line

_SURPRISES = (EOFError, LookupError, TypeError, AttributeError, AssertionError)
_PLAIN = re.compile(r"[<>=|]?([biuf][1248]|[SU]\d{1,6})")


class _Dtype:
    """`numpy.dtype(code, align, copy)` of numbers or texts."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def read(self, data: Any) -> np.ndarray:
        if not _PLAIN.fullmatch(self.code) or self.order not in "<>=|" or not isinstance(data, bytes):
            raise ValueError(f"it holds a NumPy value that is neither number nor text ({self.code})")
        kind = np.dtype(f"{self.order}{self.code.lstrip('<>=|')}")
        return np.frombuffer(data, kind) if data else np.empty(0, kind)


class NumpyArray:
    """`numpy.ndarray` as pickled: `value` is the array."""

    value: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        self.value = dtype.read(data).reshape(shape, order="F" if by_columns else "C").copy()


class _Options:
    """`argparse.Namespace`, `pathlib.Path`: whatever it says stays unread."""

    def __init__(self, *_: Any) -> None:
        pass


def _array(*_: Any) -> NumpyArray:
    """An array that the file's state then fills."""
    return NumpyArray()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """The number that these bytes are in this dtype."""
    return dtype.read(data).item()


def _no_bytes() -> bytes:
    """`bytes()`, as the data of an empty array are written; with an argument it would make any size."""
    return b""


_NUMPY = {"multiarray.scalar": _scalar, "multiarray._reconstruct": _array}
_KNOWN: list[tuple[Any, str]] = [
    *((known, f"{core}.{name}") for core in ("numpy.core", "numpy._core") for name, known in _NUMPY.items()),
    *((_no_bytes, f"{builtins}.bytes") for builtins in ("builtins", "__builtin__")),
    (_Dtype, "numpy.dtype"),
    (NumpyArray, "numpy.ndarray"),
    *((_Options, name) for name in ("argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath")),
]


@contextlib.contextmanager
def plain_values() -> Iterator[None]:
    """Within it `torch.load(weights_only=True)` reads these values too (not with torch before 2.6)."""
    older = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6)
    known: Any = contextlib.nullcontext() if older else torch.serialization.safe_globals(_KNOWN)  # type: ignore[arg-type]
    with known, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about files that are refused then
        yield


SAVE_WEIGHTS = (
    "m = torch.load(FILE, weights_only=False); "
    "m = m.get('state_dict', m.get('model', m)) if isinstance(m, dict) else m; "
    "torch.save(getattr(m, 'state_dict', lambda: m)(), 'weights.pt')"
)
"""Python that takes the weights out of a module, or of a dictionary that holds them or a module."""


def why_refused(error: Exception) -> str:
    """Why torch did not read a file, in a line; its advice to load the file without a check is left out."""
    text = " ".join(str(error).split())
    if "TorchScript archive" in text:
        return "it is a TorchScript program: torchscript:FILE runs it"
    found = re.search(r"GLOBAL ([\w.<>]+)", text)
    if found:
        return (
            f"it holds {found[1]}, which is code, not numbers; where you trust it, save its weights alone: "
            f"{SAVE_WEIGHTS}"
        )
    if "Unsupported operand" in text or isinstance(error, _SURPRISES):
        return "its bytes are not what torch.save writes"
    inner = text.partition("WeightsUnpickler error: ")[2]
    return inner.partition(" Check the documentation")[0] or first_line(error)
