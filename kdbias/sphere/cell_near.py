"""The near part of an estimate over cells: exact over the members of the cells that a sample looks into."""

import threading

import numpy as np

from kdbias.sphere.cell_job import CellJob
from kdbias.sphere.reservoirs import Reservoirs
from kdbias.sphere.workers import Workspace, over_rows

_ROWS = 256


class NearCells:
    """Exact sums, moments, neighbours and counts over the cells that samples look into.

    ``consume`` takes what `cells.visit` shows.

    Attributes:
        sums: (m, T, n) sum of p K over the near others, then over all others once `add_far` was called.
        moments: (3, m, n) sums of p, p s and p s^2 over the near others.
        counts: (n,) near others at a cosine of at least ``job.near``, or None.
    """

    def __init__(self, job: CellJob) -> None:
        self.job = job
        m, bandwidths = len(job.p), len(job.kernels.bandwidths)
        self.sums = np.zeros((m, bandwidths, job.n))
        self.moments = np.zeros((3, m, job.n))
        self.reservoirs = Reservoirs(job.n, job.k) if job.k else None
        self.counts = np.zeros(job.n, dtype=np.int64) if job.near is not None else None
        self.lock = threading.Lock()

    def consume(
        self,
        samples: np.ndarray,
        members: np.ndarray,
        cosines: np.ndarray,
        selves: np.ndarray,
        workspace: Workspace,
    ) -> None:
        job = self.job
        weights = job.scaled[members]
        others = np.ones((len(samples), 1)) * weights.sum(axis=0)
        squares = np.multiply(cosines, cosines, out=workspace.array("squares", cosines.shape))
        moments = np.stack([others, cosines @ weights, squares @ weights])
        row, column = selves // len(members), selves % len(members)
        itself = cosines.reshape(-1)[selves][:, None]
        for power in range(3):
            moments[power, row] -= weights[column] * itself**power
        with self.lock:
            self.moments[:, :, samples] += moments.transpose(0, 2, 1) / job.n
        for index, kernel in job.kernels.each(cosines, workspace, selves):
            towards = (kernel @ weights).T * (job.kernels.factors[index] / job.n)
            with self.lock:
                self.sums[:, index, samples] += towards
        self._select(samples, members, cosines, selves, workspace)

    def _select(
        self,
        samples: np.ndarray,
        members: np.ndarray,
        cosines: np.ndarray,
        selves: np.ndarray,
        workspace: Workspace,
    ) -> None:
        reached = workspace.array("reached", cosines.shape, np.bool_)
        if self.counts is not None and cosines.max(initial=-1) >= self.job.near:
            np.greater_equal(cosines, np.float32(self.job.near), out=reached)
            reached.reshape(-1)[selves] = False
            with self.lock:
                self.counts[samples] += np.count_nonzero(reached, axis=1)
        if self.reservoirs is not None:
            np.greater_equal(cosines, self.reservoirs.threshold[samples, None], out=reached)
            reached.reshape(-1)[selves] = False
            cells = np.flatnonzero(reached)
            with self.lock:
                self.reservoirs.offer(samples, members, cosines, cells, False)

    def add_far(self, nearest: np.ndarray, models: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add the far sums, each by the model (m, T) given.

        Returns:
            (m, T, n) standard errors of the sums, (m, T) pair energies and (m, T) their standard errors.
        """
        job = self.job
        errors = np.zeros_like(self.sums)
        residuals = np.zeros((*self.sums.shape[:2], job.landmarks.count))
        energies = np.einsum("mn,mtn->mt", job.p, self.sums)

        def block(rows: slice, workspace: Workspace) -> None:
            far = job.far(rows, nearest[rows], self.moments[:, :, rows], workspace)
            self.sums[:, :, rows] += np.take_along_axis(far.models, models[None, :, :, None], axis=0)[0]
            errors[:, :, rows] = far.errors
            with self.lock:
                np.add(residuals, far.by_landmark, out=residuals)
                np.add(energies, far.energy, out=energies)

        over_rows(job.n, block, job.threads, rows=_ROWS)
        return errors, energies, job.landmarks.error((residuals**2).sum(axis=2))

    def best(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return (None, None) if self.reservoirs is None else self.reservoirs.best()
