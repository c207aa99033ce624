"""Exact nearest neighbours out of the traversal."""

import threading

import numpy as np

from kdbias.sphere.reservoirs import Reservoirs
from kdbias.sphere.tiles import Epilogue, Tile
from kdbias.sphere.workers import Workspace


class Neighbors(Epilogue):
    """The k nearest others of every sample by cosine, exact up to float32 rounding of the product.

    Only entries of a tile that reach a sample's threshold are looked at one by one. The diagonal tiles come
    first and give every sample a first threshold. A sample is never its own neighbour (by position, not by
    cosine: duplicates are ordinary neighbours); equal cosines go by the smaller position.

    Args:
        n: number of samples, < 2^32.
        k: neighbours a sample, 1 <= k < n.
        positions: (n,) int64 of these among all, where they are some of ``total``.

    Attributes (after the traversal):
        ids: (n, k) int64 positions, nearest first.
        cosines: (n, k) float32, descending.
    """

    def __init__(self, n: int, k: int, positions: np.ndarray | None = None, total: int | None = None) -> None:
        self.k = k
        self._reservoirs = Reservoirs(n, k, total)
        self._positions = np.arange(n)
        self._ids = self._positions if positions is None else positions
        self._locks: dict[int, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self.ids: np.ndarray
        self.cosines: np.ndarray

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        """Keep the tile's cosines that are among a row's k largest."""
        threshold = self._reservoirs.threshold
        if tile.diagonal and len(tile.cosines) > self.k + 1:
            threshold[tile.rows] = first_threshold(tile.cosines, self.k, workspace)
        reached = workspace.array("reached", tile.cosines.shape, np.bool_)
        np.greater_equal(tile.cosines, threshold[tile.rows, None], out=reached)
        if tile.diagonal:
            np.fill_diagonal(reached, False)
        self._offer(tile.rows, tile.columns, tile.cosines, np.flatnonzero(reached), False)
        if not tile.diagonal:
            np.greater_equal(tile.cosines, threshold[None, tile.columns], out=reached)
            self._offer(tile.columns, tile.rows, tile.cosines, np.flatnonzero(reached), True)

    def _offer(
        self, samples: slice, ids: slice, cosines: np.ndarray, cells: np.ndarray, mirrored: bool
    ) -> None:
        with self._locks_lock:
            lock = self._locks.setdefault(samples.start, threading.Lock())
        with lock:
            self._reservoirs.offer(self._positions[samples], self._ids[ids], cosines, cells, mirrored)

    def state(self) -> dict[str, np.ndarray]:
        """The reservoirs so far."""
        return self._reservoirs.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from stored reservoirs."""
        self._reservoirs.restore(state)

    def finish(self) -> None:
        """Sort what was kept into `ids` and `cosines`, (n, k)."""
        self.ids, self.cosines = self._reservoirs.best()
        del self._reservoirs


def first_threshold(cosines: np.ndarray, k: int, workspace: Workspace) -> np.ndarray:
    """(rows,) the (k + 1)-th largest cosine of each row of a diagonal tile.

    k + 1 entries of the row reach it, at most one of them the self-pair, so the k-th best other does too.
    """
    ordered = workspace.array("scratch", cosines.shape)
    np.copyto(ordered, cosines)
    place = cosines.shape[1] - 1 - k
    ordered.partition(place, axis=1)
    return ordered[:, place]
