"""The equilibrium, or the nearest match of a target, under an entropy penalty: no sample is dropped.

Minimises p'Kp + mu sum p log p over the simplex (with a cap) for the mu at which the effective sample size is
the wanted one. Any q whose entropy is not below p's has q'Kq >= p'Kp - gap, with the gap of the penalised
problem: <g, p> - min over the feasible set of <g, q>, g its gradient (Frank & Wolfe 1956; the objective is
convex, and g is finite where every p_i > 0).

The method is mirror descent with the entropy as its distance, which keeps p positive and takes the penalty
without approximation (relative smoothness: Bauschke, Bolte & Teboulle 2017; Lu, Freund & Nesterov 2018);
one product K p an iteration, steps as long as the curvature along them allows. Products are float32 until
they no longer resolve the gap or the wanted effective sample size is met; the answer is proven in float64.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, offset_of
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import NOISE, Effort, Equilibrium, Groups, Point, wanted_gap

_CHECK_EVERY = 5
_PATIENCE = 20  # checks of the gap without progress
_CLOSE = 1e-3  # relative, above the wanted ESS
_BELOW = 1e-9  # the same below it: rounding
_NEAR = 3e-3  # below the energy that is enough, relative
_MOST_TRIALS = 40
_SMALLEST = 1e-300
# As |K_ij| <= 1, bend <= |move|_1^2, and that is at most twice the relative entropy (Pinsker).
_SMOOTHEST = 2.0
_FAR = 50.0
_LOOSE = 3.0
_FINE, _SAME = 0.02, 1e-3  # of log mu
_NOTHING = 0.5  # of the wanted gap: what a penalty adds that does not matter
_MET = "met the tolerance"


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
    enough: float | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> Equilibrium:
    """Arguments and result as of `solve.solve`; `lam` is mu, and `gap` that of the penalised problem.

    Args:
        kernel: over the m distinct samples.
        min_ess: the effective sample size (Kish) to end at, or just above, as a share of the distinct
            samples, in (0, 1]; what needs no penalty to be above it stays there.
        start: (n,) warm start, a distribution; default uniform. It is brought under the cap.
        enough: an energy to go down to and no further, as of `solve.solve`.

    Raises:
        KdbiasError: a floor of 0 (the penalty would vanish, and with it what it is for), or a kernel that is
            not one over the distinct samples.
    """
    if not 0 < min_ess <= 1:
        raise KdbiasError(f"the entropy penalty needs a floor on the ESS in (0, 1], got {min_ess:g}")
    groups = Groups.of(None, kernel.n) if duplicates is None else duplicates
    groups.require(kernel.n)
    effort = Effort(tolerance, max_iterations, max_seconds, progress)
    search = _Search(kernel, FeasibleSet.of(kernel.n, None, cap), groups, effort)
    if start is not None:
        search.begin(groups.collapse(start))
    reason = search.towards(min_ess, enough)
    answer = Equilibrium.at(
        search.point,
        search.feasible,
        groups,
        effort,
        start_energy=search.start_energy,
        proven=kernel.definite,
        reason=reason,
        offset=search.offset,
    )
    return replace(answer, lam=search.mu, floor=answer.ess)


class _Search:
    """Mirror descent on p'Kp + mu sum p log p, and the search for mu.

    Attributes:
        point: p with its field and the gap of the penalised problem.
        mu: the weight of the penalty.
        exact: whether products are taken in float64.
        loose: how many times the wanted gap is near enough while mu is sought.
    """

    def __init__(self, kernel: KernelMatrix, feasible: FeasibleSet, groups: Groups, effort: Effort) -> None:
        self.kernel, self.feasible, self.effort = kernel, feasible, effort
        self.offset, self.exact, self.loose = offset_of(kernel), False, _LOOSE
        self.least = 2 * groups.least  # no mass is below: nothing is dropped, however small the penalty
        uniform = np.full(kernel.n, 1 / kernel.n)
        fields = self._apply(np.stack([uniform, groups.natural], axis=1))
        self.start_energy = float(groups.natural @ fields[:, 1])
        self.mu = max(2 * float(np.std(fields[:, 0])), NOISE)  # where field and penalty weigh about alike
        self.point = self._at(uniform, fields[:, 0])

    def begin(self, p: np.ndarray) -> None:
        """Start from p (m,), as near to it as the cap allows."""
        p = _from_logits(np.log(np.maximum(p, self.least)), self.feasible.cap, self.least)
        field = self._apply(p)
        self.mu = max(2 * float(np.std(field)), NOISE)
        self.point = self._at(p, field)

    def towards(self, min_ess: float, enough: float | None) -> str:
        """Find the mu that leads to this effective sample size, or energy; returns how the search ended."""
        bracket = _Bracket(float(np.log(4.0)), growth=1)
        for _ in range(_MOST_TRIALS):
            reason = self._descend()
            room, what = self._room(min_ess, enough)
            if reason != _MET:
                self._be_exact()
                return reason
            if not 0 <= room <= 1:
                self.mu = bracket.following(self.mu, room)
            elif self.exact:
                return what
            elif self.loose == 1:
                self._be_exact()
            else:  # the place is known, and moves a little when it is looked at closely
                self.loose, bracket = 1.0, _Bracket(_FINE, growth=2)
        self._be_exact()
        return f"stopped at an effective sample size of {self._ess:.1%}"

    @property
    def _ess(self) -> float:
        return 1 / float(self.point.p @ self.point.p) / self.kernel.n

    @property
    def _lost(self) -> float:
        """Entropy that p lacks, in nats: times mu, the most that the penalty adds to the least energy."""
        p = self.point.p
        return float(np.log(len(p)) + np.sum(p * np.log(p)))

    def _room(self, min_ess: float, enough: float | None) -> tuple[float, str]:
        """How far mu is above the least that may be: 0 to 1 is there; and how the search ends there."""
        room = (self._ess / min_ess - 1 + _BELOW) / _CLOSE
        if enough is not None:
            room = min(room, (self.point.energy / enough - 1 + _NEAR) / _NEAR)
        if room > 1 and self.mu * self._lost < _NOTHING * self._wanted():
            return 1.0, f"{_MET}; less of the penalty would change nothing"
        return room, _MET

    def _descend(self) -> str:
        """Mirror descent at this mu; returns how it ended."""
        p, field = self.point.p, self.point.field
        smooth, least, stale, i = self.mu, np.inf, 0, 0
        while True:
            spent = self.effort.spent
            if i % _CHECK_EVERY == 0 or spent:
                self.point = self._at(p, field)
                self.effort.report(self.point)
                if self.point.gap <= self._wanted() * self.loose and (i or spent or self.exact):
                    return _MET
                stale = 0 if self.point.gap < least else stale + 1
                least = min(least, self.point.gap)
                if stale >= _PATIENCE * (3 if self.exact else 1):
                    if self.exact:
                        return "no further progress within rounding"
                    self._be_exact()
                    field, least, stale = self.point.field, np.inf, 0
            if spent:
                return spent
            self.effort.iterations += 1
            p, field, smooth = self._step(p, field, smooth)
            smooth, i = 0.7 * smooth, i + 1

    def _step(self, p: np.ndarray, field: np.ndarray, smooth: float) -> tuple[np.ndarray, np.ndarray, float]:
        """One step from p whose length the curvature along it allows."""
        while True:
            logits = (smooth * np.log(p) - 2 * field) / (smooth + self.mu)
            following = _from_logits(logits, self.feasible.cap, self.least)
            following_field = self._apply(following)
            move = following - p
            bend = float(move @ (following_field - field))
            distance = float(np.sum(following * np.log(following / p)) - move.sum())
            if bend <= smooth * distance * (1 + 1e-6) + 1e-16 or smooth >= _SMOOTHEST:
                return following, following_field, smooth
            smooth = min(max(2 * smooth, bend / max(distance, _SMALLEST)), _SMOOTHEST)

    def _at(self, p: np.ndarray, field: np.ndarray) -> Point:
        """The point p with its gap at this mu."""
        gradient = 2 * field + self.mu * np.log(p)  # + mu: the same everywhere
        lowest, _ = self.feasible.lowest(gradient)
        return Point(p, field, float(p @ field), max(float(p @ gradient) - lowest, 0.0), self.mu)

    def _wanted(self) -> float:
        return wanted_gap(self.effort.tolerance, self.start_energy, self.point.energy, self.offset)

    def _apply(self, p: np.ndarray) -> np.ndarray:
        self.effort.products += 1
        return self.kernel.apply(p, self.exact)

    def _be_exact(self) -> None:
        """Take products in float64 from here on and judge the point anew."""
        self.exact = True
        self.point = self._at(self.point.p, self._apply(self.point.p))


class _Bracket:
    """The search for the mu that leaves just enough room, on a logarithmic scale.

    Args:
        step: of log mu while a place is known on one side alone.
        growth: of that step, from one to the next.
    """

    def __init__(self, step: float, growth: int) -> None:
        self._step, self._growth = step, growth
        self._low: tuple[float, float] | None = None  # log mu and the room there, which grows with it
        self._high: tuple[float, float] | None = None

    def following(self, mu: float, room: float) -> float:
        """The mu to try after one with this room, which is below 0 or above 1."""
        here = (float(np.log(mu)), float(np.clip(room, -_FAR, _FAR)))
        low, high = (here, self._high) if room < 0 else (self._low, here)
        if low and high and high[0] - low[0] < _SAME:  # what lies across was within its gap
            low, high = (here, None) if room < 0 else (None, here)
            self._step = _FINE
        self._low, self._high = low, high
        if low and high:
            share = float(np.clip((0.5 - low[1]) / (high[1] - low[1]), 0.1, 0.9))
            return float(np.exp(low[0] + share * (high[0] - low[0])))
        mu *= float(np.exp(self._step if low else -self._step))
        self._step *= self._growth
        return mu


def _from_logits(logits: np.ndarray, cap: float, least: np.ndarray) -> np.ndarray:
    """The distribution nearest in relative entropy to exp(logits) under a cap: min(cap, s exp(logits)).

    Masses below ``least`` (m,), a tiny share of all, are raised to it.
    """
    values = np.exp(logits - logits.max())
    values = np.maximum(values / values.sum(), least)
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
