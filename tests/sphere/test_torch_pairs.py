"""What torch tiles do on a device, watched on torch's CPU device; their results are in `test_backends`."""

import weakref
from collections.abc import Callable

import numpy as np
import pytest

from kdbias.sphere import torch_pairs
from kdbias.sphere.all_pairs import all_pairs
from tests import reference

torch = pytest.importorskip("torch")


def test_a_full_device_gets_smaller_tiles(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    original = torch_pairs._Pass._tile
    sizes = []
    passes = weakref.WeakSet()
    alive = []

    def tile(self, rows: slice, columns: slice) -> None:
        passes.add(self)
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 300:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        original(self, rows, columns)

    monkeypatch.setattr(torch_pairs._Pass, "_tile", tile)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(len(passes)))
    x = reference.clustered_sphere(1100, 8, 5)
    found = all_pairs(x, [3.0], k=4, device="cpu:0", tile=1024)
    np.testing.assert_allclose(found.potentials[0, 0], reference.potentials(x, 3.0), rtol=1e-5)
    assert sizes[:3] == [1024, 512, 256]
    assert alive == [0, 0, 0]  # what each attempt held was let go before its memory was given back
    assert "out of memory" in capsys.readouterr().err


def calls_of_torch(note: Callable[[object], None]):
    """A context in which every function that torch is asked for is noted."""

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            note(function)
            return function(*args, **(kwargs or {}))

    return Mode()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("process", ["highest", "high", "medium"])
def test_products_have_the_precision_asked_for(precision: str, process: str) -> None:
    """Whatever the process has set for its own products."""
    products = (torch.Tensor.matmul, torch.Tensor.__matmul__)
    seen: list[str] = []

    def note(function) -> None:
        if function in products:
            seen.append(torch.get_float32_matmul_precision())

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(process)
    try:
        with calls_of_torch(note):
            all_pairs(np.eye(5, dtype=np.float32), [3.0], k=2, near=0.9, device="cpu:0", precision=precision)
        assert torch.get_float32_matmul_precision() == process
    finally:
        torch.set_float32_matmul_precision(before)
    neighbours, low, *others = seen
    assert neighbours == "highest"
    assert low == ("high" if precision == "tf32" else "highest")
    assert others == ["highest"] * len(others)
    # A sum, and the exact cosines of copies.
    assert len(others) == (1 if precision == "float32" else 2)


def test_a_tile_costs_an_exponential_a_chain_and_no_wait() -> None:
    calls: list[object] = []
    with calls_of_torch(calls.append):
        all_pairs(reference.random_sphere(20, 4), [2.0, 5.0, 4.0, 8.0], device="cpu:0", tile=8)
    tiles = 6
    assert calls.count(torch.Tensor.exp2_) == 2 * tiles  # 2-4-8 and 5
    tensor = torch.Tensor
    waits = (tensor.tolist, tensor.item, tensor.__int__, tensor.__float__, tensor.__bool__)
    assert sum(calls.count(wait) for wait in waits) == 0


@pytest.mark.parametrize("tile", [3, 8, 64])
def test_equal_cosines_go_by_the_smaller_position(tile: int) -> None:
    """Also where they tie for the last places, within a block of columns and between blocks."""
    x = np.repeat(np.eye(6, dtype=np.float32), [40, 30, 20, 10, 5, 1], axis=0)
    x = np.ascontiguousarray(x[np.random.default_rng(0).permutation(len(x))])
    found = all_pairs(x, k=12, device="cpu:0", tile=tile)
    cosines = x @ x.T
    np.fill_diagonal(cosines, -2)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(found.ids, expected)


def test_progress_counts_every_pair_once() -> None:
    x = reference.random_sphere(96, 4)
    for asked in ({"k": 3}, {"bandwidths": [2.0]}, {"k": 3, "bandwidths": [2.0], "near": 0.9}):
        done: list[int] = []
        all_pairs(x, device="cpu:0", tile=8, progress=done.append, **asked)
        assert sum(done) == 96 * 96
