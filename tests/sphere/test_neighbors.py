"""Neighbours against a float64 sort and against FAISS flat."""

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.neighbors import Neighbors
from kdbias.sphere.reservoirs import pack, unpack
from kdbias.sphere.tiles import traverse
from tests import reference


def found(x: np.ndarray, k: int, tile: int = 64, threads: int = 2) -> Neighbors:
    result = Neighbors(len(x), k)
    traverse(x, [result], tile=tile, threads=threads)
    return result


def assert_is_knn(result: Neighbors, x: np.ndarray, k: int) -> None:
    """Right cosines; ids may differ from the reference only where cosines tie within float32 rounding."""
    _, cosines = reference.neighbors(x, k)
    n = len(x)
    np.testing.assert_allclose(result.cosines, cosines, atol=1e-6)
    assert (np.diff(result.cosines, axis=1) <= 0).all()
    assert not (result.ids == np.arange(n)[:, None]).any()
    assert all(len(set(row)) == k for row in result.ids.tolist())
    real = np.take_along_axis(reference.cosines(x), result.ids, axis=1)
    np.testing.assert_allclose(real, cosines, atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 64, 199])
@pytest.mark.parametrize("tile", [32, 128, 1024])
def test_exact_on_clustered_data(k: int, tile: int) -> None:
    x = reference.clustered_sphere(200, 16, 8)
    assert_is_knn(found(x, k, tile), x, k)


@pytest.mark.parametrize("threads", [1, 4])
def test_many_tiles_and_compactions(threads: int) -> None:
    x = reference.clustered_sphere(1500, 12, 30)
    x = x[np.argsort(x[:, 0])]  # later tiles hold better neighbours than earlier ones
    assert_is_knn(found(x, 20, 50, threads), x, 20)


def test_duplicates_are_neighbours_and_self_is_not() -> None:
    x = np.repeat(reference.random_sphere(30, 16), 3, axis=0)  # triplets: 0-1-2, 3-4-5, ...
    result = found(x, 2, tile=16)
    triplet = np.arange(90) // 3 * 3
    expected = np.array([[j for j in range(t, t + 3) if j != i] for i, t in enumerate(triplet)])
    np.testing.assert_array_equal(np.sort(result.ids, axis=1), expected)
    np.testing.assert_allclose(result.cosines, 1.0, atol=1e-6)


def test_equal_cosines_go_by_smaller_position() -> None:
    result = found(np.repeat(np.eye(4, dtype=np.float32), 10, axis=0), 12, tile=8)
    for i, row in enumerate(result.ids.tolist()):
        own = [j for j in range(i // 10 * 10, i // 10 * 10 + 10) if j != i]
        others = [j for j in range(40) if j // 10 != i // 10]
        assert row == own + others[:3]


def test_against_faiss_flat() -> None:
    faiss = pytest.importorskip("faiss")
    x = reference.clustered_sphere(800, 32, 20)
    index = faiss.IndexFlatIP(32)
    index.add(x)
    cosines, ids = index.search(x, 11)
    mine = found(x, 10, tile=256)
    for i in range(800):
        theirs = cosines[i][ids[i] != i][:10]
        np.testing.assert_allclose(mine.cosines[i], theirs, atol=1e-6)


def test_rotation_keeps_neighbours() -> None:
    x = reference.random_sphere(150, 10)
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((10, 10)))[0].astype(np.float32)
    np.testing.assert_allclose(found(x @ rotation, 5).cosines, found(x, 5).cosines, atol=1e-6)


def test_keys_sort_like_cosines_then_ids() -> None:
    cosines = np.float32([-1, -0.5, -1e-30, 0.0, 1e-30, 0.5, 1.0])
    keys = pack(cosines, np.arange(7))
    assert (np.diff(keys) > 0).all()
    assert (pack(cosines, np.full(7, 3)) > pack(cosines, np.full(7, 4))).all()
    back, ids = unpack(keys)
    np.testing.assert_array_equal(back, cosines)
    np.testing.assert_array_equal(ids, np.arange(7))


@pytest.mark.parametrize("k", [0, 5, 6])
def test_refuses_k_outside_the_data(k: int) -> None:
    with pytest.raises(KdbiasError, match=f"k={k}"):
        Neighbors(5, k)
