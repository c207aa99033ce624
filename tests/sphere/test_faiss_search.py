"""FAISS with the sample itself removed by position, in blocks, against the exact reference."""

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.faiss_search import flat_neighbors, gpu_count, hnsw_neighbors
from tests import reference

pytest.importorskip("faiss")


@pytest.mark.parametrize("memory", [4 << 30, 2 * 4 * 16 * 70])
def test_flat_is_exact_whatever_the_block(memory: int) -> None:
    x = reference.clustered_sphere(300, 16, 9)
    ids, cosines = flat_neighbors(x, 12, memory=memory, threads=1)
    np.testing.assert_allclose(cosines, reference.neighbors(x, 12)[1], atol=1e-6)
    assert not (ids == np.arange(300)[:, None]).any()
    assert all(len(set(row)) == 12 for row in ids.tolist())


def test_duplicates_are_neighbours_and_self_is_not() -> None:
    x = np.repeat(reference.random_sphere(6, 8), 40, axis=0)  # the sample is often not among its first 11
    ids, cosines = flat_neighbors(x, 10, threads=1)
    assert not (ids == np.arange(240)[:, None]).any()
    np.testing.assert_array_equal(ids // 40, np.arange(240)[:, None] // 40 * np.ones(10, dtype=int))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_hnsw_finds_most() -> None:
    x = reference.clustered_sphere(600, 16, 9)
    ids, cosines = hnsw_neighbors(x, 10, threads=1)
    exact = reference.neighbors(x, 10)[1]
    assert (cosines >= exact[:, -1:] - 1e-6).mean() > 0.95
    assert not (ids == np.arange(600)[:, None]).any()
    found = ids >= 0
    real = np.take_along_axis(reference.cosines(x), np.maximum(ids, 0), axis=1)
    np.testing.assert_allclose(cosines[found], real[found], atol=1e-6)


def test_hnsw_says_what_it_did_not_find() -> None:
    ids, cosines = hnsw_neighbors(np.eye(3, dtype=np.float32), 2, threads=1)
    assert ((ids == -1) == (cosines == -2)).all()


@pytest.mark.parametrize("search", [flat_neighbors, hnsw_neighbors])
def test_k_outside_the_data(search) -> None:
    for k in (0, 3):
        with pytest.raises(KdbiasError, match=f"k={k}"):
            search(np.eye(3, dtype=np.float32), k)


def test_gpu_limit_is_said_before_anything_is_computed() -> None:
    with pytest.raises(KdbiasError, match="2,047"):
        flat_neighbors(np.zeros((5000, 2), dtype=np.float32), 2048, gpu=0)


def test_gpu_agrees() -> None:
    if not gpu_count():
        pytest.skip("needs a CUDA build of FAISS and a device")
    x = reference.clustered_sphere(500, 16, 9)
    np.testing.assert_allclose(flat_neighbors(x, 9, gpu=0)[1], reference.neighbors(x, 9)[1], atol=1e-5)
