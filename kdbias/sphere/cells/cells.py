"""Cells of the sphere: samples grouped around centroids, to look only where neighbours can be."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.vectors import label_sums
from kdbias.sphere.workers import Workspace, over_rows

_ROUNDS = 8
_SAMPLE_PER_CELL = 48
Nearest = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(r,) the nearest of the centroids (c, d) to the samples (r,)."""


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


def build_cells(
    x: np.ndarray,
    count: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    nearest: Nearest | None = None,
) -> Cells:
    """Spherical k-means (Dhillon & Modha 2001) on a sample, then every sample to its nearest centroid.

    Args:
        x: (n, d) float32 unit rows.
        count: cells; by default 4 sqrt(n), which balances finding cells against searching them.
        seed: of the sample and the first centroids.
        nearest: finds the nearest centroids of some samples; by default on the CPU.
    """
    n = len(x)
    count = min(n, default_cells(n)) if count is None else count
    if not 1 <= count <= n:
        raise KdbiasError(f"{n:,} samples cannot form {count:,} cells")
    assign = nearest or (lambda rows, centroids: _assign(x, rows, centroids, threads))
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(n, min(n, _SAMPLE_PER_CELL * count), replace=False))
    centroids = x[sample[rng.choice(len(sample), count, replace=False)]]
    for _ in range(_ROUNDS):
        sums = label_sums(x, assign(sample, centroids), count, sample)
        lengths = np.linalg.norm(sums, axis=1)
        lost = lengths < 1e-6
        sums[lost], lengths[lost] = x[sample[rng.choice(len(sample), int(lost.sum()))]], 1.0
        centroids = (sums / lengths[:, None]).astype(np.float32)
    # Cells without members only cost.
    used, cell = np.unique(assign(np.arange(n), centroids), return_inverse=True)
    cell = cell.reshape(-1)
    order = np.argsort(cell, kind="stable")
    return Cells(cell, order, np.searchsorted(cell[order], np.arange(len(used) + 1)))


def default_cells(n: int) -> int:
    """Cells for n samples: 4 sqrt(n)."""
    return max(1, round(4 * math.sqrt(n)))


def _assign(x: np.ndarray, rows: np.ndarray, centroids: np.ndarray, threads: int | None) -> np.ndarray:
    """(r,) the nearest centroid of the rows (r,) of x."""
    member = np.empty(len(rows), dtype=np.int64)

    def block(part: slice, workspace: Workspace) -> None:
        some = rows[part]
        cosines = workspace.array("cosines", (len(some), len(centroids)))
        member[part] = np.matmul(x[some], centroids.T, out=cosines).argmax(axis=1)

    over_rows(len(rows), block, threads, max(64, (1 << 19) // len(centroids)))  # 2 MiB of cosines
    return member
