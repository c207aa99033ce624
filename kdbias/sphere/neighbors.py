"""Exact nearest neighbours out of the traversal."""

import threading

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.tiles import Epilogue, Tile, Workspace

# A candidate is one int64: the cosine's bits above, the complement of the id below. Larger is nearer, equal
# cosines go by the smaller id, and selection is a plain partition of integers.
_ID_BITS = 32
_ID_MASK = (1 << _ID_BITS) - 1
_EMPTY = np.iinfo(np.int64).min
_PARTITION_CELLS = 1 << 18  # candidates compacted at once: 2 MiB


def pack(cosines: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Sortable int64 keys of float32 cosines and ids < 2^32."""
    bits = np.ascontiguousarray(cosines, dtype=np.float32).view(np.int32)
    keys = (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
    keys <<= _ID_BITS
    keys += _ID_MASK - ids
    return keys


def unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 cosines and int64 ids of keys."""
    ordered = (keys >> _ID_BITS).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32), _ID_MASK - (keys & _ID_MASK)


class Neighbors(Epilogue):
    """The k nearest others of every sample by cosine, exact up to float32 rounding of the product.

    Every sample keeps a reservoir of candidates and a threshold: the k-th best cosine among those it has met,
    which the k-th best of all cannot fall below. Only entries that reach it are looked at one by one; the
    diagonal tiles come first and give every sample a first threshold. A full reservoir is cut back to its k
    best. A sample is never its own neighbour (by position, not by cosine: duplicates are ordinary
    neighbours); equal cosines go by the smaller position.

    Args:
        n: number of samples, < 2^32.
        k: neighbours a sample, 1 <= k < n.

    Attributes (after the traversal):
        ids: (n, k) int64 positions, nearest first.
        cosines: (n, k) float32, descending.
    """

    def __init__(self, n: int, k: int) -> None:
        if not 1 <= k < n:
            raise KdbiasError(f"k={k} neighbours of {n:,} samples do not exist; choose 1 <= k <= {n - 1:,}")
        self.k = k
        self._capacity = k + max(k, 32)
        self._keys = np.full((n, self._capacity), _EMPTY, dtype=np.int64)
        self._filled = np.zeros(n, dtype=np.int64)
        self._threshold = np.full(n, -np.inf, dtype=np.float32)
        self._locks: dict[int, threading.Lock] = {}
        self._locks_lock = threading.Lock()
        self.ids: np.ndarray
        self.cosines: np.ndarray

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        shape = tile.cosines.shape
        if tile.diagonal and shape[0] > self.k + 1:
            # k + 1 entries of the row, at most one of them the self-pair, reach its (k + 1)-th largest.
            ordered = workspace.array("ordered", shape)
            np.copyto(ordered, tile.cosines)
            ordered.partition(shape[1] - 1 - self.k, axis=1)
            self._threshold[tile.rows] = ordered[:, shape[1] - 1 - self.k]
        reached = workspace.array("reached", shape, np.bool_)
        np.greater_equal(tile.cosines, self._threshold[tile.rows, None], out=reached)
        if tile.diagonal:
            np.fill_diagonal(reached, False)
        self._offer(tile.rows, tile.columns, tile.cosines, np.flatnonzero(reached), False)
        if not tile.diagonal:
            np.greater_equal(tile.cosines, self._threshold[None, tile.columns], out=reached)
            self._offer(tile.columns, tile.rows, tile.cosines, np.flatnonzero(reached), True)

    def _offer(self, of: slice, among: slice, cosines: np.ndarray, cells: np.ndarray, mirrored: bool) -> None:
        """Take candidates, given by flat positions in the tile, into the reservoirs of the samples ``of``."""
        if not len(cells):
            return
        across = cells // cosines.shape[1]
        down = cells - across * cosines.shape[1]
        if mirrored:
            order = np.argsort(down.astype(np.uint16) if cosines.shape[1] <= 1 << 16 else down, kind="stable")
            cells, across, down = cells[order], down[order], across[order]
        keys = pack(cosines.reshape(-1)[cells], down + among.start)
        counts = np.bincount(across, minlength=of.stop - of.start)
        rank = np.arange(len(cells)) - np.repeat(np.cumsum(counts) - counts, counts)
        with self._lock_of(of.start):
            filled = self._filled[of]
            full = filled + counts > self._capacity
            if full.any():
                late = full[across]
                self._compact(of, np.flatnonzero(full), counts, across[late], rank[late], keys[late])
                across, rank, keys = across[~late], rank[~late], keys[~late]
            self._keys.reshape(-1)[(across + of.start) * self._capacity + filled[across] + rank] = keys
            filled += np.where(full, 0, counts)

    def _compact(
        self,
        of: slice,
        rows: np.ndarray,
        counts: np.ndarray,
        across: np.ndarray,
        rank: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        """Cut the reservoirs of ``rows`` (positions within ``of``) and their new candidates to the k best."""
        step = max(1, _PARTITION_CELLS // int(self._capacity + counts[rows].max()))
        place = np.empty(len(counts), dtype=np.int64)
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            low, high = np.searchsorted(across, (some[0], some[-1] + 1))
            width = self._capacity + int(counts[some].max())
            pool = np.full((len(some), width), _EMPTY, dtype=np.int64)
            pool[:, : self._capacity] = self._keys[some + of.start]
            place[some] = np.arange(len(some))
            pool[place[across[low:high]], self._capacity + rank[low:high]] = keys[low:high]
            pool.partition(width - self.k, axis=1)
            best = pool[:, width - self.k :]
            self._keys[some + of.start, : self.k] = best
            self._keys[some + of.start, self.k :] = _EMPTY
            self._filled[some + of.start] = self.k
            self._threshold[some + of.start] = unpack(best[:, 0])[0]

    def _lock_of(self, start: int) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(start, threading.Lock())

    def finish(self) -> None:
        n, k = len(self._keys), self.k
        self.ids = np.empty((n, k), dtype=np.int64)
        self.cosines = np.empty((n, k), dtype=np.float32)
        step = max(1, _PARTITION_CELLS // self._capacity)
        for first in range(0, n, step):
            keys = self._keys[first : first + step]
            keys.sort(axis=1)
            self.cosines[first : first + step], self.ids[first : first + step] = unpack(
                keys[:, : -k - 1 : -1]
            )
        del self._keys
