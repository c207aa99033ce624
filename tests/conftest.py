"""Fixtures shared by the whole suite."""

import os
import signal
import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def no_handler_of_childs_ends() -> Iterator[None]:
    """Take torch's handler of SIGCHLD away again, which its data loaders leave behind.

    In a process in which OpenVINO and onnxruntime have been at work, too, the kernel could not deliver that
    signal any more, and the end of a child killed its parent.
    """
    yield
    loaders = sys.modules.get("torch.utils.data._utils.signal_handling")
    if loaders is not None and signal.getsignal(signal.SIGCHLD) not in (signal.SIG_DFL, None):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        loaders._SIGCHLD_handler_set = False
