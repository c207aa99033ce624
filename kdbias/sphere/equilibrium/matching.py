"""Sampling that matches a target as far as the target is known, and no further.

A reference of m samples is itself off by its noise, (1 - mean off-diagonal K) / m in squared discrepancy. To
match it closer than that is to chase the reference's own accidents, so the answer is the sampling of largest
effective sample size whose squared discrepancy is not above the noise: Morozov's discrepancy principle
(1966) with the two-sample statistic as the data's misfit. Where natural sampling is that near already, it is
the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching
from kdbias.sphere.equilibrium.solution import Equilibrium, Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import Target

_CLOSE = 0.005  # of the ESS: how sharply the floor at the noise is found
_NEAR = 0.01  # of the noise: a discrepancy that near below it is at it
_MOST_TRIALS = 12

Bound = Literal["natural", "noise", "floor"]
_NOISE: Bound = "noise"
_FLOOR: Bound = "floor"


@dataclass(frozen=True)
class Match:
    """Sampling matched to a target.

    Attributes:
        p: (n,) float64 probabilities, sum 1; copies share the mass of their group.
        solution: the solver's answer with its certificate at ``floor``; None where natural sampling stays.
        field: (m,) K p over the distinct samples.
        natural: MMD^2 of natural sampling, copies and all; discrepancy: that of p; noise: what such a
            reference has anyway.
        floor: the effective sample size (share of the distinct samples) that p was held to.
        bound: what ended the matching: "natural" (it is near enough already), "noise" (the reference's noise
            was reached) or "floor" (the wanted least ESS came first).
    """

    p: np.ndarray
    solution: Equilibrium | None
    field: np.ndarray
    natural: float
    discrepancy: float
    noise: float
    floor: float
    bound: Bound


def unmatched(kernel: KernelMatrix, target: Target, groups: Groups | None = None) -> Match:
    """Natural sampling of the distinct samples: what is near enough already stays as it comes."""
    groups = Groups.of(None, kernel.n) if groups is None else groups
    even = np.full(kernel.n, 1 / kernel.n)
    fields = kernel.apply(np.stack([groups.natural, even], axis=1), exact=True)
    start, found = (
        max(target.discrepancy(p, field), 0.0)
        for p, field in zip((groups.natural, even), fields.T, strict=True)
    )
    return Match(groups.spread(even), None, fields[:, 1], start, found, target.noise, 1.0, "natural")


def match(
    kernel: KernelMatrix,
    target: Target,
    *,
    min_ess: float,
    stop: bool = True,
    groups: Groups | None = None,
    solver: Callable[..., Equilibrium] = solve,
    **effort: Any,
) -> Match:
    """The sampling of largest ESS within the target's noise, or else of least discrepancy at the floor.

    Args:
        kernel: K over the m distinct samples.
        target: with (m,) kernel means of the distinct samples.
        min_ess: least ESS / distinct samples, from 0 (none; not with `solve_entropy`) to 1.
        stop: whether to stop at the noise; without, the discrepancy is least at the floor.
        groups: samples that count as one; default all are distinct.
        solver: `solve`, or `entropy.solve_entropy`.
        effort: cap, tolerance, max_seconds and progress of the solver, for each solve.

    Returns:
        Natural sampling of the distinct samples where its discrepancy is not above the noise.
    """
    groups = Groups.of(None, kernel.n) if groups is None else groups
    shifted = Matching(kernel, target.mean, target.constant)
    natural = unmatched(kernel, target, groups)
    if stop and natural.discrepancy <= target.noise:
        return natural

    def at(floor: float, begin: np.ndarray | None) -> Equilibrium:
        return solver(shifted, min_ess=floor, duplicates=groups, start=begin, **effort)

    lowest = at(min_ess, None)
    floor, best, bound = min_ess, lowest, _FLOOR
    if stop and lowest.energy < target.noise:
        floor, best = _largest_within(target.noise, min_ess, lowest, at)
        bound = _NOISE
    shift = target.constant - float(target.mean @ groups.collapse(best.p))
    field = best.potentials[groups.first] + target.mean - shift  # K p of the shifted kernel's field
    return Match(best.p, best, field, natural.natural, best.energy, target.noise, floor, bound)


def _largest_within(
    noise: float, low: float, best: Equilibrium, at: Callable[[float, np.ndarray | None], Equilibrium]
) -> tuple[float, Equilibrium]:
    """The largest floor at which the least discrepancy is within the noise, with its solution.

    To `_CLOSE`, or to `_NEAR` of the noise, whichever comes first.

    The least discrepancy rises with the floor, so a bracket closes on it: by interpolation of the square
    root, which is nearly linear there, held off the ends.
    """
    high, high_root = 1.0, None
    low_root, wanted = np.sqrt(max(best.energy, 0.0)), np.sqrt(noise)
    for _ in range(_MOST_TRIALS):
        if high - low <= _CLOSE or best.energy >= (1 - _NEAR) * noise:
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
