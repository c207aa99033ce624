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
        effort: cap, tolerance, max_seconds and progress of the solver.

    Returns:
        Natural sampling of the distinct samples where its discrepancy is not above the noise.
    """
    groups = Groups.of(None, kernel.n) if groups is None else groups
    shifted = Matching(kernel, target.mean, target.constant)
    natural = unmatched(kernel, target, groups)
    if stop and natural.discrepancy <= target.noise:
        return natural

    enough = target.noise if stop and target.noise > 0 else None
    best = solver(shifted, min_ess=min_ess, duplicates=groups, enough=enough, **effort)
    bound = _NOISE if enough is not None and best.energy <= enough else _FLOOR
    shift = target.constant - float(target.mean @ groups.collapse(best.p))
    field = best.potentials[groups.first] + target.mean - shift  # K p of the shifted kernel's field
    return Match(best.p, best, field, natural.natural, best.energy, target.noise, best.floor, bound)
