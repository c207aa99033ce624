"""The equilibrium where products with the exact kernel are dear: a few of them instead of some fifty.

Each round takes the exact field g = K p, solves the problem whose kernel is a cheap stand-in S but whose
field at p is g, and searches the line to its solution with the exact kernel (a quadratic, known from two
fields). This is Newton's method with an approximate Hessian: where S is off by a percent, a round leaves
about a percent of the error. The gap is taken from exact fields alone, so the certificate is as good as with
all of K in memory. Where S is too crude (few dimensions, a wide kernel), rounds stall; `equilibrium.solve`
then goes on by itself from the point that was reached.
"""

from functools import partial

import numpy as np

from kdbias import progress
from kdbias.sphere.equilibrium.descent import descend
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching, TiledKernel, offset_of
from kdbias.sphere.equilibrium.near_kernel import NearKernel
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, GapShare, Groups, Point, wanted_gap
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
    tiled = kernel.inner if isinstance(kernel, Matching) else kernel
    assert isinstance(tiled, TiledKernel)
    in_time, offset, natural = effort.spent is None, offset_of(kernel), groups.natural
    n, stand_in = kernel.n, _stand_in(tiled)

    def field_of(p: np.ndarray) -> np.ndarray:
        effort.products += bool(np.ptp(p) > 0)  # that of uniform masses is known from the first pass
        return kernel.apply(p, exact=True)

    largest = None if tiled is not kernel else tiled.largest
    start_energy, even = float(natural @ field_of(natural)), np.full(n, 1 / n)
    even_field = field_of(even)
    if stop is not None:
        stop.begins(float(even @ even_field))
    begin = even if start is None else feasible.project(start)
    point = Point.at(begin, field_of(begin), feasible, largest)
    damping, reason, gaps = 0.0, "met the tolerance", [point.gap]
    for rounds in range(_MOST_ROUNDS + 1):
        effort.report(point)
        good = point.gap <= wanted_gap(effort.tolerance, start_energy, point.energy, offset)
        moved = None if stop is None else stop.moved(point, feasible, good)
        if moved is not None:
            feasible, point = moved, point.within(moved, even_field)
            gaps = [point.gap]
        elif good and (stop is None or stop.settled(point, feasible)):
            break
        left = effort.seconds_left
        # The first round is made, though it begins or ends late: without it there is nothing to show.
        late = rounds > 0 and left is not None and left < tiled.seconds
        over = effort.spent if rounds or not in_time else None
        if rounds == _MOST_ROUNDS or over or late:
            spent = effort.spent or f"stopped after {counted(effort.iterations, 'iteration')}"
            if late and not effort.spent:
                spent = f"stopped with {left:,.0f} s left, too few for another exact product"
            reason = f"{spent} and {counted(effort.products, 'exact product')}"
            break
        tolerance = _STEP_TOLERANCE * effort.tolerance
        with progress.bar(100, "%", f"round {rounds + 1} with a stand-in") as bar:
            inner = Effort(
                tolerance,
                effort.max_iterations - effort.iterations,
                None if left is None else max(left - tiled.seconds, tiled.seconds / 4),
                GapShare(bar, tolerance),
            )
            search = partial(
                _step, _Anchored(stand_in, point.p, point.field, damping), feasible, inner, point
            )
            step = tiled.remember(f"step-{rounds + 1}", search)
        effort.iterations += int(step["iterations"])
        move, bend = step["p"] - point.p, field_of(step["p"]) - point.field
        share = _best_share(float(move @ point.field), float(move @ bend))
        point = Point.at(point.p + share * move, point.field + share * bend, feasible, largest)
        # How far the exact kernel lets the stand-in's step go says how far to trust the next one.
        if share < _SHORT:
            damping = max(4 * damping, _FIRST_DAMPING)
        elif share > _LONG:
            damping /= 4
        gaps.append(point.gap)
        if len(gaps) > _PATIENCE and point.gap > gaps[-1 - _PATIENCE] / 2:
            reason = STALLED
            break
    return Equilibrium.at(
        point,
        feasible,
        groups,
        effort,
        start_energy=start_energy,
        proven=True,
        reason=reason,
        offset=offset,
    )


def _step(kernel: KernelMatrix, feasible: FeasibleSet, effort: Effort, start: Point) -> dict[str, np.ndarray]:
    """``p`` (n,) of least energy in a stand-in problem, and the ``iterations`` it took."""
    found = descend(kernel, feasible, Groups.of(None, kernel.n), effort, start=start.p)
    return {"p": found.p, "iterations": np.array(found.iterations)}


def _best_share(slope: float, curvature: float) -> float:
    """The share s of a step that minimises 2 s slope + s^2 curvature, from 0 to 1.

    A stand-in may lead uphill; only what lies between two feasible points is sure to be feasible.
    """
    if curvature > 0:
        return min(max(-slope / curvature, 0.0), 1.0)
    return 1.0 if 2 * slope + curvature < 0 else 0.0
