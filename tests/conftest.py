"""Fixtures shared by the whole suite."""

import ctypes
import os
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="Record what tests/pinned compares, as it is now.")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is absent."""
    root = os.environ.get("KDBIAS_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data sets are absent: set KDBIAS_DATA to their folder")
    return Path(root)


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_DISABLED = 2


@pytest.fixture(autouse=True)
def signals_on_the_usual_stack() -> None:
    """Take away the signal stack that a library has given the main thread.

    After OpenVINO and onnxruntime have been at work in one process it is no longer good: the kernel cannot
    deliver a signal there (the end of a child, Ctrl-C), and the process dies.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _DISABLED, 0)), None)
