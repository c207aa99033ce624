"""From inverse density to nearly the least energy in some ten products: where a search for the best begins.

Conjugate gradients on p'Kp in the metric sum d_i^2 / p_i, in which a step moves each mass by a share of
itself (the natural gradient of Amari 1998; its plain step of length 1 is the iteration p <- p / Kp): crowds,
whose curvature is largest, do not set the pace. Masses stay positive, so that the last samples to be left out
are slow to go; `descent` does that, and gives the certificate.
"""

from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Point, wanted_gap

_MOST = 30  # steps
_LOST = 0.8  # of a mass in a step, before its length is known
_SHORT = 0.95  # of the way to where a mass would vanish


@threadpool_limits.wrap(limits=1, user_api="blas")  # as in `descent.descend`
def levelled(
    kernel: TiledKernel,
    natural: np.ndarray,
    tolerance: float,
    progress: Callable[[int, float, float], None],
) -> np.ndarray:
    """Masses near those of least energy, from inverse density.

    Args:
        kernel: over n samples.
        natural: (n,) masses of natural sampling.
        tolerance: ends at a gap of that share of the gain over natural sampling, or after 30 steps.
        progress: called with (step, energy, gap), as of `Effort`.

    Returns:
        (n,) float64 positive masses, sum 1.
    """
    start_energy, loose = float(natural @ kernel.apply(natural)), FeasibleSet.of(kernel.n)
    p = 1 / kernel.row_sums
    p /= p.sum()
    field, along, length = kernel.apply(p), np.zeros(kernel.n), 1.0
    before, last = np.inf, np.zeros(kernel.n)
    progress(0, start_energy, start_energy)
    for step in range(_MOST):
        point = Point.at(p, field, loose, kernel.largest)
        progress(step, point.energy, point.gap)
        if point.gap <= wanted_gap(tolerance, start_energy, point.energy):
            break
        lack = 1 - field / point.energy
        size = float(p @ lack**2)
        along = p * lack + max(size - float(p @ (lack * last)), 0.0) / before * along
        if along @ field >= 0:  # uphill
            along = p * lack
        move = np.maximum(length * along, -_LOST * p)
        move -= p * move.sum()
        bent = kernel.product(move[:, None])[:, 0]
        bend = float(move @ bent)
        if bend <= 0:  # nothing but rounding is left
            break
        room = 1 / float((-move / p).max())
        share = min(-float(move @ field) / bend, _SHORT * room)
        p, field, along, before, last = p + share * move, field + share * bent, move / length, size, lack
        length *= min(max(share, 0.5), 2.0)
    return p
