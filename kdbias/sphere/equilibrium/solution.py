"""What the equilibrium's solvers share: samples that count as one, and the answer with its certificate."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.tables.weight_manifest import LEAST_WEIGHT
from kdbias.wording import counted

NOISE = 1e-7
"""Share of the energy: what float32 products can still resolve."""


@dataclass
class Effort:
    """When a search ends, and what it has spent so far.

    Attributes:
        tolerance: stop once gap <= tolerance * (natural energy - energy).
        max_iterations, max_seconds: where a bad case ends; None = no limit.
        progress: called with (iteration, energy, gap) each time the gap is known.
        began: the `time.perf_counter` from which seconds count.
        iterations, products: steps taken and products K p computed.
    """

    tolerance: float = 1e-3
    max_iterations: int = 2000
    max_seconds: float | None = None
    progress: Callable[[int, float, float], None] | None = None
    began: float = field(default_factory=time.perf_counter)
    iterations: int = 0
    products: int = 0

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Of `max_seconds`; None without that limit."""
        return None if self.max_seconds is None else self.max_seconds - self.seconds

    @property
    def spent(self) -> str | None:
        """Which limit was reached, for people; None where there is more to spend."""
        if self.iterations >= self.max_iterations:
            return f"stopped after {counted(self.max_iterations, 'iteration')}"
        left = self.seconds_left
        return f"stopped after {self.max_seconds:g} s" if left is not None and left < 0 else None

    def report(self, point: "Point") -> None:
        """Tell `progress` how good a point is."""
        if self.progress:
            self.progress(self.iterations, point.energy, point.gap)


class GapShare:
    """Moves a bar of 100 % by what a search has left: on a logarithmic scale its gap falls about evenly.

    Args:
        bar: of `kdbias.progress`.
        tolerance: of the gain, as of `Effort`.
    """

    def __init__(self, bar: Any, tolerance: float) -> None:
        self._bar, self._tolerance = bar, tolerance
        self._natural: float | None = None
        self._longest, self._shown = 1.0, 0.0

    def __call__(self, iteration: int, energy: float, gap: float) -> None:
        """As of ``progress`` of `Effort`; the first call is about natural sampling or better."""
        if self._natural is None:
            self._natural = energy
        wanted = self._tolerance * (self._natural - energy)
        if wanted <= 0:
            return
        left = math.log(max(gap / wanted, 1.0))
        self._longest = max(left, self._longest)
        done = max(100 * (1 - left / self._longest), self._shown)
        self._bar.update(done - self._shown)
        self._shown = done


@dataclass(frozen=True)
class Groups:
    """Samples that are one sample: exact duplicates, or near ones.

    Attributes:
        first: (m,) row of the first member of each group, ascending.
        group: (n,) group of each row.
        sizes: (m,) members.
    """

    first: np.ndarray
    group: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, duplicates: np.ndarray | None, n: int) -> "Groups":
        """From the row of the first equal sample of each row; None = n distinct samples."""
        if duplicates is None:
            rows = np.arange(n)
            return cls(rows, rows, np.ones(n, dtype=np.int64))
        named = np.zeros(n, dtype=bool)
        named[duplicates] = True
        group = (np.cumsum(named) - 1)[duplicates]
        return cls(np.flatnonzero(named), group, np.bincount(group))

    @property
    def distinct(self) -> int:
        """m."""
        return len(self.first)

    @property
    def natural(self) -> np.ndarray:
        """(m,) float64 masses of natural sampling, which draws each member alike."""
        return self.sizes / self.sizes.sum()

    def require(self, n: int) -> None:
        """Raise KdbiasError where a kernel of n rows is not one over the distinct samples."""
        if n != self.distinct:
            raise KdbiasError(
                f"the kernel has {counted(n, 'row')}, the data {counted(self.distinct, 'distinct sample')}"
            )

    def collapse(self, p: np.ndarray) -> np.ndarray:
        """(n,) masses of rows -> (m,) masses of groups."""
        return np.bincount(self.group, weights=p, minlength=self.distinct)

    def apart(self, codes: np.ndarray) -> "Groups":
        """The groups whose members have one code (n,) each: those that differ in it are not one sample."""
        _, first, group = np.unique(
            np.stack([self.group, codes]), axis=1, return_index=True, return_inverse=True
        )
        return Groups.of(first[group.reshape(-1)], len(self.group))

    @property
    def least(self) -> np.ndarray:
        """(m,) least masses that are not 0: those of members of `LEAST_WEIGHT`."""
        return self.sizes * (LEAST_WEIGHT / len(self.group))

    def spread(self, masses: np.ndarray) -> np.ndarray:
        """(m,) masses of groups -> (n,) equal shares of the members."""
        return (masses / self.sizes)[self.group]


@dataclass(frozen=True)
class Point:
    """A distribution over groups and what its field proves about it.

    Attributes:
        p: (m,) float64 masses, in the feasible set.
        field: (m,) float64, K p.
        energy: p'Kp.
        gap: energy - (best energy over the feasible set) is at most this, if K is positive semi-definite.
        multiplier: of the ball (the floor on the ESS) in the bound behind ``gap``; 0 where it does not bind.
    """

    p: np.ndarray
    field: np.ndarray
    energy: float
    gap: float
    multiplier: float

    @classmethod
    def at(
        cls, p: np.ndarray, field: np.ndarray, feasible: FeasibleSet, largest: float | None = None
    ) -> "Point":
        """The point p with the Frank-Wolfe gap that its field gives.

        Args:
            largest: a bound on the eigenvalues of a kernel with entries from 0 to 1 and a diagonal of ones;
                where nothing but the simplex limits p, the gap of `least_possible` is the smaller one.
        """
        energy = float(p @ field)
        lowest, multiplier = feasible.lowest(field)
        gap = 2 * (energy - lowest)
        if largest is not None and feasible.cap == feasible.square == 1:
            gap = min(gap, energy - least_possible(field, energy, largest))
        return cls(p, field, energy, max(gap, 0.0), multiplier)

    def within(self, feasible: FeasibleSet, even: np.ndarray) -> "Point":
        """The point, drawn towards uniform masses, of field ``even`` (m,), as far as another floor needs."""
        share, centre = feasible.share_inside(self.p), 1 / feasible.n
        return Point.at(centre + share * (self.p - centre), even + share * (self.field - even), feasible)


def least_possible(field: np.ndarray, energy: float, largest: float) -> float:
    """A lower bound on q'Kq over distributions q, from the field of one that is nearly the best.

    For any v, q'Kq >= (min_i (Kv)_i)^2 / v'Kv where K is positive semi-definite. The gap of Frank & Wolfe
    takes v = p, which a few samples that see too little spoil. Here v = p + s with s_i what sample i lacks to
    a level L: its own entry of K, 1, lifts (Kv)_i to L at once, as no entry is negative, and v'Kv grows by
    2 s'Kp + s'Ks at most. The best L among the values of the field needs no product.

    Args:
        field, energy: K p and p'Kp.
        largest: as of `Point.at`.
    """
    level = np.append(np.sort(field[field < energy]), energy)
    below = np.arange(len(level))
    total, square = (np.append(0.0, np.cumsum(level[:-1] ** power)) for power in (1, 2))
    lack = below * level - total  # sum of s, then s'Kp and s's
    along, squares = level * total - square, np.maximum(below * level**2 - 2 * level * total + square, 0.0)
    bend = np.minimum(lack**2, largest * squares)
    return float((np.maximum(level, 0.0) ** 2 / (energy + 2 * along + bend)).max())


def wanted_gap(tolerance: float, start_energy: float, energy: float, offset: float = 0.0) -> float:
    """The gap at which a search may stop: a share of the gain, but no less than products resolve.

    ``offset``: what the energy is the small rest of (`kernel_matrix.Matching`'s constant).
    """
    return max(tolerance * (start_energy - energy), NOISE * (energy + offset))


@dataclass(frozen=True)
class Equilibrium:
    """A sampling distribution of low energy and the proof of how low it could be.

    Attributes:
        p: (n,) float64 probabilities, sum 1; exact duplicates share the mass of their group.
        energy: p'Kp.
        start_energy: the same of natural sampling, p = 1/n.
        gap: energy - (best energy over the feasible set) is at most this.
        lam: multiplier of the ESS floor (0 where the floor does not bind): p minimises p'(K + lam I)p.
        floor: the least effective sample size, as a share of the distinct samples, that p was held to.
        ess: effective sample size as a share of the distinct samples, (1 / sum of squared masses) / distinct.
        distinct: samples after exact duplicates were collapsed.
        potentials: (n,) density K p that each sample sees under p.
        iterations, products: steps taken and products K p computed.
        certified: the gap is proven (exact kernel) and met the tolerance.
        proven: the gap is a proof at all; False where K is approximated and may not be definite.
        reason: how the run ended, for people.
    """

    p: np.ndarray
    energy: float
    start_energy: float
    gap: float
    lam: float
    floor: float
    ess: float
    distinct: int
    potentials: np.ndarray
    iterations: int
    products: int
    seconds: float
    certified: bool
    proven: bool
    reason: str

    @classmethod
    def at(
        cls,
        point: Point,
        feasible: FeasibleSet,
        groups: Groups,
        effort: Effort,
        *,
        start_energy: float,
        proven: bool,
        reason: str,
        offset: float = 0.0,
    ) -> "Equilibrium":
        """The answer that a point over the groups is, without the noise of the search.

        Args:
            start_energy: of natural sampling.
            proven: whether the point's gap is a proof.
            reason: how the search ended.
            offset: as of `wanted_gap`.
        """
        p = feasible.without_noise(point.p, groups.least)
        # K's entries are at most 1, so the square of this change, 1e-18, is all that the sum leaves out.
        energy = point.energy + 2 * float((p - point.p) @ point.field)
        gap = max(energy - (point.energy - point.gap), 0.0)
        square = float(p @ p)
        binding = feasible.bounded_ess and square > feasible.square * (1 - 1e-6)
        return cls(
            p=groups.spread(p),
            energy=energy,
            start_energy=start_energy,
            gap=gap,
            lam=point.multiplier if binding else 0.0,
            floor=feasible.floor,
            ess=1 / square / len(p),
            distinct=len(p),
            potentials=point.field[groups.group],
            iterations=effort.iterations,
            products=effort.products,
            seconds=effort.seconds,
            certified=proven and gap <= wanted_gap(effort.tolerance, start_energy, energy, offset),
            proven=proven,
            reason=reason,
        )

    @property
    def relative_gap(self) -> float | None:
        """gap / (start_energy - energy): how much of the gain is unproven; None where nothing was gained."""
        gain = self.start_energy - self.energy
        return self.gap / gain if gain > 0 else None
