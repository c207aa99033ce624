"""The equilibrium, or the nearest match of a target, under an entropy penalty: no sample is dropped.

Minimises p'Kp + mu sum p log p over the simplex (with a cap) for the mu at which the effective sample size is
the wanted one. Any q whose entropy is not below p's has q'Kq >= p'Kp - gap, with the gap of the penalised
problem: <g, p> - min over the feasible set of <g, q>, g its gradient (Frank & Wolfe 1956; the objective is
convex, and g is finite where every p_i > 0).

The method is mirror descent with the entropy as its distance, which keeps p positive and takes the penalty
without approximation (relative smoothness: Bauschke, Bolte & Teboulle 2017; Lu, Freund & Nesterov 2018);
one product K p an iteration, steps as long as the curvature along them allows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import NOISE, Equilibrium, Groups, Point

_CHECK_EVERY = 5
_CLOSE = 1e-3  # relative, of the ESS
_MOST_TRIALS = 40
_SMALLEST = 1e-300


@dataclass
class _Work:
    """What a search has spent and may spend."""

    began: float
    iterations: int = 0
    products: int = 0


def solve_entropy(
    kernel: KernelMatrix,
    *,
    min_ess: float,
    cap: float | None = None,
    duplicates: Groups | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 4000,
    max_seconds: float | None = None,
    start: np.ndarray | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Equilibrium:
    """Arguments and result as of `equilibrium.solve`; `lam` is mu, and `gap` that of the penalised problem.

    Args:
        min_ess: the effective sample size (Kish) to end at, as a share of the distinct samples, in (0, 1].

    Raises:
        KdbiasError: a floor of 0 (the penalty would vanish, and with it what it is for).
    """
    if not 0 < min_ess <= 1:
        raise KdbiasError(f"the entropy penalty needs a floor on the ESS in (0, 1], got {min_ess:g}")
    groups = Groups.of(None, kernel.n) if duplicates is None else duplicates
    feasible, work = FeasibleSet.of(kernel.n, None, cap), _Work(time.perf_counter())
    natural = groups.sizes / groups.sizes.sum()
    uniform = np.full(kernel.n, 1 / kernel.n)
    start_energy = float(natural @ _product(kernel, natural, work))
    p = uniform if start is None else np.maximum(groups.collapse(start), _SMALLEST)
    field = _product(kernel, p, work)
    mu = max(2 * float(np.std(field)), NOISE)  # where field and penalty weigh about alike
    low = high = None  # brackets of log mu: ESS rises with it
    reason, trials = "met the tolerance", 0
    while True:
        p, field, gap, reason = _descend(
            kernel,
            feasible,
            mu,
            p,
            field,
            start_energy,
            tolerance,
            work,
            max_iterations,
            max_seconds,
            progress,
        )
        ess, trials = 1 / float(p @ p) / kernel.n, trials + 1
        ended = reason != "met the tolerance" or trials == _MOST_TRIALS
        if ended or abs(ess - min_ess) <= _CLOSE * min_ess or min_ess >= 1 - _CLOSE:
            break
        if ess < min_ess:
            low = np.log(mu)
        else:
            high = np.log(mu)
        if low is None or high is None:
            mu *= 4.0 if low is not None else 0.25
        else:
            mu = float(np.exp((low + high) / 2))
    point = Point(p, field, float(p @ field), gap, mu)
    return replace(
        Equilibrium.at(
            point,
            feasible,
            groups,
            start_energy=start_energy,
            tolerance=tolerance,
            proven=kernel.definite,
            iterations=work.iterations,
            products=work.products,
            seconds=time.perf_counter() - work.began,
            reason=reason,
            offset=_offset(kernel),
        ),
        lam=mu,
    )


def _offset(kernel: KernelMatrix) -> float:
    return kernel.constant if isinstance(kernel, Matching) else 0.0


def _product(kernel: KernelMatrix, p: np.ndarray, work: _Work) -> np.ndarray:
    work.products += 1
    return kernel.apply(p, exact=True)


def _descend(
    kernel: KernelMatrix,
    feasible: FeasibleSet,
    mu: float,
    p: np.ndarray,
    field: np.ndarray,
    start_energy: float,
    tolerance: float,
    work: _Work,
    max_iterations: int,
    max_seconds: float | None,
    progress: Callable[[int, float, float], None] | None,
) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Mirror descent at one mu; returns p, its field, the gap and how it ended."""
    smooth, gap = mu, np.inf
    for i in range(max_iterations):
        if i % _CHECK_EVERY == 0:
            gap, energy = _gap(feasible, mu, p, field), float(p @ field)
            if progress:
                progress(work.iterations, energy, gap)
            if gap <= max(tolerance * (start_energy - energy), NOISE * (energy + _offset(kernel))):
                return p, field, gap, "met the tolerance"
        if work.iterations >= max_iterations:
            return p, field, _gap(feasible, mu, p, field), f"stopped after {max_iterations:,} iterations"
        if max_seconds is not None and time.perf_counter() - work.began > max_seconds:
            return p, field, _gap(feasible, mu, p, field), f"stopped after {max_seconds:g} s"
        work.iterations += 1
        while True:
            logits = (smooth * np.log(p) - 2 * field) / (smooth + mu)
            following = _from_logits(logits, feasible.cap)
            following_field = _product(kernel, following, work)
            move = following - p
            bend = float(move @ (following_field - field))
            distance = float(np.sum(following * np.log(following / p)) - move.sum())
            if bend <= smooth * distance * (1 + 1e-6) + 1e-16:
                break
            smooth = max(2 * smooth, bend / max(distance, 1e-300))
        p, field, smooth = following, following_field, 0.7 * smooth
    return p, field, _gap(feasible, mu, p, field), f"stopped after {max_iterations:,} iterations"


def _gap(feasible: FeasibleSet, mu: float, p: np.ndarray, field: np.ndarray) -> float:
    gradient = 2 * field + mu * np.log(p)  # + mu: the same everywhere
    lowest, _ = feasible.lowest(gradient)
    return max(float(p @ gradient) - lowest, 0.0)


def _from_logits(logits: np.ndarray, cap: float) -> np.ndarray:
    """The distribution nearest in relative entropy to exp(logits) under a cap: min(cap, s exp(logits))."""
    values = np.exp(logits - logits.max())
    values = np.maximum(values / values.sum(), _SMALLEST)
    if cap >= 1 or values.max() <= cap:
        return values / values.sum()
    order = np.argsort(-values)
    ranked = values[order]
    rest = np.cumsum(ranked[::-1])[::-1]  # of what is not among the first i
    filled = np.arange(len(values))
    with np.errstate(divide="ignore"):
        scale = (1 - cap * filled) / rest  # the first i held at the cap
    count = int(np.argmax(scale * ranked <= cap * (1 + 1e-12)))
    result = np.empty(len(values))
    result[order] = np.minimum(ranked * scale[count], cap)
    return result / result.sum()
