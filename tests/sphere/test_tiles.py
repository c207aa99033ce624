"""Every pair is shown once, whatever the tile and the number of threads."""

import itertools
import threading
import tracemalloc

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.tiles import Epilogue, Tile, seconds_estimate, tile_count, tile_order, traverse
from kdbias.sphere.workers import Workspace
from tests import reference


class Collect(Epilogue):
    """Rebuilds the whole matrix and counts how often each cell was shown."""

    def __init__(self, n: int) -> None:
        self.gram = np.full((n, n), np.nan)
        self.seen = np.zeros((n, n), dtype=int)
        self.finished = 0
        self.lock = threading.Lock()

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        with self.lock:
            self.gram[tile.rows, tile.columns] = tile.cosines
            self.seen[tile.rows, tile.columns] += 1

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("n", "tile"), [(1, 8), (7, 8), (8, 8), (9, 8), (50, 7), (50, 64)])
def test_upper_triangle_shown_exactly_once(n: int, tile: int, threads: int) -> None:
    x = reference.random_sphere(n, 5)
    collected = Collect(n)
    pairs: list[int] = []
    traverse(x, [collected], tile=tile, threads=threads, progress=pairs.append)
    above = np.triu(np.ones((n, n), dtype=bool))
    assert (collected.seen[above] == 1).all()
    assert collected.seen.max() == 1
    np.testing.assert_allclose(collected.gram[above], reference.cosines(x)[above], atol=1e-6)
    assert collected.finished == 1
    assert sum(pairs) == n * n


def test_diagonal_tiles_come_first() -> None:
    order = list(tile_order(95, 10))
    assert order[:10] == [(i, i) for i in range(10)]
    assert sorted(order) == [(i, j) for i in range(10) for j in range(i, 10)]
    assert tile_count(95, 10) == len(order)


def test_tiles_are_not_listed_before_the_first() -> None:
    class Stop(Epilogue):
        def consume(self, tile: Tile, workspace: Workspace) -> None:
            raise InterruptedError

    x = reference.random_sphere(3000, 2)
    tracemalloc.start()
    with pytest.raises(InterruptedError):
        traverse(x, [Stop()], tile=2, threads=1)  # a million tiles
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_cosines_are_clamped() -> None:
    x = np.tile(np.float32([[0.6, 0.8000001]]), (3, 1))  # a little longer than one
    collected = Collect(3)
    traverse(x, [collected])
    assert np.nanmax(collected.gram) == 1.0


@pytest.mark.parametrize("threads", [1, 2])
def test_error_in_an_epilogue_is_raised_and_stops_the_pass(threads: int) -> None:
    class Broken(Epilogue):
        calls = 0

        def consume(self, tile: Tile, workspace: Workspace) -> None:
            Broken.calls += 1
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        traverse(reference.random_sphere(64, 4), [Broken()], tile=4, threads=threads)
    assert Broken.calls <= threads


def test_refuses_other_dtypes_and_sizes() -> None:
    with pytest.raises(KdbiasError, match="float64"):
        traverse(np.eye(3), [])
    with pytest.raises(KdbiasError, match="tile=0"):
        traverse(np.eye(3, dtype=np.float32), [], tile=0)


def test_estimate_grows_with_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.01)  # every product takes 10 ms
    monkeypatch.setattr("kdbias.sphere.tiles.time.perf_counter", lambda: next(clock))
    assert seconds_estimate(40_000, 16, threads=1) > 10 * seconds_estimate(8_000, 16, threads=1) > 0
