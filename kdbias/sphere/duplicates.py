"""Samples with the same vector, and samples with nearly the same one."""

import threading

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.room import room
from kdbias.sphere.tiles import Epilogue, Tile
from kdbias.sphere.vectors import row_digests
from kdbias.sphere.workers import Workspace

NEAR_DUPLICATE_COSINE = 0.999
BUCKET_ROWS = 1 << 20
"""Digests that are sorted together, about."""


def first_with_same_vector(x: np.ndarray) -> np.ndarray:
    """(n,) int64: for each row the position of the first row with exactly the same vector (itself if none).

    Rows are compared by a 128-bit digest, so no n x n comparison and no sorting of whole rows. Of many, those
    are sorted together whose digests leave one remainder, a bucket at a time.
    """
    digests = row_digests(x)
    first = room(x, len(x), np.int64)
    first[:] = np.arange(len(x))
    buckets = max(1, -(-len(x) // BUCKET_ROWS))
    for bucket in range(buckets):
        rows = np.flatnonzero(digests[:, 0] % np.uint64(buckets) == bucket)
        some = digests[rows]
        order = np.lexsort(some.T)  # stable, so that the first of equal rows comes first
        some = some[order]
        is_first = np.ones(len(some), dtype=bool)
        is_first[1:] = (some[1:] != some[:-1]).any(axis=1)
        first[rows[order]] = rows[order[is_first][np.cumsum(is_first) - 1]]
    return first


class RadiusCounts(Epilogue):
    """How many others of every sample lie at a cosine >= ``cosine``.

    Attributes (after the traversal):
        counts: (n,) int64, self excluded.
    """

    def __init__(self, n: int, cosine: float = NEAR_DUPLICATE_COSINE) -> None:
        if not -1 <= cosine <= 1:
            raise KdbiasError(f"a cosine lies in [-1, 1], got {cosine}")
        self.cosine = np.float32(cosine)
        self.counts = np.zeros(n, dtype=np.int64)
        self._lock = threading.Lock()

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        """Count the tile's pairs within the radius, for both of their samples."""
        if not tile.diagonal and tile.cosines.max() < self.cosine:
            return  # most tiles hold no such pair, and a maximum is the cheapest look
        reached = workspace.array("reached", tile.cosines.shape, np.bool_)
        np.greater_equal(tile.cosines, self.cosine, out=reached)
        if tile.diagonal:
            np.fill_diagonal(reached, False)
        of_rows = np.count_nonzero(reached, axis=1)
        of_columns = None if tile.diagonal else np.count_nonzero(reached, axis=0)
        with self._lock:
            self.counts[tile.rows] += of_rows
            if of_columns is not None:
                self.counts[tile.columns] += of_columns

    def state(self) -> dict[str, np.ndarray]:
        """Counts so far, (n,)."""
        return {"counts": self.counts}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from stored counts."""
        self.counts[:] = state["counts"]
