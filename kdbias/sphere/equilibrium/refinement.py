"""The equilibrium where products with the exact kernel are dear: a few of them instead of some fifty.

Each round takes the exact field g = K p, solves the problem whose kernel is a cheap stand-in S but whose
field at p is g, and searches the line to its solution with the exact kernel (a quadratic, known from two
fields). This is Newton's method with an approximate Hessian: where S is off by a percent, a round leaves
about a percent of the error. Exact sums at a few rows (`soundings`) tell most of what S is off by, and the
stand-in's problem is solved once more with that. The gap is taken from exact fields alone, so the certificate
is as good as with all of K in memory. Where S is too crude (few dimensions, a wide kernel), rounds stall;
`equilibrium.solve` then goes on by itself from the point that was reached.
"""

from itertools import count

import numpy as np

from kdbias import progress
from kdbias.sphere.equilibrium.descent import descend
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching, TiledKernel, offset_of
from kdbias.sphere.equilibrium.near_kernel import NearKernel
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, GapShare, Groups, Point, wanted_gap
from kdbias.sphere.equilibrium.soundings import Soundings
from kdbias.sphere.equilibrium.stop import Stop
from kdbias.wording import counted

_MOST_ROUNDS = 25
_STEP_TOLERANCE = 0.2  # of the wanted gap: how well a round solves its stand-in problem
_FIRST_DAMPING = 0.1
_SHORT, _LONG = 0.5, 0.9  # shares of a step
_PATIENCE = 3  # rounds in which the gap must halve
STALLED = "the stand-in kernel leads no further"


class _Anchored:
    """The stand-in S with its field moved to the exact one at an anchor, and damping towards that anchor.

    On distributions (sum p = 1) its energy is p'Sp + 2 c'p + damping |p - anchor|^2 up to a constant.
    """

    definite = False
    description = "stand-in kernel"

    def __init__(self, inner: KernelMatrix, anchor: np.ndarray, field: np.ndarray, damping: float) -> None:
        self.n, self._inner, self._damping = inner.n, inner, damping
        self._offset = field - inner.apply(anchor) - damping * anchor

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `KernelMatrix.apply`; the same whether ``exact`` or not."""
        offset = self._offset if p.ndim == 1 else self._offset[:, None]
        return self._inner.apply(p) + self._damping * p + offset * p.sum(axis=0) + self._offset @ p


def _stand_in(kernel: TiledKernel) -> KernelMatrix:
    """The kernel's stand-in, made at the first call and kept with it.

    It serves a `Matching` as well: what that adds to the energy is linear, and the anchor carries it.
    """
    if kernel.stand_in is None:
        kernel.stand_in = NearKernel(kernel, kernel.memory)
    return kernel.stand_in


def refine(
    kernel: TiledKernel | Matching,
    feasible: FeasibleSet,
    groups: Groups,
    effort: Effort,
    start: np.ndarray | None = None,
    stop: Stop | None = None,
) -> Equilibrium:
    """What `descent.descend` gives, with few exact products; arguments as there."""
    rounds = _Rounds(kernel, feasible, groups, effort, stop)
    return rounds.result(rounds.run(start))


class _Rounds:
    """Points whose fields are exact, each found from the one before by a step with the stand-in.

    Attributes:
        point: the one at hand, in ``feasible``, whose floor a `Stop` moves.
        damping: towards it in the next step: how little the stand-in is trusted.
    """

    point: Point

    def __init__(
        self,
        kernel: TiledKernel | Matching,
        feasible: FeasibleSet,
        groups: Groups,
        effort: Effort,
        stop: Stop | None = None,
    ) -> None:
        tiled = kernel.inner if isinstance(kernel, Matching) else kernel
        assert isinstance(tiled, TiledKernel)
        self._in_time = effort.spent is None
        self.kernel, self.tiled, self.feasible, self.groups = kernel, tiled, feasible, groups
        self.effort, self.stop, self.offset = effort, stop, offset_of(kernel)
        self._stand_in, self.damping = _stand_in(tiled), 0.0
        self._soundings = Soundings(tiled, self._stand_in, tiled.row_sums)
        self._largest = tiled.largest if tiled is kernel else None
        self.start_energy = float(groups.natural @ self._field(groups.natural))
        self._uniform = np.full(kernel.n, 1 / kernel.n)
        self._uniform_field = self._field(self._uniform)
        self._gaps: list[float] = []
        if stop is not None:
            stop.begins(float(self._uniform @ self._uniform_field))

    def run(self, start: np.ndarray | None) -> str:
        """Do rounds from ``start`` (m,) or uniform masses; returns how they ended."""
        begin = self._uniform if start is None else self.feasible.project(start)
        self._be_at(begin, self._field(begin))
        for done in count():
            self.effort.report(self.point)
            if self._settled():
                return "met the tolerance"
            over = self._over(done)
            if over is not None:
                return over
            self._go_towards(self._step(done + 1))
            if len(self._gaps) > _PATIENCE and self._gaps[-1] > self._gaps[-1 - _PATIENCE] / 2:
                break
        return STALLED

    def result(self, reason: str) -> Equilibrium:
        """The point at hand as the answer."""
        return Equilibrium.at(
            self.point,
            self.feasible,
            self.groups,
            self.effort,
            start_energy=self.start_energy,
            proven=True,
            reason=reason,
            offset=self.offset,
        )

    def _field(self, p: np.ndarray) -> np.ndarray:
        self.effort.products += bool(np.ptp(p) > 0)  # that of uniform masses is known from the first pass
        return self.kernel.apply(p, exact=True)

    def _be_at(self, p: np.ndarray, field: np.ndarray) -> None:
        self.point = Point.at(p, field, self.feasible, self._largest)
        self._gaps.append(self.point.gap)

    def _settled(self) -> bool:
        """Whether the point is the answer; where its floor is sought, that may move instead."""
        wanted = wanted_gap(self.effort.tolerance, self.start_energy, self.point.energy, self.offset)
        good = self.point.gap <= wanted
        if self.stop is None:
            return good
        moved = self.stop.moved(self.point, self.feasible, good)
        if moved is None:
            return good and self.stop.settled(self.point, self.feasible)
        self.feasible, self.point = moved, self.point.within(moved, self._uniform_field)
        self._gaps = [self.point.gap]
        return False

    def _over(self, done: int) -> str | None:
        """Why no round follows on so many; None: one does."""
        if done == 0 and self._in_time:  # though it begins or ends late: without it there is nothing to show
            return None
        ended, left = self.effort.spent, self.effort.seconds_left
        if ended is None and left is not None and left < self.tiled.seconds:
            ended = f"stopped with {left:,.0f} s left, too few for another exact product"
        if ended is None and done == _MOST_ROUNDS:
            ended = f"stopped after {counted(self.effort.iterations, 'iteration')}"
        return ended and f"{ended} and {counted(self.effort.products, 'exact product')}"

    def _step(self, number: int) -> np.ndarray:
        """(m,) the masses that solve the stand-in's problem at the point, as well as a round needs it."""
        left, effort = self.effort.seconds_left, self.effort
        inner = Effort(
            _STEP_TOLERANCE * effort.tolerance,
            effort.max_iterations - effort.iterations,
            None if left is None else max(left - self.tiled.seconds, self.tiled.seconds / 4),
        )

        # What a few rows tell is right for most samples; where others decide, a round without does better.
        helped = len(self._gaps) < 2 or self._gaps[-1] <= self._gaps[-2] / 2

        def find() -> dict[str, np.ndarray]:
            p = self._solved(self.point.p, self.point.field, inner, f"round {number} with a stand-in")
            change = self._soundings.field(p - self.point.p) if helped else None
            if change is not None:
                p = self._solved(p, self.point.field + change, inner, f"round {number}, corrected")
            return {"p": p, "iterations": np.array(inner.iterations)}

        step = self.tiled.remember(f"step-{number}", find)
        effort.iterations += int(step["iterations"])
        return step["p"]

    def _solved(self, p: np.ndarray, field: np.ndarray, effort: Effort, label: str) -> np.ndarray:
        """(m,) the masses of least energy where the stand-in has this field (m,) at p (m,)."""
        anchored = _Anchored(self._stand_in, p, field, self.damping)
        with progress.bar(100, "%", label) as bar:
            effort.progress = GapShare(bar, effort.tolerance)
            return descend(anchored, self.feasible, Groups.of(None, len(p)), effort, start=p).p

    def _go_towards(self, p: np.ndarray) -> None:
        """Go on to the point of least energy on the line to ``p`` (m,), for one exact product."""
        move, bend = p - self.point.p, self._field(p) - self.point.field
        self._soundings.learn(move, bend)
        share = _best_share(float(move @ self.point.field), float(move @ bend))
        self._be_at(self.point.p + share * move, self.point.field + share * bend)
        # How far the exact kernel lets the stand-in's step go says how far to trust the next one.
        if share < _SHORT:
            self.damping = max(4 * self.damping, _FIRST_DAMPING)
        elif share > _LONG:
            self.damping /= 4


def _best_share(slope: float, curvature: float) -> float:
    """The share s of a step that minimises 2 s slope + s^2 curvature, from 0 to 1.

    A stand-in may lead uphill; only what lies between two feasible points is sure to be feasible.
    """
    if curvature > 0:
        return min(max(-slope / curvature, 0.0), 1.0)
    return 1.0 if 2 * slope + curvature < 0 else 0.0
