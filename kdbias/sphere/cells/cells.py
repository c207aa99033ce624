"""Cells of the sphere: samples grouped around centroids, to look only where neighbours can be."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.tiles import TILE
from kdbias.sphere.vectors import label_sums, second_moment
from kdbias.sphere.workers import Workspace, over_rows

_ROUNDS = 6
_SAMPLE_PER_CELL = 16
_DRAWN = (0.25, 0.625, 1.0)  # of the seeds, after each draw
_FARTHER = 20  # seeds are drawn by this power of the distance to the nearest one before
_AT_ONCE = 32  # cells


@dataclass(frozen=True)
class Cells:
    """A partition of n samples by their nearest centroid.

    Attributes:
        cell: (n,) int64, the cell of each sample.
        order: (n,) int64, the samples cell by cell.
        starts: (c + 1,) int64, where each cell begins in ``order``.
    """

    cell: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        """Cells, none of them empty."""
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(c,) samples in each cell."""
        return np.diff(self.starts)

    def members(self, cell: int) -> np.ndarray:
        """Positions of the samples of one cell, ascending."""
        return self.order[self.starts[cell] : self.starts[cell + 1]]


Seen = Callable[[int], object]  # called with how many cosines were taken since the last call


class Rows:
    """Unit vectors, as cells are made of them: here on the CPU.

    Attributes:
        x: (n, d) float32 unit rows.
        threads: workers; None takes the CPUs of this process.
        candidates: centroids nearest to its own, among which a sample moves.
    """

    candidates = 256

    def __init__(self, x: np.ndarray, threads: int | None = None) -> None:
        self.x, self.threads = x, threads

    @classmethod
    def of(cls, x: "np.ndarray | Rows", threads: int | None = None) -> "Rows":
        """``x`` itself, or its rows (n, d)."""
        return x if isinstance(x, Rows) else cls(x, threads)

    def nearest(self, rows: np.ndarray, centroids: np.ndarray, seen: Seen) -> np.ndarray:
        """(r,) the nearest centroid of the rows (r,)."""
        member = np.empty(len(rows), dtype=np.int64)

        def block(part: slice, workspace: Workspace) -> None:
            some = rows[part]
            cosines = workspace.array("cosines", (len(some), len(centroids)))
            member[part] = np.matmul(self.x[some], centroids.T, out=cosines).argmax(axis=1)
            seen(cosines.size)

        over_rows(len(rows), block, self.threads, max(64, (1 << 19) // len(centroids)))  # 2 MiB of cosines
        return member

    def moved(self, cell: np.ndarray, centroids: np.ndarray, seen: Seen) -> np.ndarray:
        """(n,) the nearest of the centroids that are near to that of a sample's cell (n,)."""
        before, found = _in_order(cell, len(centroids)), cell.copy()
        few = min(self.candidates, len(centroids))

        def block(part: slice, workspace: Workspace) -> None:
            between = workspace.array("between", (part.stop - part.start, len(centroids)))
            np.matmul(centroids[part], centroids.T, out=between)
            near = np.argpartition(between, -few, axis=1)[:, -few:]
            for at, candidates in zip(range(part.start, part.stop), near, strict=True):
                members, others = before.members(at), centroids[candidates]
                for start in range(0, len(members), TILE):
                    some = members[start : start + TILE]
                    cosines = workspace.array("cosines", (len(some), few))
                    found[some] = candidates[np.matmul(self.x[some], others.T, out=cosines).argmax(axis=1)]
            seen(few * int(before.starts[part.stop] - before.starts[part.start]))

        over_rows(len(centroids), block, self.threads, _AT_ONCE)
        return found

    def sums(
        self,
        codes: np.ndarray,
        count: int,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """(count, d) float64 of `label_sums`, whose arguments these are."""
        return label_sums(self.x, codes, count, rows, weights)

    def moment(self) -> np.ndarray:
        """(d, d) float64 of `second_moment`."""
        return second_moment(self.x)


def build_cells(
    x: np.ndarray | Rows,
    count: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[float], object] | None = None,
) -> Cells:
    """Spherical k-means (Dhillon & Modha 2001): one round on a sample, then some on all samples.

    In these a sample looks only at the centroids nearest to its own, which costs next to nothing, and cells
    that fit well spare the most dear thing later: looking into them. Seeds that are far from others
    (Arthur & Vassilvitskii 2007) give small clusters cells of their own.

    Args:
        x: (n, d) float32 unit rows, or `Rows`.
        count: cells; by default 4 sqrt(n), which balances finding cells against searching them.
        seed: of the sample and the first centroids.
        progress: called with the share of the work done since the last call, by one thread at a time.

    Raises:
        KdbiasError: more cells than samples, or none.
    """
    on = Rows.of(x, threads)
    n = len(on.x)
    count = min(n, default_cells(n)) if count is None else count
    if not 1 <= count <= n:
        raise KdbiasError(f"{n:,} samples cannot form {count:,} cells")
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(n, min(n, _SAMPLE_PER_CELL * count), replace=False))
    drawn = [math.ceil(share * count) for share in _DRAWN]
    cosines = len(sample) * (drawn[-2] + count) + n * (count + _ROUNDS * min(on.candidates, count))
    seen = _shares(cosines, progress) if progress else lambda cosines: None
    centroids = _seeds(on, sample, drawn, rng, seen)
    centroids = _means(on, sample, on.nearest(sample, centroids, seen), count, rng)
    every = np.arange(n)
    cell = on.nearest(every, centroids, seen)
    for _ in range(_ROUNDS):
        cell = on.moved(cell, _means(on, every, cell, count, rng), seen)
    # Cells without members only cost.
    used, cell = np.unique(cell, return_inverse=True)
    return _in_order(cell.reshape(-1), len(used))


def _in_order(cell: np.ndarray, count: int) -> Cells:
    order = np.argsort(cell, kind="stable")
    return Cells(cell, order, np.searchsorted(cell[order], np.arange(count + 1)))


def _shares(total: int, progress: Callable[[float], object]) -> Seen:
    """What tells progress of so many cosines in all, whichever thread has taken them."""
    lock = threading.Lock()

    def seen(cosines: int) -> None:
        with lock:
            progress(cosines / total)

    return seen


def _seeds(
    on: Rows, sample: np.ndarray, counts: list[int], rng: np.random.Generator, seen: Seen
) -> np.ndarray:
    """(c, d) vectors of a sample (r,); so many after each draw, in which they are far from those before."""
    chosen = np.empty(0, dtype=np.int64)
    fit = np.full(len(sample), -1.0, dtype=np.float32)  # cosine to the nearest seed
    for upto in sorted(set(counts)):
        far = np.maximum(1 - fit, 1e-2).astype(np.float64) ** _FARTHER
        far[chosen] = 0.0
        drawn = rng.choice(len(sample), upto - len(chosen), replace=False, p=far / far.sum())
        seeds = on.x[sample[drawn]]
        if upto < counts[-1]:
            nearest = seeds[on.nearest(sample, seeds, seen)]
            np.maximum(fit, np.einsum("rd,rd->r", on.x[sample], nearest), out=fit)
        chosen = np.concatenate([chosen, drawn])
    return on.x[sample[chosen]]


def _means(on: Rows, rows: np.ndarray, cell: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, d) float32 centroids of rows (r,) in cells (r,); of an empty cell, one of the rows."""
    sums = on.sums(cell, count, rows)
    lengths = np.linalg.norm(sums, axis=1)
    lost = lengths < 1e-6
    sums[lost], lengths[lost] = on.x[rng.choice(rows, int(lost.sum()))], 1.0
    return (sums / lengths[:, None]).astype(np.float32)


def default_cells(n: int) -> int:
    """Cells for n samples: 4 sqrt(n)."""
    return max(1, round(4 * math.sqrt(n)))
