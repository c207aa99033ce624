"""The near part of an estimate over cells: exact over pairs of which a side looks into the other's cell."""

import math
import threading

import numpy as np

from kdbias.sphere.cells.cells import CellBlock
from kdbias.sphere.cells.job import CellJob
from kdbias.sphere.reservoirs import Reservoirs
from kdbias.sphere.workers import Workspace, over_rows

FAR_ROWS = 256


class NearCells:
    """Exact sums, moments, neighbours and counts over pairs of which a side looks into the other's cell.

    ``consume`` takes what `cells.visit` shows.

    Args:
        surprise: a cosine that far landmarks hardly ever reach.

    Attributes:
        sums: (m, T, n) sum of p K over the near others, then over all others once `add_far` was called.
        moments: (3, m, n) sums of p, p s and p s^2 over the near others.
        counts: (n,) near others at a cosine of at least ``job.how.near``, or None.
        one_sided: (m, T) part of the energy in pairs that only one side sees and whose cosine is past
            ``surprise``. Pairs that neither side sees are rarer still, so this bounds what they add where
            landmarks are too few to meet them.
    """

    def __init__(self, job: CellJob, surprise: float) -> None:
        self.job = job
        m, bandwidths = len(job.p), len(job.kernels.bandwidths)
        self.sums = np.zeros((m, bandwidths, job.n))
        self.moments = np.zeros((3, m, job.n))
        self.reservoirs = Reservoirs(job.n, job.how.k) if job.how.k else None
        self.counts = np.zeros(job.n, dtype=np.int64) if job.how.near is not None else None
        self.surprise = surprise
        self.one_sided = np.zeros((m, bandwidths))
        self.lock = threading.Lock()

    def consume(self, block: CellBlock, workspace: Workspace) -> None:
        """Take in one block, its one-sided pairs for both sides."""
        job, cosines = self.job, block.cosines
        of_samples, of_members = job.scaled[block.samples], job.scaled[block.members]
        mask = workspace.array("mask", cosines.shape)
        np.copyto(mask, block.one_sided)
        row, column = block.selves // len(block.members), block.selves % len(block.members)
        itself = cosines.reshape(-1)[block.selves][:, None]
        towards_samples = np.empty((3, *of_samples.shape), dtype=np.float32)
        towards_members = np.empty((3, *of_members.shape), dtype=np.float32)
        power = workspace.array("scratch", cosines.shape)
        power.fill(1.0)
        for exponent in range(3):
            towards_samples[exponent] = power @ of_members
            towards_samples[exponent, row] -= of_members[column] * itself**exponent
            masked = np.multiply(power, mask, out=workspace.array("masked", cosines.shape))
            towards_members[exponent] = masked.T @ of_samples
            power *= cosines
        with self.lock:
            self.moments[:, :, block.samples] += towards_samples.transpose(0, 2, 1) / job.n
            self.moments[:, :, block.members] += towards_members.transpose(0, 2, 1) / job.n
        for index, kernel in job.kernels.each(cosines, workspace, block.selves):
            factor = job.kernels.factors[index] / job.n
            towards = kernel @ of_members
            masked = workspace.array("masked", kernel.shape, kernel.dtype.type)
            back = np.multiply(kernel, mask, out=masked).T @ of_samples
            self._watch(index, masked, of_members, block.samples)
            with self.lock:
                self.sums[:, index, block.samples] += factor * towards.T
                self.sums[:, index, block.members] += factor * back.T
        self._select(block, workspace)

    def _watch(self, index: int, one_sided: np.ndarray, of_members: np.ndarray, samples: np.ndarray) -> None:
        """Add up how much of the energy hangs on one side only, beyond what landmarks are sure to see.

        Args:
            one_sided: (r, c) kernels, zero where both sides see the pair; overwritten.
        """
        t, factor = self.job.kernels.bandwidths[index], self.job.kernels.factors[index]
        one_sided -= math.exp(2 * t * (self.surprise - 1)) / factor
        np.maximum(one_sided, 0, out=one_sided)
        excess = np.einsum("mr,rm->m", self.job.p[:, samples], one_sided @ of_members)
        with self.lock:
            self.one_sided[:, index] += excess * factor / self.job.n

    def _select(self, block: CellBlock, workspace: Workspace) -> None:
        cosines, near = block.cosines, self.job.how.near
        reached = workspace.array("reached", cosines.shape, np.bool_)
        if self.counts is not None and near is not None and cosines.max(initial=-1) >= near:
            np.greater_equal(cosines, np.float32(near), out=reached)
            reached.reshape(-1)[block.selves] = False
            with self.lock:
                self.counts[block.samples] += np.count_nonzero(reached, axis=1)
                self.counts[block.members] += np.count_nonzero(reached & block.one_sided, axis=0)
        if self.reservoirs is None:
            return
        threshold = self.reservoirs.threshold
        np.greater_equal(cosines, threshold[block.samples, None], out=reached)
        reached.reshape(-1)[block.selves] = False
        cells = np.flatnonzero(reached)
        with self.lock:
            self.reservoirs.offer(block.samples, block.members, cosines, cells, False)
        np.greater_equal(cosines, threshold[None, block.members], out=reached)
        reached &= block.one_sided
        cells = np.flatnonzero(reached)
        with self.lock:
            self.reservoirs.offer(block.members, block.samples, cosines, cells, True)

    def add_far(
        self, width: int, models: np.ndarray, rows: int = FAR_ROWS
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Add the far sums, each by the model (m, T) given, some rows at a time.

        Returns:
            (m, T, n) standard errors of the sums, (m, T) pair energies and (m, T) their standard errors.
        """
        job = self.job
        errors = np.zeros_like(self.sums)
        residuals = np.zeros((*self.sums.shape[:2], job.landmarks.count))
        energies = np.einsum("mn,mtn->mt", job.p, self.sums)

        def block(part: slice, workspace: Workspace) -> None:
            far = job.far(part, width, self.moments[:, :, part], workspace)
            self.sums[:, :, part] += np.take_along_axis(far.models, models[None, :, :, None], axis=0)[0]
            errors[:, :, part] = far.errors
            with self.lock:
                np.add(residuals, far.by_landmark, out=residuals)
                np.add(energies, far.energy, out=energies)

        over_rows(job.n, block, job.how.threads, rows)
        by_landmarks = job.landmarks.error((residuals**2).sum(axis=2))
        # A bound counts as two standard errors.
        return errors, energies, np.hypot(by_landmarks, self.one_sided / 2)

    def best(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The neighbours that were found: (n, k) int64 positions and float32 cosines, nearest first.

        (None, None) where none were asked for.
        """
        return (None, None) if self.reservoirs is None else self.reservoirs.best()
