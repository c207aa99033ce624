"""What an estimate over cells sets up once: cells, moments, landmarks."""

from collections.abc import Callable

import numpy as np

from kdbias.sphere.cells.cells import Cells, build_cells
from kdbias.sphere.cells.far import Far, Landmarks, Moments, far_sums
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.workers import Workspace

LANDMARKS = 1024


class CellJob:
    """The data of one estimate and everything that serves all its samples.

    Attributes:
        x: (n, d) float32 unit rows.
        p: (m, n) float64 sampling probabilities.
        scaled: (n, m) float32, p n.
        k, near: neighbours to find, cosine to count others at (None for no counts).
        kernels, cells, moments, landmarks: see there.
        nearest: (n, widest) integers, the cells nearest to each sample, the nearest first.
    """

    def __init__(
        self,
        x: np.ndarray,
        bandwidths: list[float],
        p: np.ndarray,
        k: int,
        near: float | None,
        landmarks: int,
        widest: Callable[[int], int],
        seed: int,
        threads: int | None,
    ) -> None:
        self.x, self.p, self.k, self.near, self.threads = x, p, k, near, threads
        self.n = len(x)
        self.kernels = Kernels(bandwidths)
        self.scaled = np.ascontiguousarray((p * self.n).T, dtype=np.float32)
        self.cells: Cells = build_cells(x, seed=seed, threads=threads)
        self.nearest = self.cells.nearest(x, widest(self.cells.count), threads)
        self.moments = Moments.of(x, p, threads)
        rng = np.random.default_rng(seed + 1)
        positions = rng.choice(self.n, min(landmarks, self.n), replace=False)  # in random order
        self.landmarks = Landmarks(
            positions, x[positions], self.scaled[positions].T.copy(), self.cells.cell[positions], self.n
        )

    def narrow(self, width: int) -> None:
        """Forget all but the ``width`` nearest cells of each sample."""
        self.nearest = np.ascontiguousarray(self.nearest[:, :width])

    def far(
        self, rows: np.ndarray | slice, width: int, near_moments: np.ndarray, workspace: Workspace
    ) -> Far:
        """The far part of some rows.

        Args:
            width: how many cells every sample looks into.
            near_moments: (3, m, r): sums of p, p s, p s^2 over the near others (self left out).
        """
        x, p, marks = self.x[rows], self.p[:, rows], self.landmarks
        is_far = self.is_far(rows, width)
        cosines = workspace.array("landmark cosines", (len(x), marks.count))
        np.matmul(x, marks.vectors.T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        first, second = self.moments.along(x)
        mass, first, second = (
            whole - part - p
            for whole, part in zip((self.moments.mass[:, None], first, second), near_moments, strict=True)
        )
        return far_sums(cosines, is_far, mass, first, second, p, marks, self.kernels, workspace)

    def is_far(self, rows: np.ndarray | slice, width: int) -> np.ndarray:
        """(r, L) bool: neither the row nor the landmark looks into the other's cell."""
        cells, marks = self.cells, self.landmarks
        looks = np.zeros((len(cells.cell[rows]), cells.count), dtype=bool)
        np.put_along_axis(looks, self.nearest[rows, :width], True, axis=1)
        looks_back = np.zeros((marks.count, cells.count), dtype=bool)
        np.put_along_axis(looks_back, self.nearest[marks.positions, :width], True, axis=1)
        return ~(looks[:, marks.cell] | looks_back[:, cells.cell[rows]].T)
