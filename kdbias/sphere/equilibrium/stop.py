"""Where the floor on the ESS has to be for the least energy to be just low enough.

The least energy over the ball p'p <= r falls with r, and the floor's multiplier lambda is its slope: so each
point of a search says, by a step of Newton's method, where the floor should be, and the search goes on there.
Nothing is solved to the end but the last of these problems. The step is taken on the square root of the
energy over the floor, which is nearly straight.
"""

import numpy as np

from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Point

_CLOSE = 0.005  # of the floor: as sharply as it is found
_SHARE = 0.25  # of a gap, which bounds how far a point is from the best: what to expect
_SURE = 0.1  # of the energy: where gaps are below, multipliers are near those of the best
_LEAST = 1e-300

_Place = tuple[float, float]
"""A floor, and the root of the least energy there."""


class Stop:
    """A search for the highest floor on the ESS at which the least energy is ``enough``.

    Args:
        enough: the energy to reach, > 0.
        loosest: with the least floor that is allowed; natural sampling's energy is above ``enough``.
    """

    def __init__(self, enough: float, loosest: FeasibleSet) -> None:
        self.enough, self.loosest = enough, loosest
        self._low = loosest.floor  # the highest floor that is low enough, as far as is known
        self._high = 1.0  # the lowest floor that is proven to be too high
        self._below: _Place | None = None
        self._above: _Place | None = None

    def begins(self, energy: float) -> None:
        """Tell of the energy of uniform masses."""
        self._above = 1.0, np.sqrt(energy)

    def settled(self, point: Point, feasible: FeasibleSet) -> bool:
        """Whether a point may be the answer, should it be good enough for its set."""
        return point.energy <= self.enough or feasible.floor <= self.loosest.floor

    def moved(self, point: Point, feasible: FeasibleSet, good: bool) -> FeasibleSet | None:
        """The set to go on in; None: this one.

        Args:
            point: of ``feasible``.
            good: whether its gap met the tolerance.
        """
        low_enough = point.energy <= self.enough
        place = self._low_enough(point, feasible) if low_enough else self._too_high(point, feasible, good)
        if place is None:
            return None
        aim = self._aim(*place, point)
        return feasible.with_floor(aim if aim < self._high else (self._low + self._high) / 2)

    def _low_enough(self, point: Point, feasible: FeasibleSet) -> tuple[float, float] | None:
        """The floor that a point below ``enough`` proves, and its energy; None where that is all."""
        # All of the ball that the point is on is low enough, whatever the ball it was sought in.
        floor = self._low = max(self._low, 1 / (float(point.p @ point.p) * feasible.n))
        self._below = floor, np.sqrt(max(point.energy, 0.0))
        if self._newton(floor, point) <= floor * (1 + _CLOSE) or self._high - floor <= _CLOSE * floor:
            return None
        return floor, point.energy

    def _too_high(self, point: Point, feasible: FeasibleSet, good: bool) -> tuple[float, float] | None:
        """The floor of a point above ``enough``, and its energy, or what that may fall to; None: go on."""
        floor, energy = feasible.floor, point.energy
        if energy - point.gap > self.enough:
            self._high = min(self._high, floor)
        elif good:  # the best may be low enough, but this point is not
            self._low, self._below = self.loosest.floor, None
        energy -= 0 if good else _SHARE * point.gap
        if floor <= self.loosest.floor or (energy <= self.enough and not good):
            return None
        self._above = floor, np.sqrt(energy)
        return floor, energy

    def _aim(self, floor: float, energy: float, point: Point) -> float:
        """The floor to try next: by the slope at the point, else between what is known of both sides."""
        aim = self._newton(floor, point) * (1 - _CLOSE / 2)
        told = point.gap <= _SURE * energy and point.multiplier > 0
        if not told and self._below is not None and self._above is not None:
            aim = _between(self._below, self._above, np.sqrt(self.enough))
        if self._below is not None and not self._low < aim < self._high:
            near = self._high - self._low <= _CLOSE * self._low
            aim = self._low if near else (self._low + self._high) / 2
        return max(aim, self.loosest.floor)

    def _newton(self, floor: float, point: Point) -> float:
        """The floor at which the least energy should be ``enough``, by its slope at this point."""
        root = np.sqrt(max(point.energy, _LEAST))
        slope = point.multiplier / (2 * root * len(point.p) * floor**2)
        return float(floor + (np.sqrt(self.enough) - root) / max(slope, _LEAST))


def _between(below: _Place, above: _Place, root: float) -> float:
    """The floor at which a line through two places has this root."""
    (low, least), (high, most) = below, above
    return float(low + (high - low) * (root - least) / (most - least)) if most > least else low
