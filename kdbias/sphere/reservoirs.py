"""The best candidates met so far, for many samples at once, without a Python loop over samples."""

import numpy as np

from kdbias.errors import KdbiasError

# A candidate is one int64: the cosine's bits above, the complement of the id below. Larger is nearer, equal
# cosines go by the smaller id, and selection is a plain partition of integers.
_ID_BITS = 32
_ID_MASK = (1 << _ID_BITS) - 1
EMPTY = np.iinfo(np.int64).min
_CELLS = 1 << 18  # candidates compacted at once: 2 MiB


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


class Reservoirs:
    """The k nearest others of each of n samples, out of candidates that come in any order.

    Every sample keeps up to twice k candidates and a threshold: a cosine that its k-th best of all is sure to
    reach. A full reservoir is cut back to its k best, which raises the threshold. Callers see to it that no
    two threads offer to the same sample at once, and that no pair is offered twice.

    Args:
        total: how many samples candidates come from; by default n.

    Attributes:
        k: neighbours to find.
        threshold: (n,) float32; entries below it need not be offered.
    """

    def __init__(self, n: int, k: int, total: int | None = None) -> None:
        whole = total or n  # of which these n may be some
        require_k(whole, k)
        if whole > _ID_MASK:
            raise KdbiasError(f"{whole:,} samples are more than one neighbour table can number (2^32 - 1)")
        self.k = k
        self.threshold = np.full(n, -np.inf, dtype=np.float32)
        self._capacity = capacity(k)
        self._keys = np.full((n, self._capacity), EMPTY, dtype=np.int64)
        self._filled = np.zeros(n, dtype=np.int64)

    def offer(
        self, samples: np.ndarray, ids: np.ndarray, cosines: np.ndarray, cells: np.ndarray, mirrored: bool
    ) -> None:
        """Take candidates in.

        Args:
            samples: (r,) int64, whose candidates these are; distinct.
            ids: (c,) int64, which samples the candidates are.
            cosines: (r, c) float32, or (c, r) if ``mirrored``; C-contiguous.
            cells: flat positions in ``cosines`` of the candidates, ascending.
        """
        if not len(cells):
            return
        across = cells // cosines.shape[1]
        down = cells - across * cosines.shape[1]
        if mirrored:
            # Small integers are sorted by radix, in one pass.
            order = np.argsort(down.astype(np.uint16) if len(samples) <= 1 << 16 else down, kind="stable")
            cells, across, down = cells[order], down[order], across[order]
        self._take(samples, across, pack(cosines.reshape(-1)[cells], ids[down]))

    def offer_keys(self, samples: np.ndarray, places: np.ndarray, keys: np.ndarray) -> None:
        """Take candidates in, many at once from anywhere.

        Args:
            samples: (r,) int64; distinct.
            places: (c,) integers, whose candidates these are.
            keys: (c,) of `pack`.
        """
        order = np.argsort(places.astype(np.uint16) if len(samples) <= 1 << 16 else places, kind="stable")
        self._take(samples, places[order], keys[order])

    def _take(self, samples: np.ndarray, across: np.ndarray, keys: np.ndarray) -> None:
        """Candidates of samples (r,), whose places (c,) ascend."""
        counts = np.bincount(across, minlength=len(samples))
        rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
        filled = self._filled[samples]
        full = filled + counts > self._capacity
        if full.any():
            late = full[across]
            self._compact(samples, np.flatnonzero(full), counts, across[late], rank[late], keys[late])
            across, rank, keys = across[~late], rank[~late], keys[~late]
        self._keys.reshape(-1)[samples[across] * self._capacity + filled[across] + rank] = keys
        self._filled[samples] = np.where(full, self.k, filled + counts)

    def _compact(
        self,
        samples: np.ndarray,
        rows: np.ndarray,
        counts: np.ndarray,
        across: np.ndarray,
        rank: np.ndarray,
        keys: np.ndarray,
    ) -> None:
        """Cut the reservoirs of ``rows`` (places in ``samples``) and their new candidates to the k best."""
        step = max(1, _CELLS // int(self._capacity + counts[rows].max()))
        place = np.empty(len(counts), dtype=np.int64)
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            low, high = np.searchsorted(across, (some[0], some[-1] + 1))
            width = self._capacity + int(counts[some].max())
            pool = np.full((len(some), width), EMPTY, dtype=np.int64)
            pool[:, : self._capacity] = self._keys[samples[some]]
            place[some] = np.arange(len(some))
            pool[place[across[low:high]], self._capacity + rank[low:high]] = keys[low:high]
            pool.partition(width - self.k, axis=1)
            best = pool[:, width - self.k :]
            self.threshold[samples[some]] = unpack(best.min(axis=1))[0]
            kept = np.full((len(some), self._capacity), EMPTY, dtype=np.int64)
            kept[:, : self.k] = best
            self._keys[samples[some]] = kept

    def state(self) -> dict[str, np.ndarray]:
        """All that was kept, as arrays."""
        return {"keys": self._keys, "filled": self._filled, "threshold": self.threshold}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a stored state."""
        self._keys[:], self._filled[:], self.threshold[:] = state["keys"], state["filled"], state["threshold"]

    @property
    def keys(self) -> np.ndarray:
        """(n, capacity) int64: all that was kept, `EMPTY` where there is nothing."""
        return self._keys

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) int64 ids and (n, k) float32 cosines, nearest first; ends the reservoirs.

        A sample that was offered fewer than k candidates has ids -1 and cosines -2 behind them.
        """
        found = nearest_first(self._keys, self.k)
        del self._keys
        return found


def largest(keys: np.ndarray, k: int) -> np.ndarray:
    """(n, k) int64, the k largest keys of each row (n, at least k), in any order; ``keys`` get disordered."""
    found, width = np.empty((len(keys), k), dtype=np.int64), keys.shape[1]
    step = max(1, _CELLS // width)
    for first in range(0, len(keys), step):
        rows = slice(first, first + step)
        keys[rows].partition(width - k, axis=1)
        found[rows] = keys[rows, width - k :]
    return found


def merge_largest(keys: np.ndarray, more: np.ndarray, lengths: np.ndarray) -> None:
    """Make of the keys (n, k) of each row the k largest of them and of further ones.

    Args:
        more: (total,) int64, the further keys, row after row; lengths: (n,) how many are each row's.
    """
    k, ends = keys.shape[1], np.cumsum(lengths)
    rows = np.flatnonzero(lengths)
    step = max(1, _CELLS // (k + int(lengths.max(initial=0))))
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        width = int(lengths[some].max())
        pool = np.full((len(some), k + width), EMPTY, dtype=np.int64)
        pool[:, :k] = keys[some]
        taken = more[ends[some[0]] - lengths[some[0]] : ends[some[-1]]]
        pool[:, k:][np.arange(width) < lengths[some][:, None]] = taken
        pool.partition(width, axis=1)
        keys[some] = pool[:, width:]


def nearest_first(keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) int64 ids and (n, k) float32 cosines of the k largest keys (n, at least k), which get sorted.

    Where there are fewer than k, ids -1 and cosines -2 stand behind them.
    """
    n, width = keys.shape
    ids = np.empty((n, k), dtype=np.int64)
    cosines = np.empty((n, k), dtype=np.float32)
    step = max(1, _CELLS // width)
    for first in range(0, n, step):
        rows = slice(first, first + step)
        keys[rows].sort(axis=1)
        best = keys[rows, : -k - 1 : -1]
        cosines[rows], ids[rows] = unpack(best)
        missing = best == EMPTY
        if missing.any():
            ids[rows][missing], cosines[rows][missing] = -1, -2
    return ids, cosines


def require_k(n: int, k: int) -> None:
    """Refuse a number of neighbours that n samples do not have."""
    if not 1 <= k < n:
        raise KdbiasError(f"k={k} neighbours of {n:,} samples do not exist; choose 1 <= k <= {n - 1:,}")


def bytes_needed(n: int, k: int) -> int:
    """What n reservoirs and their results take at most."""
    return n * (8 * capacity(k) + 12 * k + 12) if k else 0


def capacity(k: int) -> int:
    """Candidates that a sample's reservoir holds: k and as many again, at least 32 more."""
    return k + max(k, 32)
