"""Cells partition the data, and a visit shows every probed pair once."""

import threading
import tracemalloc

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.cells import cells as module
from kdbias.sphere.cells.cells import CellBlock, Inverted, build_cells, lookers, visit
from kdbias.sphere.workers import Workspace
from tests import reference


def test_every_sample_is_in_its_nearest_cell() -> None:
    x = reference.clustered_sphere(900, 16, 12)
    cells = build_cells(x, 40, threads=2)
    nearest = (x @ cells.centroids.T).argmax(axis=1)
    assert (nearest == cells.cell).mean() > 0.999  # ties aside
    assert sorted(cells.order.tolist()) == list(range(900))
    for c in range(cells.count):
        assert (cells.cell[cells.members(c)] == c).all()
        assert len(cells.members(c)) > 0
    np.testing.assert_allclose(np.linalg.norm(cells.centroids, axis=1), 1, atol=1e-5)


def test_centroids_follow_the_data() -> None:
    x = reference.clustered_sphere(900, 16, 6, spread=0.3)
    cells = build_cells(x, 30, threads=1)
    trained = (x * cells.centroids[cells.cell]).sum(axis=1).mean()
    random = (x @ x[np.random.default_rng(0).choice(900, 30)].T).max(axis=1).mean()
    assert trained > random + 0.005


def test_ranking_of_cells() -> None:
    x = reference.clustered_sphere(300, 8, 5)
    cells = build_cells(x, 20, threads=1)
    ranked = cells.nearest(x, 7, threads=2)
    cosines = np.take_along_axis(x @ cells.centroids.T, ranked, axis=1)
    assert (np.diff(cosines, axis=1) <= 1e-6).all()
    np.testing.assert_allclose(cosines, -np.sort(-(x @ cells.centroids.T), axis=1)[:, :7], atol=1e-6)
    assert (ranked[:, 0] == cells.cell).mean() > 0.99


@pytest.mark.parametrize(("threads", "entries"), [(1, 1 << 22), (3, 100)])
def test_visit_shows_pairs_that_a_side_looks_at(
    threads: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENTRIES", entries)
    x = reference.clustered_sphere(400, 8, 5)
    cells = build_cells(x, 25, threads=1)
    probes = cells.nearest(x, 4, threads=1)
    seen = np.zeros((400, 400), dtype=int)
    pairs: list[int] = []
    lock = threading.Lock()

    def consume(block: CellBlock, workspace: Workspace) -> None:
        samples, members = block.samples, block.members
        np.testing.assert_allclose(block.cosines, x[samples] @ x[members].T, atol=1e-6)
        row, column = block.selves // len(members), block.selves % len(members)
        assert set(zip(samples[row], members[column], strict=True)) == {
            (s, s) for s in np.intersect1d(samples, members)
        }
        with lock:
            np.add.at(seen, (samples[:, None], members[None, :]), 1)
            np.add.at(seen, (members[:, None], samples[None, :]), block.one_sided.T.astype(int))

    visit(x, cells, probes, consume, threads=threads, progress=pairs.append)
    looks = (cells.cell[None, :, None] == probes[:, None, :]).any(axis=2)
    np.testing.assert_array_equal(seen, looks | looks.T)
    assert (looks != looks.T).any()
    assert sum(pairs) == looks.sum()


def test_who_looks_into_a_cell() -> None:
    probes = np.array([[2, 0], [1, 2], [2, 1]])
    inverted = Inverted.of(probes, 4, np.array([3, 2]))
    samples, choice = inverted.of_cell(2)
    assert (samples.tolist(), choice.tolist()) == ([0, 1, 2], [0, 1, 0])
    assert inverted.of_cell(3)[0].tolist() == []
    assert lookers(probes, 4).tolist() == [1, 2, 3, 0]


def test_cells_of_many_samples_take_no_copy_of_them() -> None:
    x = reference.clustered_sphere(20_000, 128, 20)
    tracemalloc.start()
    cells = build_cells(x, 417, threads=1)  # all samples are used to place them
    cells.nearest(x, 8, threads=1)
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
