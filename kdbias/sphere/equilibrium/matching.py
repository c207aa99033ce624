"""Sampling that matches a target as far as the target is known, and no further.

A reference of m samples is itself off by its noise, (1 - mean off-diagonal K) / m in squared discrepancy. To
match it closer than that is to chase the reference's own accidents, so the answer is the sampling of largest
effective sample size whose squared discrepancy is not above the noise: Morozov's discrepancy principle
(1966) with the two-sample statistic as the data's misfit. Where natural sampling is that near already, it is
the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching
from kdbias.sphere.equilibrium.solution import Equilibrium, Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import Target

_CLOSE = 0.005  # of the ESS: how sharply the floor at the noise is found
_MOST_TRIALS = 12

Bound = Literal["natural", "noise", "floor"]


@dataclass(frozen=True)
class Match:
    """Sampling matched to a target.

    Attributes:
        p: (n,) float64 probabilities, sum 1; copies share the mass of their group.
        solution: the solver's answer with its certificate at ``floor``; None where natural sampling stays.
        natural: MMD^2 of natural sampling; discrepancy: that of p; noise: what such a reference has anyway.
        floor: the effective sample size (share of the distinct samples) that p was held to.
        bound: what ended the matching: "natural" (it is near enough already), "noise" (the reference's noise
            was reached) or "floor" (the wanted least ESS came first).
    """

    p: np.ndarray
    solution: Equilibrium | None
    natural: float
    discrepancy: float
    noise: float
    floor: float
    bound: Bound


def match(
    kernel: KernelMatrix,
    target: Target,
    *,
    min_ess: float,
    stop: bool = True,
    cap: float | None = None,
    groups: Groups | None = None,
    tolerance: float = 1e-3,
    max_seconds: float | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Match:
    """The sampling of largest ESS within the target's noise, or else of least discrepancy at the floor.

    Args:
        kernel: K over the m distinct samples.
        target: with (m,) kernel means of the distinct samples.
        min_ess: least ESS / distinct samples, in (0, 1].
        stop: whether to stop at the noise; without, the discrepancy is least at the floor.
        cap, tolerance, max_seconds, progress: as of `equilibrium.solve`, for each solve.
        groups: samples that count as one; default all are distinct.

    Returns:
        Natural sampling where its discrepancy is not above the noise.
    """
    groups = Groups.of(None, kernel.n) if groups is None else groups
    shifted = Matching(kernel, target.mean, target.constant)
    natural = groups.natural
    start = max(target.discrepancy(natural, kernel.apply(natural, exact=True)), 0.0)
    noise = target.noise
    if stop and start <= noise:
        return Match(groups.spread(natural), None, start, start, noise, 1.0, "natural")

    def at(floor: float, begin: np.ndarray | None) -> Equilibrium:
        return solve(
            shifted,
            min_ess=floor,
            cap=cap,
            duplicates=groups,
            tolerance=tolerance,
            max_seconds=max_seconds,
            start=begin,
            progress=progress,
        )

    lowest = at(min_ess, None)
    if not stop or lowest.energy >= noise:
        return Match(lowest.p, lowest, start, lowest.energy, noise, min_ess, "floor")
    floor, best = _largest_within(noise, min_ess, lowest, at)
    return Match(best.p, best, start, best.energy, noise, floor, "noise")


def _largest_within(
    noise: float, low: float, best: Equilibrium, at: Callable[[float, np.ndarray | None], Equilibrium]
) -> tuple[float, Equilibrium]:
    """The largest floor (to `_CLOSE`) at which the least discrepancy is within the noise, with its solution.

    The least discrepancy rises with the floor, so a bracket closes on it: by interpolation of the square
    root, which is nearly linear there, held off the ends.
    """
    high, high_root = 1.0, None
    low_root, wanted = np.sqrt(max(best.energy, 0.0)), np.sqrt(noise)
    for _ in range(_MOST_TRIALS):
        if high - low <= _CLOSE:
            break
        share = 0.5
        if high_root is not None and high_root > low_root:
            share = float(np.clip((wanted - low_root) / (high_root - low_root), 0.1, 0.9))
        trial = low + share * (high - low)
        found = at(trial, best.p)
        if found.energy <= noise:
            low, best, low_root = trial, found, np.sqrt(max(found.energy, 0.0))
        else:
            high, high_root = trial, np.sqrt(found.energy)
    return low, best
