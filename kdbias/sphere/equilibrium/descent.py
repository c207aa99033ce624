"""Accelerated projected gradient descent on p'Kp over a feasible set, and the gap of its best point.

Acceleration by Beck & Teboulle (2009), adaptive restart by O'Donoghue & Candes (2015), a backtracked step;
each iteration costs one product K p.
"""

from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, TiledKernel, offset_of
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import NOISE, Effort, Equilibrium, Groups, Point, wanted_gap
from kdbias.sphere.equilibrium.stop import Stop

_CHECK_EVERY = 5
# Checks of the gap without progress before products take float64; three times that before the end.
_PATIENCE = 20


def descend(
    kernel: KernelMatrix,
    feasible: FeasibleSet,
    groups: Groups,
    effort: Effort,
    start: np.ndarray | None = None,
    stop: Stop | None = None,
) -> Equilibrium:
    """Minimise p'Kp over ``feasible``, from ``start`` (m,) masses of groups or else the better of natural and
    uniform ones; ``effort`` says how far, and counts. With a ``stop`` the floor of ``feasible`` moves to it.
    """
    # Products have threads of their own; between them BLAS threads would only wait, at full load.
    with threadpool_limits(limits=1, user_api="blas"):
        search = _Search(kernel, feasible, groups, effort, stop)
        return search.result(search.run(start))


class _Search:
    """Accelerated projected gradient on f(p) = p'Kp / 2, whose gradient is Kp."""

    def __init__(
        self,
        kernel: KernelMatrix,
        feasible: FeasibleSet,
        groups: Groups,
        effort: Effort,
        stop: Stop | None = None,
    ) -> None:
        self.kernel, self.feasible, self.groups, self.effort = kernel, feasible, groups, effort
        self.stop = stop
        self.offset = offset_of(kernel)
        self.largest = kernel.largest if isinstance(kernel, TiledKernel) else None
        self.exact = False  # float32 products until they no longer resolve the gap
        uniform = np.full(kernel.n, 1 / kernel.n)
        natural = groups.natural
        fields = self._apply(np.stack([uniform, natural], axis=1))
        self.even = fields[:, 0]
        self.start_energy = float(natural @ fields[:, 1])
        self.best = self._point(uniform, self.even)
        if stop is not None:
            stop.begins(self.best.energy)
        if feasible.contains(natural) and self.start_energy < self.best.energy:
            self.best = self._point(natural, fields[:, 1])
        self.highest = self.best.energy  # no point above what the search began with is an answer

    def run(self, start: np.ndarray | None) -> str:
        """Iterate to the tolerance; returns how it ended."""
        p, field, effort = self.best.p, self.best.field, self.effort
        effort.report(self.best)
        if start is not None:
            p = self.feasible.project(start)
            field = self._apply(p)
            begin = self._point(p, field)
            if begin.energy <= self.highest:
                self.best, self.highest = begin, begin.energy
        done = self._met()
        previous, previous_field, momentum = p, field, 1.0
        curvature, stale = 1.0, 0
        while not done:
            if effort.spent:
                return effort.spent
            effort.iterations += 1
            following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            push = (momentum - 1) / following
            y = p + push * (p - previous)
            y_field = field + push * (field - previous_field)
            p_next, field_next, curvature = self._step(y, y_field, curvature)
            # Restart where the last move points uphill; momentum would only carry the overshoot on.
            momentum = 1.0 if (y - p_next) @ (p_next - p) > 0 else following
            previous, previous_field, p, field = p, field, p_next, field_next
            curvature *= 0.98
            if effort.iterations % _CHECK_EVERY and effort.iterations < effort.max_iterations:
                continue
            before = self.best.gap
            done = self._check(p, field)
            effort.report(self.best)
            stale = 0 if self.best.gap < before else stale + 1
            if stale >= _PATIENCE * (3 if self.exact else 1):
                if self.exact:
                    return "no further progress within rounding"
                self._be_exact()
                p, field = self.best.p, self.best.field
                previous, previous_field, momentum, stale = p, field, 1.0, 0
        return "met the tolerance"

    def result(self, reason: str) -> Equilibrium:
        """The best point, judged in float64."""
        if not self.exact:
            self._be_exact()
        return Equilibrium.at(
            self.best,
            self.feasible,
            self.groups,
            self.effort,
            start_energy=self.start_energy,
            proven=self.kernel.definite,
            reason=reason,
            offset=self.offset,
        )

    def _apply(self, p: np.ndarray) -> np.ndarray:
        self.effort.products += 1
        return self.kernel.apply(p, self.exact)

    def _point(self, p: np.ndarray, field: np.ndarray) -> Point:
        return Point.at(p, field, self.feasible, self.largest)

    def _be_exact(self) -> None:
        """Take products in float64 from here on and judge the best point anew."""
        self.exact = True
        self.best = self._point(self.best.p, self._apply(self.best.p))

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

    def _check(self, p: np.ndarray, field: np.ndarray) -> bool:
        """Keep p if it is the best point so far; whether that meets the tolerance."""
        point = self._point(p, field)
        if self.exact:
            # Without float32's noise the best bound of any iterate holds for the point of least energy.
            bound = max(self.best.energy - self.best.gap, point.energy - point.gap)
            lowest = min(self.best, point, key=lambda known: known.energy)
            self.best = replace(lowest, gap=max(lowest.energy - bound, 0.0))
        elif self.stop is not None or self._is_better(point):
            self.best = point
        if self.stop is not None:
            moved = self.stop.moved(self.best, self.feasible, self._is_good())
            if moved is not None:
                self.feasible, self.best = moved, self.best.within(moved, self.even)
                return False
        return self._met()

    def _is_better(self, point: Point) -> bool:
        """By its gap, within float32's noise."""
        highest = self.highest + NOISE * (self.highest + self.offset)
        return point.gap < self.best.gap and point.energy <= highest

    def _met(self) -> bool:
        """Whether the best point meets the tolerance, proven in float64."""
        if not self.exact and self._is_answer():
            self._be_exact()
        return self._is_answer()

    def _is_answer(self) -> bool:
        return self._is_good() and (self.stop is None or self.stop.settled(self.best, self.feasible))

    def _is_good(self) -> bool:
        best = self.best
        return best.gap <= wanted_gap(self.effort.tolerance, self.start_energy, best.energy, self.offset)
