"""The fused kernels of a GPU, run by Triton's interpreter on the CPU."""

import os
from collections.abc import Callable

import pytest

from kdbias.sphere import triton_pairs
from kdbias.sphere.all_pairs import AllPairs, all_pairs


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's device ``cpu:0`` runs the fused kernels."""
    pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch on Linux")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is a GPU, where the kernels themselves run")
    monkeypatch.setattr(triton_pairs, "available", lambda device: True)


@pytest.fixture
def interpreted(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AllPairs]:
    """`all_pairs` by the fused kernels, in blocks as large as tiles: the interpreter is slow by the block."""

    def pairs(x, *args, tile: int = 64, **options) -> AllPairs:
        block = min(128, max(16, 1 << (tile - 1).bit_length()))
        monkeypatch.setattr(triton_pairs, "BLOCK", block)
        monkeypatch.setattr(triton_pairs, "SPLIT_BLOCK", block)
        return all_pairs(x, *args, tile=tile, **options, device="cpu:0")

    return pairs
