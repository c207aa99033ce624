"""The equilibrium: the sampling distribution of least energy p'Kp, with a certificate of how low it could be.

K is positive semi-definite, so the problem is convex and the Frank-Wolfe gap bounds the distance to the
optimum: E(p) - E(q) <= 2 (p'Kp - q'Kp) for every feasible q (Frank & Wolfe 1956; Jaggi 2013). The solver is
accelerated projected gradient descent (Beck & Teboulle 2009) with adaptive restart (O'Donoghue & Candes 2015)
and a backtracked step; each iteration costs one product K p.

A floor on the ESS is a ball, p'p <= 1 / (F n), and the method projects onto it. That is the minimiser of
p'(K + lambda I)p for the lambda that the floor needs: the search for lambda happens inside the projection,
where it costs O(n), instead of around the solver, where each trial would cost products.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.kernel_matrix import KernelMatrix, TiledKernel, kernel_matrix
from kdbias.sphere.simplex import FeasibleSet

_CHECK_EVERY = 5
_NOISE = 1e-7  # of the energy: what float32 products can still resolve
_PATIENCE = (
    20  # checks of the gap without progress before products take float64; three times that before the end
)


@dataclass(frozen=True)
class Equilibrium:
    """A sampling distribution of low energy and the proof of how low it could be.

    Attributes:
        p: (n,) float64 probabilities, sum 1; exact duplicates share the mass of their group.
        energy: p'Kp.
        start_energy: the same of natural sampling, p = 1/n.
        gap: energy - (best energy over the feasible set) is at most this.
        lam: multiplier of the ESS floor (0 where the floor does not bind): p minimises p'(K + lam I)p.
        ess: effective sample size as a share of the distinct samples, (1 / sum of squared masses) / distinct.
        distinct: samples after exact duplicates were collapsed.
        potentials: (n,) density K p that each sample sees under p.
        iterations, products: steps taken and products K p computed.
        certified: the gap is proven (exact kernel) and met the tolerance.
        proven: the gap is a proof at all; False where K is approximated and may not be definite.
        reason: how the run ended, for people.
    """

    p: np.ndarray
    energy: float
    start_energy: float
    gap: float
    lam: float
    ess: float
    distinct: int
    potentials: np.ndarray
    iterations: int
    products: int
    seconds: float
    certified: bool
    proven: bool
    reason: str

    @property
    def relative_gap(self) -> float | None:
        """gap / (start_energy - energy): how much of the gain is unproven; None where nothing was gained."""
        gain = self.start_energy - self.energy
        return self.gap / gain if gain > 0 else None


def solve(
    kernel: KernelMatrix | np.ndarray,
    t: float | None = None,
    *,
    min_ess: float | None = None,
    cap: float | None = None,
    duplicates: "np.ndarray | Groups | None" = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    max_seconds: float | None = None,
    start: np.ndarray | None = None,
    memory: str | int = "4GiB",
    threads: int | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Equilibrium:
    """Minimise p'Kp over distributions p with a floor on the ESS and a cap on each sample.

    Args:
        kernel: unit rows (n, d), or a kernel matrix over the distinct samples.
        t: bandwidth; needed with rows.
        min_ess: least ESS / distinct samples, from 0 to 1; None = no floor.
        cap: largest mass of a distinct sample as a multiple of 1 / distinct, above 1; None = no cap.
        duplicates: (n,) int, row of the first sample with the same vector (its own where it is the first), or
            groups; such samples count as one and share its mass. None = all rows are distinct.
        tolerance: stop once gap <= tolerance * (natural energy - energy).
        max_iterations, max_seconds: where a bad case ends, with the gap it reached.
        start: (n,) warm start, a distribution; default natural.
        memory: what the kernel may take when ``kernel`` is rows. Where half of K does not fit, products
            compute it anew, and few of them are made (see `refinement`).
        progress: called with (iteration, energy, gap) each time the gap is known.

    Returns:
        The best distribution met; never of higher energy than a feasible start.

    Raises:
        KdbiasError: a floor or cap outside its range, or no t with rows.
    """
    began = time.perf_counter()
    if not isinstance(duplicates, Groups):
        duplicates = Groups.of(duplicates, len(kernel) if isinstance(kernel, np.ndarray) else kernel.n)
    groups = duplicates
    if isinstance(kernel, np.ndarray):
        if t is None or not t > 0:
            raise KdbiasError(f"the equilibrium of embeddings needs a bandwidth t > 0, got {t}")
        kernel = kernel_matrix(kernel[groups.first], t, memory, threads)
    if kernel.n != groups.distinct:
        raise KdbiasError(f"the kernel has {kernel.n:,} rows, the data {groups.distinct:,} distinct samples")
    feasible = FeasibleSet.of(kernel.n, min_ess, cap)
    begin = None if start is None else groups.collapse(start)
    if isinstance(kernel, TiledKernel) and kernel.kept is None:
        from kdbias.sphere.refinement import STALLED, refine

        refined = refine(
            kernel,
            feasible,
            groups,
            min_ess=min_ess,
            cap=cap,
            tolerance=tolerance,
            noise=_NOISE,
            max_iterations=max_iterations,
            max_seconds=max_seconds,
            start=begin,
            progress=progress,
        )
        if refined.reason != STALLED:
            return refined
        begin = groups.collapse(refined.p)
    search = _Search(kernel, feasible, groups, tolerance)
    reason = search.run(begin, max_iterations, max_seconds, began, progress)
    return search.result(reason, time.perf_counter() - began)


@dataclass(frozen=True)
class Groups:
    """Samples that are one sample: exact duplicates, or near ones.

    Attributes:
        first: (m,) row of the first member of each group, ascending.
        group: (n,) group of each row.
        sizes: (m,) members.
    """

    first: np.ndarray
    group: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, duplicates: np.ndarray | None, n: int) -> "Groups":
        """From the row of the first equal sample of each row; None = n distinct samples."""
        if duplicates is None:
            return cls(np.arange(n), np.arange(n), np.ones(n, dtype=np.int64))
        first, group, sizes = np.unique(duplicates, return_inverse=True, return_counts=True)
        return cls(first, group, sizes)

    @property
    def distinct(self) -> int:
        return len(self.first)

    def collapse(self, p: np.ndarray) -> np.ndarray:
        """(n,) masses of rows -> (m,) masses of groups."""
        return np.bincount(self.group, weights=p, minlength=self.distinct)

    def spread(self, masses: np.ndarray) -> np.ndarray:
        """(m,) masses of groups -> (n,) equal shares of the members."""
        return (masses / self.sizes)[self.group]


class _Search:
    """Accelerated projected gradient on f(p) = p'Kp / 2, whose gradient is Kp."""

    def __init__(self, kernel: KernelMatrix, feasible: FeasibleSet, groups: Groups, tolerance: float) -> None:
        self.kernel, self.feasible, self.groups, self.tolerance = kernel, feasible, groups, tolerance
        self.products = self.iterations = 0
        self.exact = False  # float32 products until they no longer resolve the gap
        uniform = np.full(kernel.n, 1 / kernel.n)
        natural = groups.sizes / groups.sizes.sum()
        fields = self._apply(np.stack([uniform, natural], axis=1))
        self.start_energy = float(natural @ fields[:, 1])
        self.best, self.best_field = uniform, fields[:, 0]
        if feasible.contains(natural) and self.start_energy < uniform @ fields[:, 0]:
            self.best, self.best_field = natural, fields[:, 1]
        self.best_energy = self.worst_energy = float(self.best @ self.best_field)
        self.gap, self.lam = np.inf, 0.0  # of the best point

    def run(
        self,
        start: np.ndarray | None,
        max_iterations: int,
        max_seconds: float | None,
        began: float,
        progress: Callable[[int, float, float], None] | None,
    ) -> str:
        """Iterate to the tolerance; returns how it ended."""
        p, field = self.best, self.best_field
        if start is not None:
            p = self.feasible.project(start)
            field = self._apply(p)
        done = self._check(p, field)
        previous, previous_field, momentum = p, field, 1.0
        curvature, stale = 1.0, 0
        while not done:
            if self.iterations >= max_iterations:
                return f"stopped after {max_iterations:,} iterations"
            if max_seconds is not None and time.perf_counter() - began > max_seconds:
                return f"stopped after {max_seconds:g} s"
            self.iterations += 1
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            push = (momentum - 1) / following
            y = p + push * (p - previous)
            y_field = field + push * (field - previous_field)
            p_next, field_next, curvature = self._step(y, y_field, curvature)
            # Restart where the last move points uphill; momentum would only carry the overshoot on.
            momentum = 1.0 if (y - p_next) @ (p_next - p) > 0 else following
            previous, previous_field, p, field = p, field, p_next, field_next
            curvature *= 0.98
            if self.iterations % _CHECK_EVERY and self.iterations < max_iterations:
                continue
            before = self.gap
            done = self._check(p, field)
            if progress:
                progress(self.iterations, self.best_energy, self.gap)
            stale = 0 if self.gap < before else stale + 1
            if stale >= _PATIENCE * (3 if self.exact else 1):
                if self.exact:
                    return "no further progress within rounding"
                p, field = self._be_exact()
                previous, previous_field, momentum, stale = p, field, 1.0, 0
        return "met the tolerance"

    def result(self, reason: str, seconds: float) -> Equilibrium:
        p, energy = self.best, self.best_energy
        binding = self.feasible.bounded_ess and p @ p > self.feasible.square * (1 - 1e-6)
        if not self.exact:
            self._be_exact()
            energy = self.best_energy
        return Equilibrium(
            p=self.groups.spread(p),
            energy=energy,
            start_energy=self.start_energy,
            gap=self.gap,
            lam=self.lam if binding else 0.0,
            ess=float(1 / (p @ p) / len(p)),
            distinct=len(p),
            potentials=self.best_field[self.groups.group],
            iterations=self.iterations,
            products=self.products,
            seconds=seconds,
            certified=self.gap <= self._wanted(energy) and self.kernel.definite,
            proven=self.kernel.definite,
            reason=reason,
        )

    def _apply(self, p: np.ndarray) -> np.ndarray:
        self.products += 1
        return self.kernel.apply(p, self.exact)

    def _be_exact(self) -> tuple[np.ndarray, np.ndarray]:
        """Take products in float64 from here on and judge the best point anew; returns it and its field."""
        self.exact = True
        self.best_field = self._apply(self.best)
        self.best_energy, self.gap, self.lam = self._judge(self.best, self.best_field)
        return self.best, self.best_field

    def _wanted(self, energy: float) -> float:
        return max(self.tolerance * (self.start_energy - energy), _NOISE * energy)

    def _step(
        self, y: np.ndarray, y_field: np.ndarray, curvature: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """A projected gradient step from y whose length the curvature along it allows."""
        while True:
            p = self.feasible.project(y - y_field / curvature)
            field = self._apply(p)
            move = p - y
            length, bend = float(move @ move), float(move @ (field - y_field))
            if bend <= curvature * length * (1 + 1e-6) + 1e-18:
                return p, field, curvature
            curvature = max(1.5 * curvature, 1.1 * bend / length)

    def _judge(self, p: np.ndarray, field: np.ndarray) -> tuple[float, float, float]:
        """Energy, gap and multiplier at p."""
        energy = float(p @ field)
        lowest, multiplier = self.feasible.lowest(field)
        return energy, max(2 * (energy - lowest), 0.0), multiplier

    def _check(self, p: np.ndarray, field: np.ndarray) -> bool:
        """Keep p if its gap is the smallest so far; whether that meets the tolerance, proven in float64."""
        energy, gap, multiplier = self._judge(p, field)
        better = gap < self.gap and energy <= self.worst_energy * (1 + _NOISE)
        if self.exact:
            # Without float32's noise the best bound of any iterate holds for the point of least energy.
            bound = max(self.best_energy - self.gap, energy - gap)
            better = energy < self.best_energy
            gap = min(energy, self.best_energy) - bound
            self.gap = min(self.gap, gap)
        if better:
            self.best, self.best_field = p, field
            self.best_energy, self.gap, self.lam = energy, gap, multiplier
        if self.gap <= self._wanted(self.best_energy) and not self.exact:
            self._be_exact()
        return self.gap <= self._wanted(self.best_energy)
