"""The equilibrium: the sampling distribution of least energy p'Kp, with a certificate of how low it could be.

K is positive semi-definite, so the problem is convex and the Frank-Wolfe gap bounds the distance to the
optimum: E(p) - E(q) <= 2 (p'Kp - q'Kp) for every feasible q (Frank & Wolfe 1956; Jaggi 2013). Where K
can be kept, `descent` solves it with some fifty products K p; where not, `refinement` with a few.

A floor on the ESS is a ball, p'p <= 1 / (F n), and the method projects onto it. That is the minimiser of
p'(K + lambda I)p for the lambda that the floor needs: the search for lambda happens inside the projection,
where it costs O(n), instead of around the solver, where each trial would cost products.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.descent import descend
from kdbias.sphere.equilibrium.kernel_matrix import (
    Bandwidth,
    KernelMatrix,
    Matching,
    TiledKernel,
    kernel_matrix,
)
from kdbias.sphere.equilibrium.refinement import STALLED, refine
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, Groups
from kdbias.sphere.equilibrium.stop import Stop


def solve(
    kernel: KernelMatrix | np.ndarray,
    t: Bandwidth | None = None,
    *,
    min_ess: float | None = None,
    cap: float | None = None,
    duplicates: "np.ndarray | Groups | None" = None,
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
    max_seconds: float | None = None,
    start: np.ndarray | None = None,
    enough: float | None = None,
    memory: str | int = "4GiB",
    threads: int | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Equilibrium:
    """Minimise p'Kp over distributions p with a floor on the ESS and a cap on each sample.

    Args:
        kernel: unit rows (n, d), or a kernel matrix over the distinct samples: a `Matching` leads to the
            least discrepancy from its target instead.
        t: bandwidth, or several whose kernels are averaged; needed with rows.
        min_ess: least ESS / distinct samples, from 0 to 1; None = no floor.
        cap: largest mass of a distinct sample as a multiple of 1 / distinct, above 1; None = no cap.
        duplicates: (n,) int, row of the first sample with the same vector (its own where it is the first), or
            groups; such samples count as one and share its mass. None = all rows are distinct.
        tolerance: stop once gap <= tolerance * (natural energy - energy).
        max_iterations, max_seconds: where a bad case ends, with the gap it reached.
        start: (n,) warm start, a distribution; default natural.
        enough: an energy to go down to and no further: the floor rises to where the least energy is just
            that, and ``min_ess`` is its least; for where that of uniform masses is above.
        memory: what the kernel may take when ``kernel`` is rows. Where half of K does not fit, products
            compute it anew, and few of them are made (see `refinement`).
        progress: called with (iteration, energy, gap) each time the gap is known.

    Returns:
        The best distribution met; never of higher energy than a feasible start.

    Raises:
        KdbiasError: a floor or cap outside its range, or no t with rows.
    """
    effort = Effort(tolerance, max_iterations, max_seconds, progress)
    if not isinstance(duplicates, Groups):
        duplicates = Groups.of(duplicates, len(kernel) if isinstance(kernel, np.ndarray) else kernel.n)
    groups = duplicates
    if isinstance(kernel, np.ndarray):
        if t is None or not np.min(t) > 0:
            raise KdbiasError(f"the equilibrium of embeddings needs a bandwidth t > 0, got {t}")
        kernel = kernel_matrix(kernel[groups.first], t, memory, threads)
    groups.require(kernel.n)
    feasible = FeasibleSet.of(kernel.n, min_ess, cap)
    begin = None if start is None else groups.collapse(start)
    stop = None if enough is None else Stop(enough, feasible)
    tiled = kernel.inner if isinstance(kernel, Matching) else kernel
    if isinstance(kernel, TiledKernel | Matching) and isinstance(tiled, TiledKernel) and tiled.dear:
        refined = refine(kernel, feasible, groups, effort, begin, stop)
        if refined.reason != STALLED:
            return refined
        begin = groups.collapse(refined.p)
        feasible = feasible.with_floor(refined.floor)
        effort = replace(effort, iterations=0, products=0)
    return descend(kernel, feasible, groups, effort, begin, stop)
