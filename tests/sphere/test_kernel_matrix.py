import tracemalloc

import numpy as np
import pytest

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.equilibrium import device_kernel
from kdbias.sphere.equilibrium import kernel_matrix as kernel_matrix_module
from kdbias.sphere.equilibrium.device_kernel import DeviceKernel, product_device
from kdbias.sphere.equilibrium.halves import from_half, to_half
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel, kernel_matrix
from kdbias.sphere.equilibrium.near_kernel import FarPart
from kdbias.sphere.equilibrium.solve import solve


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def reference(x: np.ndarray, t: float) -> np.ndarray:
    y = x.astype(np.float64)
    kernel = np.exp(-2 * t * (1 - np.clip(y @ y.T, -1, 1)))
    np.fill_diagonal(kernel, 1)
    return kernel


@pytest.mark.parametrize("kept", [np.float32, np.float16, None])
@pytest.mark.parametrize(("n", "threads"), [(1, 1), (16, 1), (37, 2), (50, 3)])
def test_products_are_those_of_the_whole_matrix(kept, n, threads):
    x, rng = rows(n, 5), np.random.default_rng(1)
    kernel = TiledKernel(x, 4.0, kept=kept, threads=threads, tile=16)
    whole = reference(x, 4.0)
    p = rng.dirichlet(np.ones(n), size=2).T
    rounding = 1e-3 if kept is np.float16 else 3e-6
    assert kernel.apply(p[:, 0]) == pytest.approx(whole @ p[:, 0], rel=rounding)
    assert kernel.apply(p) == pytest.approx(whole @ p, rel=rounding)
    assert kernel.apply(p[:, 1], exact=True) == pytest.approx(whole @ p[:, 1], rel=3e-6)
    assert kernel.row_sums == pytest.approx(whole.sum(axis=1), rel=3e-6)


def test_uniform_weights_lose_nothing_to_float32():
    x = rows(300, 8)
    kernel = TiledKernel(x, 3.0, tile=64)
    assert kernel.apply(np.full(300, 1 / 300)) == pytest.approx(kernel.row_sums / 300, rel=1e-13)


def test_memory_decides_what_is_kept():
    x = rows(256, 4)
    assert kernel_matrix(x, 1.0, "1MiB", tile=64).kept is np.float32
    assert kernel_matrix(x, 1.0, 100_000, tile=64).kept is np.float16
    assert kernel_matrix(x, 1.0, 50_000, tile=64).kept is None


def test_scaled_half_precision_keeps_small_kernel_values():
    values = np.float32([[0.0, 2e-9, 3e-7, 6e-5, 1e-3, 0.5, 1.0]])
    back = from_half(to_half(values), np.empty_like(values))
    assert back == pytest.approx(values, rel=2**-11, abs=1e-12)
    assert back[0, 0] == 0
    assert back[0, -1] == 1


def test_tiles_that_are_not_kept_are_not_listed_either():
    x = rows(3000, 2)
    tracemalloc.start()
    TiledKernel(x, 1.0, kept=None, tile=2)  # a million tiles
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("n", [29, 37, 45])  # of so many times 1 / n the rounded mean is another number
def test_uniform_sampling_takes_no_product(n, monkeypatch):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kernel = TiledKernel(x, 2.0, kept=None, tile=16)
    sums = kernel.row_sums
    monkeypatch.setattr(kernel, "_over_blocks", lambda *a: pytest.fail("computed again"))
    p = np.full(n, 1 / n)
    assert kernel.apply(p) == pytest.approx(sums / n, rel=1e-15)
    assert kernel.apply(np.stack([p, 2 * p], axis=1))[:, 1] == pytest.approx(2 * sums / n, rel=1e-15)


def test_products_that_compute_all_pairs_anew_show_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(kernel_matrix_module, "_SHOWN_FROM", 30)
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    x = np.eye(40, dtype=np.float32)
    kept, recomputed = (TiledKernel(x, 1.0, kept=how, tile=16) for how in (np.float32, None))
    assert "kernel of all pairs: 6/6 tiles" in capsys.readouterr().err  # while they are made, to be kept
    p = np.arange(40) / 780
    kept.apply(p)
    assert capsys.readouterr().err == ""
    recomputed.row_sums  # noqa: B018
    recomputed.apply(p)
    assert capsys.readouterr().err.count("kernel of all pairs: 6/6 tiles") == 2


@pytest.mark.parametrize("t", [4.0, LADDER, (2.0, 40.0)])
@pytest.mark.parametrize("coded", [False, True])
def test_products_on_a_device_are_those_of_the_tiles(interpreter, monkeypatch, t, coded):
    monkeypatch.setattr(triton_tiles, "SHAPES", dict.fromkeys((False, True), (32, 4, 3)))
    x, rng = rows(90, 6), np.random.default_rng(1)
    codes = np.arange(90) % 3 if coded else None
    tiled = TiledKernel(x, t, tile=32, codes=codes)
    device = DeviceKernel(x, t, "cpu:0", codes=codes, tile=64)
    p = rng.dirichlet(np.full(90, 0.2), size=3).T
    assert device.row_sums == pytest.approx(tiled.row_sums, rel=2e-6)
    assert device.apply(p) == pytest.approx(tiled.apply(p, exact=True), rel=4e-6)
    assert device.apply(p[:, 0], exact=True) == pytest.approx(tiled.apply(p[:, 0], exact=True), rel=2e-6)
    assert device.apply(np.full(90, 1 / 90)) == pytest.approx(device.row_sums / 90, rel=1e-13)


def test_the_equilibrium_on_a_device_is_that_of_the_tiles(interpreter):
    x = rows(100, 6)
    tiled = solve(TiledKernel(x, 3.0), min_ess=0.5, tolerance=1e-4)
    device = solve(DeviceKernel(x, 3.0, "cpu:0"), min_ess=0.5, tolerance=1e-4)
    assert device.proven
    assert device.energy == pytest.approx(tiled.energy, rel=2e-5)
    assert device.gap <= 1e-4 * (device.start_energy - device.energy)


@pytest.mark.parametrize(("d", "t"), [(6, 3.0), (6, LADDER), (150, 2.0), (6, 40.0)])
@pytest.mark.parametrize("coded", [False, True])
def test_near_pairs_on_a_device_are_those_of_the_tiles(interpreter, d, t, coded):
    x = rows(300, d)
    x[200:300] = x[:100] + 0.1 * x[200:300]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    codes = np.arange(300) % 3 if coded else None
    tiled, device = TiledKernel(x, t, tile=64, codes=codes), DeviceKernel(x, t, "cpu:0", codes, tile=128)
    leading = x if d <= 128 else x[:, :128].copy()
    far = FarPart(float(np.quantile(tiled.between(slice(None), slice(None)), 0.9)), (0.1, 0.2, 0.3))
    expected, found = (kernel.near_pairs(far, leading) for kernel in (tiled, device))

    def dense(pairs):
        i, j, values = pairs
        assert (i < j).all()
        matrix = np.zeros((300, 300))
        np.add.at(matrix, (i, j), values)
        return matrix

    assert len(found[0]) == pytest.approx(len(expected[0]), abs=2)
    same = (dense(found) != 0) & (dense(expected) != 0)
    assert same.sum() > 1000
    np.testing.assert_allclose(dense(found)[same], dense(expected)[same], atol=2e-5 if t == 40 else 5e-6)


def test_few_products_are_made_on_a_device_where_they_are_dear(interpreter, monkeypatch):
    x = rows(100, 6)
    plain = solve(TiledKernel(x, 3.0), min_ess=0.5, tolerance=1e-4)
    monkeypatch.setattr(device_kernel, "DEAR_FROM", 100)
    few = solve(kernel := DeviceKernel(x, 3.0, "cpu:0", memory="64MiB"), min_ess=0.5, tolerance=1e-4)
    assert kernel.stand_in is not None
    assert few.proven
    assert few.energy == pytest.approx(plain.energy, rel=2e-5)
    assert few.gap <= 1e-4 * (few.start_energy - few.energy)
    assert few.products < plain.products


def test_a_device_without_the_kernels_is_refused(monkeypatch):
    monkeypatch.setattr("kdbias.sphere.equilibrium.device_kernel.resolve_device", lambda name: "cuda:0")
    monkeypatch.setattr(triton_pairs, "trusted", lambda device: False)
    with pytest.raises(KdbiasError, match=r"needs Triton.*--device cpu"):
        product_device("cuda")
    assert product_device("auto") == "cpu"
    monkeypatch.setattr(triton_pairs, "trusted", lambda device: True)
    assert product_device("auto") == "cuda:0"
