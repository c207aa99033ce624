"""Fixtures shared by the whole suite."""

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():
    # Where there is no GPU its kernels are interpreted; Triton asks for this when it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="Record what tests/pinned compares, as it is now.")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is absent."""
    root = os.environ.get("KDBIAS_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data sets are absent: set KDBIAS_DATA to their folder")
    return Path(root)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's device ``cpu:0`` runs the fused kernels of a GPU, in Triton's interpreter."""
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch on Linux")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is a GPU, where the kernels themselves run")
    monkeypatch.setattr("kdbias.sphere.triton_pairs.trusted", lambda device: True)
