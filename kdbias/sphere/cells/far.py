"""Kernel sums over far samples from their first two moments, corrected by landmarks, with an error.

The far part of a potential is a sum of exp(-2t (1 - s)) over cosines s whose weighted mass, mean and mean
square are known exactly: those of all samples come from sum p x and sum p x x', those of the near samples are
taken off. The rest is a regression estimator (Cochran, Sampling Techniques, ch. 7): on a random sample of
landmarks the kernel is fitted by a quadratic in s, the quadratic is summed exactly through the moments, and
the residuals correct the sum and give its standard error.
"""

import threading
from dataclasses import dataclass

import numpy as np

from kdbias.sphere.kernels import Kernels
from kdbias.sphere.vectors import second_moment
from kdbias.sphere.workers import Workspace, over_rows

_TINY = 1e-12


@dataclass(frozen=True)
class Moments:
    """Moments of m weightings of unit vectors; those of shards add up to those of the whole.

    Attributes:
        mass: (m,) sum of the weights.
        first: (m, d) sum of p x.
        second: (m, d, d) sum of p x x'.
    """

    mass: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, weights: np.ndarray, threads: int | None = None) -> "Moments":
        """From (n, d) rows and (m, n) weights, in one pass over the rows."""
        m, d = len(weights), x.shape[1]
        total = cls(weights.sum(axis=1), np.zeros((m, d)), np.zeros((m, d, d)))
        lock = threading.Lock()

        def block(rows: slice, workspace: Workspace) -> None:
            some = x[rows]
            first = weights[:, rows] @ some.astype(np.float64)
            with lock:
                np.add(total.first, first, out=total.first)
            for weight, second in zip(weights, total.second, strict=True):
                product = second_moment(some, weight[rows])
                with lock:
                    second += product

        over_rows(len(x), block, threads)  # float32 products as long as a block, float64 sums of them
        return total

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.mass + other.mass, self.first + other.first, self.second + other.second)

    def along(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m, r) sums of p s and of p s^2 over all samples, s being cosines with the rows x (r, d)."""
        wide = x.astype(np.float64)
        squares = [np.einsum("rd,rd->r", wide @ second, wide) for second in self.second]
        return self.first @ wide.T, np.stack(squares)


@dataclass(frozen=True)
class Landmarks:
    """A simple random sample of the data, without replacement.

    Attributes:
        positions: (L,) samples.
        vectors: (L, d) their rows.
        weights: (m, L) float32, p n of each: an unbiased estimate of sum p f is the mean of weights * f.
        cell: (L,) their cells.
        population: n.
    """

    positions: np.ndarray
    vectors: np.ndarray
    weights: np.ndarray
    cell: np.ndarray
    population: int

    @property
    def count(self) -> int:
        """Landmarks, L."""
        return len(self.positions)

    @property
    def is_everyone(self) -> bool:
        """Whether all samples are landmarks, so that nothing is left to estimate."""
        return self.count == self.population

    def error(self, squares: np.ndarray) -> np.ndarray:
        """Standard error of a mean over landmarks, from the sum of squares of its L terms."""
        return (
            np.zeros_like(squares)
            if self.is_everyone
            else np.sqrt(squares / self.count / max(self.count - 3, 1))
        )


@dataclass(frozen=True)
class Far:
    """The far part of r rows: sums of p K over far samples.

    Attributes:
        models: (2, m, T, r) two estimates of small error: ``FIT``, the sum of each row's quadratic fit, and
            ``GAUSS``, P exp(2t (mean - 1) + 2 t^2 variance), exact where far cosines are Gaussian. The first
            holds for any t; the second does without landmarks and is better where 2t x deviation is small.
        errors: (m, T, r) standard errors of an unbiased estimate, a measure of how hard a row is.
        energy: (m, T) unbiased estimate of the sum over the rows of p_i times their far sum.
        by_landmark: (m, T, L) what each landmark adds to it; its spread gives the standard error of an
            energy, whose rows share their landmarks.
    """

    models: np.ndarray
    errors: np.ndarray
    energy: np.ndarray
    by_landmark: np.ndarray


FIT, GAUSS = 0, 1


def far_sums(
    cosines: np.ndarray,
    is_far: np.ndarray,
    mass: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    row_weights: np.ndarray,
    landmarks: Landmarks,
    kernels: Kernels,
    workspace: Workspace,
) -> Far:
    """Estimate the sums over far samples for a block of rows.

    Args:
        cosines: (r, L) float32 with the landmarks.
        is_far: (r, L) bool, which landmarks are far from which row.
        mass, first, second: (m, r) float64: sum of p, p s and p s^2 over the far samples of each row.
        row_weights: (m, r) probabilities of the rows themselves.
    """
    m, (r, count), bandwidths = len(mass), cosines.shape, len(kernels.bandwidths)
    models, errors = np.zeros((2, m, bandwidths, r)), np.zeros((m, bandwidths, r))
    energy, by_landmark = np.zeros((m, bandwidths)), np.zeros((m, bandwidths, count))
    far = is_far.astype(np.float32)
    fits = [
        _Fit(cosines, far, mass[i], first[i], second[i], landmarks.weights[i], workspace, str(i))
        for i in range(m)
    ]
    for index, kernel in kernels.each(cosines, workspace):
        kernel *= far
        # Largest entry 1: its square is needed, and must stay inside float32's range.
        scale = float(kernel.max(initial=0.0))
        if scale == 0:
            continue
        values = workspace.array("values", kernel.shape)
        np.multiply(kernel, 1 / scale, out=values, casting="same_kind")
        factor = kernels.factors[index] * scale
        for i, fit in enumerate(fits):
            together, unbiased, residual = fit.regress(values, workspace)
            # A sum of kernels cannot be negative; a fit to vanishing ones can.
            models[FIT, i, index] = factor * np.maximum(together, 0.0)
            models[GAUSS, i, index] = fit.gauss(kernels.bandwidths[index])
            if landmarks.is_everyone:
                unbiased = together
            errors[i, index] = factor * landmarks.error(np.einsum("rl,rl->r", residual, residual))
            energy[i, index] = factor * (row_weights[i] @ unbiased)
            by_landmark[i, index] = factor * (row_weights[i].astype(np.float32) @ residual)
    return Far(models, errors, energy, by_landmark)


class _Fit:
    """Weighted least squares of values on 1, z, z^2 - 1 over each row's far landmarks.

    z is the cosine, centred and scaled by the row's exact far mean and variance, so that z and z^2 - 1 sum to
    zero over the far samples and the sum of the fit over them is the intercept times their mass. Each half of
    the landmarks is judged by the fit to the other half: residuals of a fit to the same points would be too
    small, and the estimate biased.
    """

    def __init__(
        self,
        cosines: np.ndarray,
        far: np.ndarray,
        mass: np.ndarray,
        first: np.ndarray,
        second: np.ndarray,
        weights: np.ndarray,
        workspace: Workspace,
        name: str,
    ) -> None:
        self.mass = np.where(mass > _TINY, mass, 0.0)
        safe = np.where(mass > _TINY, mass, 1.0)
        self.mean = mean = np.clip(first / safe, -1, 1)
        self.variance = np.maximum(second / safe - mean**2, _TINY)
        spread = np.sqrt(self.variance)
        shape = cosines.shape
        self.far = far
        self.z = workspace.array(f"z{name}", shape)
        np.subtract(cosines, mean[:, None].astype(np.float32), out=self.z)
        self.z *= (1 / spread)[:, None].astype(np.float32)
        self.bend = workspace.array(f"bend{name}", shape)
        np.multiply(self.z, self.z, out=self.bend)
        self.bend -= 1
        self.weighted = workspace.array(f"weighted{name}", shape)
        np.multiply(far, weights, out=self.weighted)
        self.halves = (slice(0, shape[1] // 2), slice(shape[1] // 2, shape[1]))
        self.weighted_basis = [
            self.weighted,
            np.multiply(self.weighted, self.z, out=workspace.array(f"slope{name}", shape)),
            np.multiply(self.weighted, self.bend, out=workspace.array(f"curve{name}", shape)),
        ]
        grams = [self._normal_equations(half) for half in self.halves]
        self.inverses = [_inverse(gram) for gram in grams]
        self.inverse_together = _inverse(grams[0] + grams[1])

    def _normal_equations(self, half: slice) -> np.ndarray:
        """(r, 3, 3) on one half of the landmarks."""
        gram = np.empty((len(self.mass), 3, 3))
        for a, left in enumerate(self.weighted_basis):
            for b, right in enumerate((self.far, self.z, self.bend)):
                gram[:, a, b] = np.einsum("rl,rl->r", left[:, half], right[:, half])
        return gram

    def gauss(self, t: float) -> np.ndarray:
        """(r,) the sums if far cosines were Gaussian; no more than if all were 1."""
        exponent = 2 * t * (self.mean - 1) + 2 * t * t * self.variance
        return self.mass * np.exp(np.minimum(exponent, 0.0))

    def regress(self, values: np.ndarray, workspace: Workspace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sums of p values over far samples.

        Returns:
            (r,) by one fit to all landmarks, (r,) unbiased, and the (r, L) residuals of the latter.

        Args:
            values: (r, L) float32, zero where the landmark is not far.
        """
        residual = workspace.array("residual", values.shape)
        other = workspace.array("other", values.shape)
        total = np.zeros(len(values))
        halves = [
            np.stack([np.einsum("rl,rl->r", b[:, h], values[:, h]) for b in self.weighted_basis], axis=1)
            for h in self.halves
        ]
        for sums, judged, inverse in zip(halves, self.halves[::-1], self.inverses, strict=True):
            fit = np.einsum("rab,rb->ra", inverse, sums)
            share = (judged.stop - judged.start) / values.shape[1]
            total += share * self.mass * fit[:, 0]
            a, b, c = (fit[:, i, None].astype(np.float32) for i in range(3))
            np.multiply(self.bend[:, judged], c, out=residual[:, judged])
            np.multiply(self.z[:, judged], b, out=other[:, judged])
            residual[:, judged] += other[:, judged]
            residual[:, judged] += a
        residual *= self.far
        np.subtract(values, residual, out=residual)
        residual *= self.weighted
        together = self.mass * np.einsum("rb,rb->r", self.inverse_together[:, 0], halves[0] + halves[1])
        return together, total + residual.mean(axis=1, dtype=np.float64), residual


def _inverse(gram: np.ndarray) -> np.ndarray:
    """Inverses of the normal equations (r, 3, 3), float64."""
    # Ridge: a row with fewer than three far landmarks has a singular system. Any fit is as unbiased.
    ridge = 1e-5 * gram[:, 0, 0] + _TINY
    return np.linalg.inv(gram + ridge[:, None, None] * np.eye(3))
