"""Cells partition the data."""

import tracemalloc

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.cells.cells import build_cells
from tests import reference


def test_every_sample_is_in_its_nearest_cell() -> None:
    x = reference.clustered_sphere(900, 16, 12)
    cells = build_cells(x, 40, threads=2)
    means = np.stack([x[cells.members(c)].mean(axis=0) for c in range(cells.count)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert ((x @ means.T).argmax(axis=1) == cells.cell).mean() > 0.97  # means of k-means that has ended
    assert sorted(cells.order.tolist()) == list(range(900))
    for c in range(cells.count):
        assert (cells.cell[cells.members(c)] == c).all()
        assert len(cells.members(c)) > 0
    assert cells.sizes.sum() == 900


def test_centroids_follow_the_data() -> None:
    x = reference.clustered_sphere(900, 16, 6, spread=0.3)
    cells = build_cells(x, 30, threads=1)
    means = np.stack([x[cells.members(c)].mean(axis=0) for c in range(cells.count)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    trained = (x * means[cells.cell]).sum(axis=1).mean()
    random = (x @ x[np.random.default_rng(0).choice(900, 30)].T).max(axis=1).mean()
    assert trained > random + 0.005


def test_cells_of_many_samples_take_no_copy_of_them() -> None:
    x = reference.clustered_sphere(20_000, 128, 20)
    tracemalloc.start()
    cells = build_cells(x, 417, threads=1)  # all samples are used to place them
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes
    assert cells.count == 417


def test_same_seed_same_cells() -> None:
    x = reference.random_sphere(200, 8)
    one, other = (build_cells(x, 12, seed=3, threads=2) for _ in range(2))
    np.testing.assert_array_equal(one.cell, other.cell)


def test_duplicates_leave_no_empty_cells() -> None:
    cells = build_cells(np.repeat(np.eye(3, dtype=np.float32), 20, axis=0), 10)
    assert cells.count == 3
    assert np.diff(cells.starts).tolist() == [20, 20, 20]


def test_single_sample_is_a_cell() -> None:
    cells = build_cells(np.float32([[0.0, 1.0]]))
    assert cells.count == 1
    assert cells.members(0).tolist() == [0]


def test_more_cells_than_samples_are_refused() -> None:
    with pytest.raises(KdbiasError, match="6 cells"):
        build_cells(np.eye(5, dtype=np.float32), 6)


def test_progress_comes_to_one_while_cells_are_found():
    told = []
    build_cells(reference.clustered_sphere(900, 8, 6, seed=4), 40, threads=2, progress=told.append)
    assert len(told) > 8
    assert min(told) > 0
    assert sum(told) == pytest.approx(1)
