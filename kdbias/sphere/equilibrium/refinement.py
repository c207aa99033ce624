"""The equilibrium where products with the exact kernel are dear: a few of them instead of some fifty.

Each round takes the exact field g = K p, solves the problem whose kernel is a cheap stand-in S but whose
field at p is g, and searches the line to its solution with the exact kernel (a quadratic, known from two
fields). This is Newton's method with an approximate Hessian: where S is off by a percent, a round leaves
about a percent of the error. The gap is taken from exact fields alone, so the certificate is as good as with
all of K in memory. Where S is too crude (few dimensions, a wide kernel), rounds stall; `equilibrium.solve`
then goes on by itself from the point that was reached.
"""

import numpy as np

from kdbias.sphere.equilibrium.descent import descend
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching, TiledKernel, offset_of
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, Groups, Point, wanted_gap
from kdbias.sphere.equilibrium.stand_in import NearKernel

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
) -> Equilibrium:
    """What `descent.descend` gives, with few exact products; arguments as there."""
    tiled = kernel.inner if isinstance(kernel, Matching) else kernel
    assert isinstance(tiled, TiledKernel)
    offset, natural = offset_of(kernel), groups.natural
    n, stand_in, distinct = kernel.n, _stand_in(tiled), Groups.of(None, kernel.n)

    def field_of(p: np.ndarray) -> np.ndarray:
        effort.products += bool(np.ptp(p) > 0)  # that of uniform masses is known from the first pass
        return kernel.apply(p, exact=True)

    start_energy = float(natural @ field_of(natural))
    begin = np.full(n, 1 / n) if start is None else feasible.project(start)
    point = Point.at(begin, field_of(begin), feasible)
    damping, reason, gaps = 0.0, "met the tolerance", [point.gap]
    for rounds in range(_MOST_ROUNDS + 1):
        effort.report(point)
        if point.gap <= wanted_gap(effort.tolerance, start_energy, point.energy, offset):
            break
        if rounds == _MOST_ROUNDS or effort.spent:
            spent = effort.spent or f"stopped after {effort.iterations:,} iterations"
            reason = f"{spent} and {effort.products:,} exact products"
            break
        inner = Effort(
            _STEP_TOLERANCE * effort.tolerance,
            effort.max_iterations - effort.iterations,
            effort.seconds_left,
        )
        step = descend(
            _Anchored(stand_in, point.p, point.field, damping),
            feasible,
            distinct,
            inner,
            start=point.p,
        )
        effort.iterations += step.iterations
        move, bend = step.p - point.p, field_of(step.p) - point.field
        share = _best_share(float(move @ point.field), float(move @ bend))
        point = Point.at(point.p + share * move, point.field + share * bend, feasible)
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


def _best_share(slope: float, curvature: float) -> float:
    """The share s of a step that minimises 2 s slope + s^2 curvature, from 0 to 1.

    A stand-in may lead uphill; only what lies between two feasible points is sure to be feasible.
    """
    if curvature > 0:
        return min(max(-slope / curvature, 0.0), 1.0)
    return 1.0 if 2 * slope + curvature < 0 else 0.0
