"""One suite of invariants, run on everything that can compute all pairs."""

import functools
import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.all_pairs import AllPairs, all_pairs, bytes_needed, fitting_tile
from kdbias.sphere.null import log_null
from tests import reference

BACKENDS = ["numpy", "torch-cpu", "triton-interpreter", "torch-cuda"]
T = [0.5, 2.0, 4.0, 5.0, 10.0, 40.0, 100.0]

Pairs = Callable[..., AllPairs]


def on_torch(device: str) -> Pairs:
    torch = pytest.importorskip("torch")
    if device.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    return lambda x, *a, **o: all_pairs(x, *a, **{"tile": 64, **o}, device=device)


@pytest.fixture(params=BACKENDS)
def pairs(request: pytest.FixtureRequest) -> Pairs:
    """`all_pairs` on one back-end, with tiles small enough that there are many.

    On CUDA that is the fused kernels, or torch tiles where Triton is absent.
    """
    if request.param == "triton-interpreter":
        return request.getfixturevalue("interpreted")
    if request.param == "numpy":
        return lambda x, *a, **o: all_pairs(x, *a, **{"tile": 64, "threads": 2, **o})
    return on_torch({"torch-cpu": "cpu:0", "torch-cuda": "cuda:0"}[request.param])


@pytest.fixture(params=["cpu:0", "cuda:0"])
def torch_pairs(request: pytest.FixtureRequest) -> Pairs:
    return on_torch(request.param)


def tolerance(t: float) -> float:
    """Relative error that float32 products leave: 2t times a cosine's rounding."""
    return 4e-6 + 1e-6 * t


def test_everything_at_once_against_float64(pairs: Pairs) -> None:
    x = reference.clustered_sphere(300, 24, 12)
    x[40:45] = x[40]
    p = np.stack([reference.natural(300), reference.probabilities(np.random.default_rng(2).random(300) ** 6)])
    found = pairs(x, T, p, k=9, near=0.9)
    for m in range(2):
        for index, t in enumerate(T):
            expected = reference.potentials(x, t, p[m])
            np.testing.assert_allclose(found.potentials[m, index], expected, rtol=tolerance(t))
            assert found.energies[m, index] == pytest.approx(reference.energy(x, t, p[m]), rel=tolerance(t))
            mean = found.pair_energies[m, index] / (1 - p[m] @ p[m])
            assert math.log(mean) == pytest.approx(reference.uniformity(x, t, p[m]), abs=tolerance(t))
    np.testing.assert_allclose(found.cosines, reference.neighbors(x, 9)[1], atol=1e-6)
    np.testing.assert_array_equal(found.counts, (reference.cosines(x) >= 0.9).sum(axis=1) - 1)


@pytest.mark.parametrize("tile", [17, 100, 4096])
def test_tile_is_irrelevant(pairs: Pairs, tile: int) -> None:
    x = reference.clustered_sphere(211, 16, 9)
    one, other = pairs(x, [2.0, 8.0], k=5, tile=211), pairs(x, [2.0, 8.0], k=5, tile=tile)
    np.testing.assert_allclose(other.potentials, one.potentials, rtol=2e-6)
    np.testing.assert_allclose(other.cosines, one.cosines, atol=1e-6)


def test_rotation_and_permutation(pairs: Pairs) -> None:
    x = reference.clustered_sphere(150, 10, 6)
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    order = rng.permutation(150)
    plain = pairs(x, [3.0], k=6)
    rotated = pairs((x @ rotation).astype(np.float32), [3.0], k=6)
    permuted = pairs(np.ascontiguousarray(x[order]), [3.0], k=6)
    np.testing.assert_allclose(rotated.potentials, plain.potentials, rtol=1e-5)
    np.testing.assert_allclose(rotated.cosines, plain.cosines, atol=2e-6)
    np.testing.assert_allclose(permuted.potentials[0, 0], plain.potentials[0, 0][order], rtol=1e-5)
    np.testing.assert_allclose(permuted.cosines, plain.cosines[order], atol=2e-6)


def test_repeating_a_row_is_doubling_its_weight(pairs: Pairs) -> None:
    x = reference.clustered_sphere(90, 8, 4)
    weights = np.ones(90)
    weights[7] = 2
    doubled = pairs(x, [4.0], reference.probabilities(weights))
    repeated = pairs(np.concatenate([x, x[7:8]]), [4.0])
    np.testing.assert_allclose(repeated.potentials[0, 0, :90], doubled.potentials[0, 0], rtol=2e-6)
    np.testing.assert_allclose(repeated.energies, doubled.energies, rtol=2e-6)


def test_uniform_sphere_meets_its_null(pairs: Pairs) -> None:
    n, d = 1500, 8
    found = pairs(reference.random_sphere(n, d, seed=3), [1.0, 4.0], tile=512)
    for index, t in enumerate((1.0, 4.0)):
        uniformity = math.log(found.pair_energies[0, index] / (1 - 1 / n))
        assert uniformity == pytest.approx(log_null(d, t), abs=0.02)


def test_closed_forms(pairs: Pairs) -> None:
    antipodal = pairs(np.float32([[1, 0], [-1, 0]]), [1.0, 5.0], k=1)
    np.testing.assert_allclose(antipodal.without_self[0, :, 0], np.exp([-4, -20]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(antipodal.ids, [[1], [0]])
    basis = pairs(np.eye(70, dtype=np.float32), [2.0, 100.0], tile=32)
    for index, t in enumerate((2.0, 100.0)):
        np.testing.assert_allclose(basis.without_self[0, index], 69 / 70 * math.exp(-2 * t), rtol=1e-5)
    m = 9  # a regular simplex: all cosines are -1/(m-1)
    simplex = reference.unit_rows(np.eye(m) - 1 / m).astype(np.float32)
    value = pairs(simplex, [3.0]).pair_energies[0, 0] / (1 - 1 / m)
    assert math.log(value) == pytest.approx(-6 * (1 + 1 / (m - 1)), abs=1e-5)


def test_all_duplicates(pairs: Pairs) -> None:
    x = np.repeat(reference.random_sphere(1, 8), 150, axis=0)
    found = pairs(x, [2.0, 64.0], k=4, near=0.999)
    np.testing.assert_allclose(found.energies, 1.0, atol=1e-4)
    np.testing.assert_allclose(found.cosines, 1.0, atol=1e-6)
    np.testing.assert_array_equal(found.counts, 149)
    assert not (found.ids == np.arange(150)[:, None]).any()
    assert all(len(set(row)) == 4 for row in found.ids.tolist())


def test_equal_cosines_go_by_smaller_position(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbias.sphere.faiss_search.gpu_count", lambda: 0)  # FAISS cuts ties as it likes
    found = pairs(np.repeat(np.eye(4, dtype=np.float32), 10, axis=0), k=12, tile=8)
    for i, row in enumerate(found.ids.tolist()):
        own = [j for j in range(i // 10 * 10, i // 10 * 10 + 10) if j != i]
        assert row == own + [j for j in range(40) if j // 10 != i // 10][:3]


def test_single_sample(pairs: Pairs) -> None:
    found = pairs(np.float32([[0.6, 0.8]]), [2.0], near=0.9)
    assert found.potentials.tolist() == [[[1.0]]]
    assert found.pair_energies.tolist() == [[0.0]]
    assert found.counts.tolist() == [0]


@pytest.mark.parametrize("k", [5, 6, 99])
def test_k_outside_the_data(pairs: Pairs, k: int) -> None:
    with pytest.raises(KdbiasError, match=f"k={k}"):
        pairs(np.eye(5, dtype=np.float32), k=k)


def test_all_other_samples_as_neighbours(pairs: Pairs) -> None:
    x = reference.random_sphere(70, 6)
    np.testing.assert_allclose(pairs(x, k=69, tile=16).cosines, reference.neighbors(x, 69)[1], atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 3.0])
def test_rows_that_are_not_unit_vectors_are_named(pairs: Pairs, value: float) -> None:
    x = reference.random_sphere(9000, 3)
    x[8500] = value
    with pytest.raises(KdbiasError, match="8500"):
        pairs(x, [2.0])


@pytest.mark.parametrize("x", [np.eye(3), np.eye(3, dtype=np.float16), np.zeros((0, 3), np.float32)])
def test_other_arrays_are_refused(pairs: Pairs, x: np.ndarray) -> None:
    with pytest.raises(KdbiasError, match="float32"):
        pairs(x, [2.0])


@pytest.mark.parametrize("t", [-1.0, 0.0, math.nan])
def test_bad_bandwidths(pairs: Pairs, t: float) -> None:
    with pytest.raises(KdbiasError, match="bandwidths"):
        pairs(np.eye(5, dtype=np.float32), [t])


@pytest.mark.parametrize(("precision", "error"), [("tf32", 1e-3), ("bf16", 8e-3)])
def test_coarser_products_stay_within_their_stated_error(
    torch_pairs: Pairs, precision: str, error: float
) -> None:
    x = reference.clustered_sphere(200, 64, 9)
    found = torch_pairs(x, [2.0, 5.0], k=5, precision=precision)
    for index, t in enumerate((2.0, 5.0)):
        ratio = found.potentials[0, index] / reference.potentials(x, t)
        assert np.abs(ratio - 1).max() < 2 * t * error
    np.testing.assert_allclose(found.cosines, reference.neighbors(x, 5)[1], atol=1e-6)


def test_faiss_finds_the_neighbours_where_its_gpu_build_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss_search = pytest.importorskip("kdbias.sphere.faiss_search")
    torch_pairs = pytest.importorskip("kdbias.sphere.torch_pairs")
    x = reference.clustered_sphere(120, 8, 5)
    flat, pairs = faiss_search.flat_neighbors, torch_pairs.torch_pairs
    asked = []

    def on_gpu(x, k, *, gpu, memory):
        asked.append((gpu, memory))
        return flat(x, k, threads=1)

    monkeypatch.setattr(faiss_search, "gpu_count", lambda: 2)
    monkeypatch.setattr(faiss_search, "flat_neighbors", on_gpu)
    monkeypatch.setattr(
        torch_pairs, "torch_pairs", lambda x, t, p, k, near, device, *a: pairs(x, t, p, k, near, "cpu", *a)
    )
    found = all_pairs(x, [3.0], k=5, near=0.9, device="cuda:1", memory=12345)
    assert asked == [(1, 12345)]
    np.testing.assert_allclose(found.cosines, reference.neighbors(x, 5)[1], atol=1e-6)
    np.testing.assert_allclose(found.potentials[0, 0], reference.potentials(x, 3.0), rtol=1e-5)
    assert found.counts is not None


def test_numpy_refuses_precisions_it_does_not_have() -> None:
    with pytest.raises(KdbiasError, match="bf16"):
        all_pairs(np.eye(3, dtype=np.float32), [2.0], precision="bf16")


def test_float16_storage_moves_potentials_little() -> None:
    x = reference.clustered_sphere(300, 64, 9)
    stored = x.astype(np.float16).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    found = all_pairs(stored, [2.0, 10.0])
    for index, t in enumerate((2.0, 10.0)):
        ratio = found.potentials[0, index] / reference.potentials(x, t)
        assert 0 < np.abs(ratio - 1).max() < 2 * t * 5e-4


@pytest.mark.parametrize(("k", "threads", "tile"), [(64, 1, 512), (64, 2, 256), (0, 2, 512), (200, 1, 128)])
def test_memory_is_as_planned(k: int, threads: int, tile: int) -> None:
    x = reference.clustered_sphere(4000, 16, 40)
    t = [2.0, 4.0, 40.0]
    all_pairs(x[:300], t, k=k, near=0.9)  # what is imported or set up once does not count
    tracemalloc.start()
    all_pairs(x, t, k=k, near=0.9, threads=threads, tile=tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < bytes_needed(4000, k, 1, 3, threads, tile) + (3 << 20)


def test_memory_decides_the_tile() -> None:
    needed = functools.partial(bytes_needed, 10_000, 64, 1, 5, 2)
    assert fitting_tile(needed, 4 << 30, "they") == 1024
    assert fitting_tile(needed, needed() - 1, "they") == 512
    with pytest.raises(KdbiasError, match=r"they need .* GiB"):
        fitting_tile(needed, 1 << 20, "they")
