"""Cells of the sphere: samples grouped around centroids, to look only where neighbours can be."""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.workers import Workspace, each, over_rows

_ROWS = 1024
_ROUNDS = 8
_SAMPLE_PER_CELL = 48


@dataclass(frozen=True)
class Cells:
    """A partition of n samples by their nearest centroid.

    Attributes:
        centroids: (c, d) float32 unit rows.
        cell: (n,) int64, the cell of each sample.
        order: (n,) int64, the samples cell by cell.
        starts: (c + 1,) int64, where each cell begins in ``order``.
    """

    centroids: np.ndarray
    cell: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        return len(self.centroids)

    def members(self, cell: int) -> np.ndarray:
        """Positions of the samples of one cell, ascending."""
        return self.order[self.starts[cell] : self.starts[cell + 1]]

    def nearest(self, x: np.ndarray, probes: int, threads: int | None = None) -> np.ndarray:
        """(len(x), probes) int32: the cells nearest to each row, the nearest first."""
        result = np.empty((len(x), probes), dtype=np.int32)

        def block(rows: slice, workspace: Workspace) -> None:
            cosines = x[rows] @ self.centroids.T
            top = np.argpartition(-cosines, probes - 1, axis=1)[:, :probes]
            inner = np.argsort(-np.take_along_axis(cosines, top, axis=1), axis=1, kind="stable")
            result[rows] = np.take_along_axis(top, inner, axis=1)

        over_rows(len(x), block, threads)
        return result


def build_cells(x: np.ndarray, count: int | None = None, seed: int = 0, threads: int | None = None) -> Cells:
    """Spherical k-means (Dhillon & Modha 2001) on a sample, then every sample to its nearest centroid.

    Args:
        x: (n, d) float32 unit rows.
        count: cells; by default 4 sqrt(n), which balances finding cells against searching them at 16 probes.
        seed: of the sample and the first centroids.
    """
    n = len(x)
    count = min(n, default_cells(n)) if count is None else count
    if not 1 <= count <= n:
        raise KdbiasError(f"{n:,} samples cannot form {count:,} cells")
    rng = np.random.default_rng(seed)
    sample = x[np.sort(rng.choice(n, min(n, _SAMPLE_PER_CELL * count), replace=False))]
    centroids = sample[rng.choice(len(sample), count, replace=False)].copy()
    for _ in range(_ROUNDS):
        member = _assign(sample, centroids, threads)
        sums = np.zeros((count, x.shape[1]))
        order = np.argsort(member, kind="stable")
        filled, begins = np.unique(member[order], return_index=True)
        sums[filled] = np.add.reduceat(sample[order], begins, axis=0)
        lengths = np.linalg.norm(sums, axis=1)
        lost = lengths < 1e-6
        sums[lost], lengths[lost] = sample[rng.choice(len(sample), int(lost.sum()))], 1.0
        centroids = (sums / lengths[:, None]).astype(np.float32)
    cell = _assign(x, centroids, threads)
    used, cell = np.unique(cell, return_inverse=True)  # cells without members only cost
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(used) + 1))
    return Cells(np.ascontiguousarray(centroids[used]), cell.reshape(-1), order, starts)


def default_cells(n: int) -> int:
    return max(1, round(4 * math.sqrt(n)))


def visit(
    x: np.ndarray,
    cells: Cells,
    probes: np.ndarray,
    consume: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Workspace], None],
    *,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Show the cosines between each sample and all members of the cells it probes, cell by cell.

    One product a cell serves all samples that probe it, which is several times faster than sample by sample.

    Args:
        x: (n, d) float32 unit rows.
        probes: (n, P) cells that each sample looks into.
        consume: called with ``(samples, members, cosines, selves, workspace)`` from several threads:
            positions (r,) and (c,), their (r, c) clamped cosines, and the flat positions of self-pairs in
            them. A pair of sample and member is shown at most once.
        progress: called with the number of pairs after each block.
    """
    width = probes.shape[1]
    by_cell = np.argsort(probes.reshape(-1), kind="stable")
    begins = np.searchsorted(probes.reshape(-1)[by_cell], np.arange(cells.count + 1))
    within = np.empty(len(x), dtype=np.int64)
    within[cells.order] = np.arange(len(x)) - np.repeat(cells.starts[:-1], np.diff(cells.starts))
    lock = threading.Lock()

    def blocks() -> Iterator[tuple[int, np.ndarray, int]]:
        for cell in np.argsort(-np.diff(begins) * np.diff(cells.starts)):  # the dearest first
            queries = by_cell[begins[cell] : begins[cell + 1]] // width
            for start in range(0, len(queries), _ROWS):
                for first in range(0, int(cells.starts[cell + 1] - cells.starts[cell]), _ROWS):
                    yield int(cell), queries[start : start + _ROWS], first

    def work(block: tuple[int, np.ndarray, int], workspace: Workspace) -> None:
        cell, samples, first = block
        members = cells.members(cell)[first : first + _ROWS]
        cosines = workspace.array("cosines", (len(samples), len(members)))
        np.matmul(x[samples], x[members].T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        own = np.flatnonzero(cells.cell[samples] == cell)
        column = within[samples[own]] - first
        inside = (column >= 0) & (column < len(members))
        selves = own[inside] * len(members) + column[inside]
        consume(samples, members, cosines, selves, workspace)
        if progress is not None:
            with lock:
                progress(cosines.size)

    each(blocks(), work, threads)


def _assign(x: np.ndarray, centroids: np.ndarray, threads: int | None) -> np.ndarray:
    member = np.empty(len(x), dtype=np.int64)

    def block(rows: slice, workspace: Workspace) -> None:
        member[rows] = (x[rows] @ centroids.T).argmax(axis=1)

    over_rows(len(x), block, threads)
    return member
