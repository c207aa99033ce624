"""What an estimate over cells is worth: some samples are computed exactly and compared."""

import math
from collections.abc import Sequence

import numpy as np

from kdbias.progress import say
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.cells.far import FEATURES, Correction
from kdbias.sphere.cells.host import Host
from kdbias.sphere.vectors import distances, rank_correlation
from kdbias.sphere.workers import Workspace, over_rows

COVERAGE = 0.95
FOR_WEIGHTS = 0.08
"""Of the pairs: what a weighting's potentials may take; the fewer samples it draws, the more they need."""
_NO_GAIN = 0.25  # of the pairs: with as many, symmetric tiles of all of them are cheaper
_NUMBERS = 1 << 21  # of sums by cell held at once
_ROWS = 128


class CellCheck:
    """Random samples whose potentials and neighbours are computed exactly.

    They are estimated with several parts of the pairs looked at, too. Half of them choose the least good
    one and fit the far sums before anything else is computed. On the others the estimate is judged: intervals
    are standard errors times the factor that covers 95 % of these samples, hence of any (split conformal
    prediction: Vovk, Gammerman & Shafer 2005; Lei et al. 2018).

    Args:
        host: what computes them, and what is estimated.
    """

    def __init__(self, host: Host) -> None:
        self.host, self.job = host, host.job
        job = self.job
        rng = np.random.default_rng(job.how.seed + 2)
        drawn = rng.choice(job.n, min(job.how.queries, job.n), replace=False)
        self.rows = drawn if job.place is None else job.place[drawn]
        q, m, bandwidths = len(self.rows), len(job.p), len(job.kernels.bandwidths)
        # Too few samples to split are used twice.
        half = q // 2 if q >= 64 else 0
        self.choosing, self.judging = slice(0, half or q), slice(half, q)
        self.thresholds = self._thresholds()
        count = len(self.thresholds)
        self.exact = np.zeros((m, bandwidths, q))
        self.near, self.errors = np.zeros((2, count, m, bandwidths, q))
        self.features = np.zeros((count, m, bandwidths, FEATURES, q))
        self.cosines = np.zeros((q, job.how.k), dtype=np.float32)
        self.hits, self.looked, self.cells = np.zeros((3, count, q))
        rows = max(1, min(_ROWS, _NUMBERS // (m * bandwidths * job.cells.count)))
        over_rows(q, self._block, host.threads, rows)
        self.corrections = [self._fit(choice) for choice in range(count)]

    def _thresholds(self) -> list[float]:
        """Urgencies at which samples look at given shares of all pairs, descending."""
        job = self.job
        shares = job.how.shares(job.n)
        urgency, workspace = np.empty((len(self.rows), job.cells.count), dtype=np.float32), Workspace()
        for start in range(0, len(self.rows), _ROWS):
            some = slice(start, start + _ROWS)
            urgency[some] = self.host.urgency(self.rows[some], workspace)
        order = np.argsort(-urgency, axis=None)
        seen = job.cells.sizes[order % job.cells.count].cumsum() / (job.n * len(self.rows))
        values = urgency.reshape(-1)[order]
        places = np.searchsorted(seen, shares)
        return [float(values[place]) if place < len(values) - 1 else -math.inf for place in places]

    def _block(self, part: slice, workspace: Workspace) -> None:
        job, rows = self.job, self.rows[part]
        found = self.host.exact(rows, workspace)
        view = self.host.look(rows, self.thresholds, workspace)
        self.exact[:, :, part] = found.by_cell.sum(axis=3)
        self.features[..., part], self.errors[..., part] = view.features / job.n, view.errors / job.n
        self.features[..., 1:, part] *= job.n
        for choice, near in enumerate(map(self.host.far.numbers, view.near)):
            self.near[choice, :, :, part] = np.einsum("mtrc,rc->mtr", found.by_cell, near)
            self.looked[choice, part] = near @ job.cells.sizes / job.n
            self.cells[choice, part] = near.sum(axis=1)
            if found.ids is not None:
                inside = near[np.arange(len(rows))[:, None], job.cells.cell[found.ids]]
                self.hits[choice, part] = inside.mean(axis=1)
        if found.cosines is not None:
            self.cosines[part] = found.cosines

    def _fit(self, choice: int) -> Correction:
        """The correction of far sums, from the choosing samples."""
        part = self.choosing
        far = np.maximum(self.exact - self.near[choice], 0)
        return Correction.fit(self.features[choice][..., part], far[..., part], self.scale[..., part])

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

    def off(self, choice: int) -> np.ndarray:
        """(m, T, q) errors of the potentials at one of the thresholds."""
        return self.near[choice] + self.corrections[choice].far(self.features[choice]) - self.exact

    def worst_rms(self, choice: int) -> np.ndarray:
        """(m,) largest root-mean-square relative error over bandwidths, as it may well be.

        A few samples make up most of it, so that others would say another one: it is the upper limit of a
        one-sided 95 % interval.
        """
        squares = np.square((self.off(choice) / self.scale)[..., self.choosing])
        error = squares.std(axis=2) / math.sqrt(squares.shape[2])
        return np.sqrt(squares.mean(axis=2) + 1.645 * error).max(axis=1)

    def choose(self) -> int:
        """The smallest share of the pairs within the tolerance with which enough neighbours are found.

        Where none is, all of them. For the sake of weights no more than `FOR_WEIGHTS` are looked at. Where
        that is dearer than the exact pass, it is said.
        """
        how, last = self.job.how, len(self.thresholds) - 1
        shares = how.shares(self.job.n)
        natural = np.array([moments is self.job.natural for moments in self.job.weighted])

        def good(choice: int) -> bool:
            recall = self.hits[choice, self.choosing].mean() if how.k else 1.0
            settled = (shares[choice] >= FOR_WEIGHTS) & ~natural
            return recall >= how.recall and bool((settled | (self.worst_rms(choice) <= how.tolerance)).all())

        choice = next((choice for choice in range(last) if good(choice)), last)
        share = shares[choice]
        if how.share is None and share >= _NO_GAIN and self.job.n > how.queries:
            say(
                f"errors of {how.tolerance:.1%} and {how.recall:.0%} of the neighbours need {share:.0%} of "
                "the pairs, one by one; --search exact takes less time"
            )
        return choice

    def energies(
        self, choice: int, sums: np.ndarray, errors: np.ndarray, p: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(m, T) unbiased sums over i != j of p_i p_j K_ij and their standard errors.

        The estimated sums (m, T, n), less what they are off by on the judging samples, which are a simple
        random sample: a difference estimator. Where these happen to be easier than all are, by the
        samples' own errors (m, T, n), the standard error is larger by that ratio.
        """
        rows, n = self.rows[self.judging], len(p[0])
        count = len(rows)
        off = self.off(choice)[..., self.judging] * p[:, None, rows] * n
        here = np.square(errors[:, :, rows] * p[:, None, rows]).mean(axis=2)
        all_over = np.einsum("mtn,mtn,mn,mn->mt", errors, errors, p, p) / n
        harder = np.sqrt(np.maximum(all_over / np.maximum(here, np.finfo(float).tiny), 1.0))
        spread = off.std(axis=2, ddof=count > 1) * math.sqrt(max(0.0, 1 - count / n) / count)
        return np.einsum("mn,mtn->mt", p, sums) - off.mean(axis=2), spread * np.where(here > 0, harder, 1.0)

    def verdict(self, choice: int, found: AllPairs) -> tuple[np.ndarray, dict[str, object]]:
        """(m, T) factors from standard errors to half-widths, and how good the results are."""
        off, potentials, scale, errors = (
            values[..., self.judging]
            for values in (self.off(choice), self.potentials, self.scale, self.errors[choice])
        )
        relative = off / scale
        # An error below rounding is no yardstick: ratios to it would widen everything that is measured by it.
        least = rounding(self.job.kernels.bandwidths) * scale
        ratios = np.sort(np.abs(off) / np.maximum(errors, least), axis=2)
        count = ratios.shape[2]
        rank = min(math.ceil((count + 1) * COVERAGE), count) - 1
        quality: dict[str, object] = {
            "cells": self.job.cells.count,
            "probes": round(self.cells[choice].mean()),
            "queries": len(self.rows),
            "coverage": COVERAGE,
            "rms_relative_error": np.sqrt((relative**2).mean(axis=2)).tolist(),
            "largest_relative_error": np.abs(relative).max(axis=2).tolist(),
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


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of (q,) numbers; where that is not defined, 1 if both are constant and 0 if one is."""
    found = rank_correlation(a, b)
    return float(np.ptp(a) == np.ptp(b) == 0) if found is None else found


def rounding(bandwidths: Sequence[float]) -> np.ndarray:
    """(T, 1) relative error of a potential that float32 products leave: 2t times that of a cosine."""
    return 2e-6 + 1e-6 * np.asarray(bandwidths, dtype=np.float64)[:, None]
