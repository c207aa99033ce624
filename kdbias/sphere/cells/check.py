"""What an estimate over cells is worth: some samples are computed exactly and compared."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.cells.cells import Inverted
from kdbias.sphere.cells.job import CellJob
from kdbias.sphere.vectors import distances, rank_correlation
from kdbias.sphere.workers import Workspace, over_rows

COVERAGE = 0.95
# Of a block of cosines; some ten arrays of its size are held at a time.
_ROWS, _COLUMNS = 32, 8192


class CellCheck:
    """Random samples whose potentials and neighbours are computed exactly.

    They are estimated with several numbers of probes, too. A quarter of them choose the cheapest good one and
    the far model before anything else is computed. On the others it is judged: intervals are standard errors
    times the factor that covers 95 % of these samples, hence of any (split conformal prediction: Vovk,
    Gammerman & Shafer 2005; Lei et al. 2018).

    Args:
        job: what is estimated.
    """

    def __init__(self, job: CellJob) -> None:
        self.job = job
        rng = np.random.default_rng(job.how.seed + 2)
        self.rows = rng.choice(job.n, min(job.how.queries, job.n), replace=False)
        # Too few samples to split are used twice.
        quarter = len(self.rows) // 4 if len(self.rows) >= 64 else 0
        self.choosing = slice(0, quarter or len(self.rows))
        self.judging = slice(quarter, len(self.rows))
        self.probes = job.how.widths(job.cells.count)
        m, bandwidths = len(job.p), len(job.kernels.bandwidths)
        shape = (len(self.probes), m, bandwidths, len(self.rows))
        self.exact = np.zeros(shape[1:])
        self.estimates, self.errors = np.zeros((2, *shape)), np.zeros(shape)
        self.cosines = np.zeros((len(self.rows), job.how.k), dtype=np.float32)
        over_rows(len(self.rows), self._block, job.how.threads, _ROWS)

    def _block(self, part: slice, workspace: Workspace) -> None:
        job, rows = self.job, self.rows[part]
        shape = (len(job.p), len(rows), self.probes[-1] + 1)
        near = np.zeros((3, *shape))
        kernel_near = np.zeros((len(job.kernels.bandwidths), *shape))
        best = np.empty((len(rows), 0), dtype=np.float32)
        for columns, cosines, selves in _against_all(job.x, rows, workspace):
            ranks, weights = self._ranks(rows, columns), job.scaled[columns].T
            for power in range(3):
                values = cosines**power
                values.reshape(-1)[selves] = 0.0
                _add_by_rank(near[power], values, weights, ranks)
            for index, kernel in job.kernels.each(cosines, workspace, selves):
                _add_by_rank(kernel_near[index], kernel, weights, ranks)
            if job.how.k:
                best = _largest(best, cosines, selves, job.how.k)
        near = near.cumsum(axis=-1) / job.n
        kernel_near *= job.kernels.factors[:, None, None, None]
        kernel_near = kernel_near.cumsum(axis=-1).swapaxes(0, 1) / job.n
        self.exact[:, :, part] = kernel_near[..., -1]
        for position, width in enumerate(self.probes):
            far = job.far(rows, width, near[..., width - 1], workspace)
            self.estimates[:, position, :, :, part] = kernel_near[..., width - 1] + far.models
            self.errors[position, :, :, part] = far.errors
        self.cosines[part] = best

    def _ranks(self, rows: np.ndarray, columns: slice) -> np.ndarray:
        """(r, c) the least width at which a side sees the other, less one; the widest where none does."""
        cells, nearest, widest = self.job.cells, self.job.nearest, self.probes[-1]
        of_cells = np.full((len(rows), cells.count), widest)
        np.put_along_axis(of_cells, nearest[rows, :widest], np.arange(widest)[None], axis=1)
        ranks = of_cells[:, cells.cell[columns]]
        own = cells.cell[rows]
        inverted = Inverted.of(nearest[columns, :widest], cells.count, own)
        for rank, cell in zip(ranks, own, strict=True):
            samples, choice = inverted.of_cell(cell)
            rank[samples] = np.minimum(rank[samples], choice)
        return ranks

    def surprise(self, width: int) -> float:
        """A cosine that one in ten thousand pairs of a checked sample and a far landmark reaches."""
        job, found = self.job, []
        for start in range(0, len(self.rows), 64):
            rows = self.rows[start : start + 64]
            cosines = job.x[rows] @ job.landmarks.vectors.T
            found.append(cosines[job.is_far(rows, width)])
        values = np.concatenate(found)
        return float(np.quantile(values, 1 - 1e-4)) if len(values) else 1.0

    @property
    def potentials(self) -> np.ndarray:
        """(m, T, q) exact, self included."""
        return self.exact + self.job.p[:, None, self.rows]

    @property
    def scale(self) -> np.ndarray:
        """(m, T, q) what errors are relative to: potentials, the least of them as in natural sampling, 1 / n.

        A sample of no weight may see next to nothing, which no estimate is close to and nobody asks for.
        """
        return np.maximum(self.potentials, 1 / self.job.n)

    def models(self, width: int) -> np.ndarray:
        """(m, T) the far model of the smaller root-mean-square relative error with that many probes."""
        off = (self.estimates[:, self.probes.index(width)] - self.exact) / self.scale
        return (off[..., self.choosing] ** 2).mean(axis=-1).argmin(axis=0)

    def off(self, width: int) -> np.ndarray:
        """(m, T, q) errors of the potentials by that model."""
        estimates = self.estimates[:, self.probes.index(width)]
        return np.take_along_axis(estimates, self.models(width)[None, :, :, None], axis=0)[0] - self.exact

    def worst_rms(self, width: int) -> float:
        """The largest root-mean-square relative error over weightings and bandwidths."""
        off = (self.off(width) / self.scale)[..., self.choosing]
        return float(np.sqrt((off**2).mean(axis=2)).max())

    def choose(self) -> int:
        """The fewest probes within the tolerance, or the most that are allowed."""
        within = (q for q in self.probes if self.worst_rms(q) <= self.job.how.tolerance)
        return next(within, self.probes[-1])

    def verdict(self, width: int, found: AllPairs) -> tuple[np.ndarray, dict[str, object]]:
        """(m, T) factors from standard errors to half-widths, and how good the results are."""
        errors = self.errors[self.probes.index(width)]
        off, potentials, scale, errors = (
            values[..., self.judging] for values in (self.off(width), self.potentials, self.scale, errors)
        )
        relative = off / scale
        # An error below rounding is no yardstick: ratios to it would widen everything that is measured by it.
        least = rounding(self.job.kernels.bandwidths) * scale
        ratios = np.sort(np.abs(off) / np.maximum(errors, least), axis=2)
        count = ratios.shape[2]
        rank = min(math.ceil((count + 1) * COVERAGE), count) - 1
        names = ("fit", "gauss")
        quality: dict[str, object] = {
            "cells": self.job.cells.count,
            "probes": width,
            "landmarks": self.job.landmarks.count,
            "queries": len(self.rows),
            "coverage": COVERAGE,
            "rms_relative_error": np.sqrt((relative**2).mean(axis=2)).tolist(),
            "largest_relative_error": np.abs(relative).max(axis=2).tolist(),
            "far_model": [[names[i] for i in row] for row in self.models(width)],
            "spearman": [
                [agreement(exact, estimated) for exact, estimated in zip(*pair, strict=True)]
                for pair in zip(scale, np.maximum(potentials + off, 1 / self.job.n), strict=True)
            ],
        }
        return ratios[:, :, rank], quality | self.neighbour_quality(found.ids, found.cosines)

    def neighbour_quality(
        self, ids: np.ndarray | None, cosines: np.ndarray | None
    ) -> dict[str, float | None]:
        """Recall of found neighbours (n, k), and how their k-th distances compare with the exact ones."""
        if ids is None or cosines is None:
            return {"recall": None, "knn_spearman": None, "knn_log_ratio": None}
        return neighbour_quality(self.cosines, cosines[self.rows])


def neighbour_quality(exact: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    """Compare found cosines (q, k), each row descending, with the exact ones.

    ``recall``: share of the found that are as near as the exact k-th (so ties count as found);
    ``knn_spearman``: rank correlation of k-th distances; ``knn_log_ratio``: mean log of found over exact k-th
    distance, which an approximate search biases upwards.
    """
    near, far = (np.maximum(distances(cosines[:, -1]), 1e-6) for cosines in (exact, found))
    return {
        "recall": float((found >= exact[:, -1:] - 1e-6).mean()),
        "knn_spearman": agreement(near, far),
        "knn_log_ratio": float(np.log(far / near).mean()),
    }


def exact_cosines(x: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """(q, k) float32 cosines of some samples (q,) to their k nearest others, descending."""
    found = np.empty((len(rows), k), dtype=np.float32)
    workspace = Workspace()
    for start in range(0, len(rows), _ROWS):
        best = found[start : start + _ROWS, :0]
        for _, cosines, selves in _against_all(x, rows[start : start + _ROWS], workspace):
            best = _largest(best, cosines, selves, k)
        found[start : start + _ROWS] = best
    return found


def _against_all(
    x: np.ndarray, rows: np.ndarray, workspace: Workspace
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some columns, the cosines of the rows (r,) with them, and the flat positions of self-pairs therein."""
    left = x[rows]
    for start in range(0, len(x), _COLUMNS):
        columns = slice(start, min(len(x), start + _COLUMNS))
        cosines = workspace.array("cosines", (len(rows), columns.stop - start))
        np.matmul(left, x[columns].T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        inside = np.flatnonzero((rows >= start) & (rows < columns.stop))
        yield columns, cosines, inside * cosines.shape[1] + rows[inside] - start


def _add_by_rank(totals: np.ndarray, values: np.ndarray, weights: np.ndarray, ranks: np.ndarray) -> None:
    """Add to totals (m, r, W) the weighted sums of values (r, c) of equal rank; weights are (m, c)."""
    for total, weight in zip(totals, weights, strict=True):
        for row, value, rank in zip(total, values, ranks, strict=True):
            row += np.bincount(rank, value * weight, len(row))


def _largest(best: np.ndarray, cosines: np.ndarray, selves: np.ndarray, k: int) -> np.ndarray:
    """(r, at most k) the largest of the best so far and of more cosines, descending, without self-pairs."""
    cosines.reshape(-1)[selves] = -2.0
    pool = np.concatenate([best, cosines], axis=1)
    first = max(0, pool.shape[1] - k)
    pool.partition(first, axis=1)
    return -np.sort(-pool[:, first:], axis=1)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of (q,) numbers; where that is not defined, 1 if both are constant and 0 if one is."""
    found = rank_correlation(a, b)
    return float(np.ptp(a) == np.ptp(b) == 0) if found is None else found


def rounding(bandwidths: Sequence[float]) -> np.ndarray:
    """(T, 1) relative error of a potential that float32 products leave: 2t times that of a cosine."""
    return 2e-6 + 1e-6 * np.asarray(bandwidths, dtype=np.float64)[:, None]
