"""What an estimate over cells sets up once: cells, moments, landmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.sphere.cells.cells import Cells, build_cells
from kdbias.sphere.cells.far import Far, Landmarks, Moments, far_sums
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.tiles import TILE
from kdbias.sphere.workers import Workspace

LANDMARKS = 1024
PROBES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LARGEST_SHARE = 0.04  # of the cells that a sample may look into, where no number of probes is asked for
_FEWEST = 8


@dataclass(frozen=True)
class Estimate:
    """What an estimate is to find, and how.

    Attributes:
        k: neighbours a sample; 0 for none.
        near: cosine to count others at; None for no counts.
        tolerance: wanted relative root-mean-square error of a potential.
        probes: cells a sample looks into; None chooses the fewest within the tolerance.
        landmarks: samples that correct the far field.
        queries: samples that are computed exactly.
        seed: of the cells, the landmarks and the queries.
        tile: most samples, and most members of a cell, in a block of cosines.
        threads: workers; None takes the CPUs of this process.
    """

    k: int = 0
    near: float | None = None
    tolerance: float = 5e-4
    probes: int | None = None
    landmarks: int = LANDMARKS
    queries: int = 512
    seed: int = 0
    tile: int = TILE
    threads: int | None = None

    def widths(self, cells: int) -> list[int]:
        """Numbers of probes to try among so many cells, ascending."""
        most = max(_FEWEST, int(LARGEST_SHARE * cells))
        wanted = [q for q in PROBES if q <= most] if self.probes is None else [self.probes]
        return sorted({min(q, cells) for q in wanted})


class CellJob:
    """The data of one estimate and everything that serves all its samples.

    Attributes:
        x: (n, d) float32 unit rows.
        p: (m, n) float64 sampling probabilities.
        scaled: (n, m) float32, p n.
        how: what to find, and how.
        kernels, cells, moments, landmarks: see there.
        nearest: (n, widest) integers, the cells nearest to each sample, the nearest first.
    """

    def __init__(self, x: np.ndarray, bandwidths: Sequence[float], p: np.ndarray, how: Estimate) -> None:
        self.x, self.p, self.how, self.n = x, p, how, len(x)
        self.kernels = Kernels(bandwidths)
        self.scaled = np.ascontiguousarray((p * self.n).T, dtype=np.float32)
        self.cells: Cells = build_cells(x, seed=how.seed, threads=how.threads)
        self.nearest = self.cells.nearest(x, how.widths(self.cells.count)[-1], how.threads)
        self.moments = Moments.of(x, p, how.threads)
        rng = np.random.default_rng(how.seed + 1)
        positions = rng.choice(self.n, min(how.landmarks, self.n), replace=False)  # in random order
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
