"""Accelerated projected gradient descent on p'Kp over a feasible set, and the gap of its best point.

Acceleration by Beck & Teboulle (2009), adaptive restart by O'Donoghue & Candes (2015), a backtracked step;
each iteration costs one product K p.
"""

import time
from collections.abc import Callable

import numpy as np

from kdbias.sphere.kernel_matrix import KernelMatrix
from kdbias.sphere.simplex import FeasibleSet
from kdbias.sphere.solution import Equilibrium, Groups

NOISE = 1e-7
"""Share of the energy: what float32 products can still resolve."""
_CHECK_EVERY = 5
# Checks of the gap without progress before products take float64; three times that before the end.
_PATIENCE = 20


def descend(
    kernel: KernelMatrix,
    feasible: FeasibleSet,
    groups: Groups,
    *,
    tolerance: float,
    max_iterations: int,
    max_seconds: float | None,
    start: np.ndarray | None = None,
    began: float | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Equilibrium:
    """Minimise p'Kp over ``feasible``; arguments as of `equilibrium.solve`, ``start`` (m,) masses of groups.

    ``began`` is the `time.perf_counter` from which seconds count; default now.
    """
    began = time.perf_counter() if began is None else began
    search = _Search(kernel, feasible, groups, tolerance)
    reason = search.run(start, max_iterations, max_seconds, began, progress)
    return search.result(reason, time.perf_counter() - began)


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
        return max(self.tolerance * (self.start_energy - energy), NOISE * energy)

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
        better = gap < self.gap and energy <= self.worst_energy * (1 + NOISE)
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
