"""The fused kernels of a GPU, run by Triton's interpreter on the CPU."""

from collections.abc import Callable

import pytest

from kdbias.sphere import triton_tiles
from kdbias.sphere.all_pairs import AllPairs, all_pairs


@pytest.fixture
def interpreted(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AllPairs]:
    """`all_pairs` by the fused kernels, in blocks as large as tiles: the interpreter is slow by the block."""

    def pairs(x, *args, tile: int = 64, **options) -> AllPairs:
        block = min(128, max(16, 1 << (tile - 1).bit_length()))
        monkeypatch.setattr(triton_tiles, "SHAPES", dict.fromkeys((False, True), (block, 4, 3)))
        return all_pairs(x, *args, tile=tile, **options, device="cpu:0")

    return pairs
