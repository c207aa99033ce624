"""What an estimate over cells sets up once: cells, their moments, the model of what is far."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.sphere.cells.cells import Cells, Rows, build_cells
from kdbias.sphere.cells.far import CellMoments, pooled_spread
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.tiles import TILE

SHARES = (
    *(0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.1),
    *(0.12, 0.15, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0),
)
"""Parts of all pairs to try; of the last one sums are exact."""
QUERIES = 1024


@dataclass(frozen=True)
class Estimate:
    """What an estimate is to find, and how.

    Attributes:
        k: neighbours a sample; 0 for none.
        near: cosine to count others at; None for no counts.
        tolerance: wanted relative root-mean-square error of a potential.
        recall: wanted share of the neighbours that are found.
        share: part of all pairs that are looked at one by one; None chooses the least that does.
        queries: samples that are computed exactly.
        seed: of the cells and the queries.
        tile: most samples in a block of cosines, and four times the members of a cell.
        threads: workers; None takes the CPUs of this process.
        device: ``cpu``, or a torch device.
    """

    k: int = 0
    near: float | None = None
    tolerance: float = 9.5e-4
    recall: float = 0.95
    share: float | None = None
    queries: int = QUERIES
    seed: int = 0
    tile: int = TILE
    threads: int | None = None
    device: str = "cpu"

    def shares(self, n: int) -> Sequence[float]:
        """Parts of all pairs to try for n samples, ascending."""
        if self.share is not None:
            return [self.share]
        if n <= self.queries:  # they are all computed exactly anyway
            return [1.0]
        return SHARES


class CellJob:
    """The data of one estimate and everything that serves all its samples.

    Attributes:
        x: (n, d) float32 unit rows; rows: what they are computed with.
        p: (m, n) float64 sampling probabilities.
        scaled: (n, m) float32, p n.
        how: what to find, and how.
        kernels, cells: see there.
        natural: moments of the cells, all samples alike.
        weighted: those of the m weightings; ``natural`` where one is uniform.
        spread: (d, d) of `pooled_spread`.
        place: (n,) where each sample of the data stands among these; None: they are as they come.
    """

    def __init__(
        self,
        x: np.ndarray | Rows,
        bandwidths: Sequence[float],
        p: np.ndarray,
        how: Estimate,
        cells: Cells | None = None,
        place: np.ndarray | None = None,
    ) -> None:
        self.rows = Rows.of(x, how.threads)
        self.x, self.p, self.how, self.n = self.rows.x, p, how, len(self.rows.x)
        self.kernels = Kernels(bandwidths)
        self.scaled = np.ascontiguousarray((p * self.n).T, dtype=np.float32)
        self.place = place
        self.cells = cells or build_cells(self.rows, seed=how.seed)
        self.natural = CellMoments.of(self.rows, self.cells)
        self.weighted = [
            self.natural if row.min() == row.max() else CellMoments.of(self.rows, self.cells, row * self.n)
            for row in p
        ]
        self.spread = pooled_spread(self.rows, self.natural)
