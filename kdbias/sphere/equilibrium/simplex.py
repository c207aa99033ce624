"""The set of sampling distributions a solver may choose from: a capped simplex inside a ball.

``{p : 0 <= p_i <= cap, sum p = 1, p'p <= square}``. The ball is the floor on the effective sample size:
Kish's ESS is 1 / p'p. Projection onto it and minimisation of a linear function over it are exact up to
rounding, both by a search over one scalar: the answer is ``clip(s v - tau, 0, cap)`` for some s and tau.
"""

from dataclasses import dataclass, replace

import numpy as np

from kdbias.errors import KdbiasError

_MAX_STEPS = 200
_RELATIVE = 1e-14
_LARGEST_SCALE = 1e9  # past it tau has too few digits left


@dataclass(frozen=True)
class FeasibleSet:
    """Distributions over n samples with p_i <= cap and p'p <= square.

    Attributes:
        n: number of samples.
        cap: largest probability of one sample, >= 1/n (1 = no cap).
        square: largest sum of squares, >= 1/n (1 = no floor on the ESS).
    """

    n: int
    cap: float = 1.0
    square: float = 1.0

    @classmethod
    def of(cls, n: int, min_ess: float | None = None, cap: float | None = None) -> "FeasibleSet":
        """From what people say: a floor on ESS/n in (0, 1] and a cap >= 1 as a multiple of 1/n."""
        if min_ess is not None and not 0 <= min_ess <= 1:
            raise KdbiasError(f"min_ess {min_ess:g} is not a share of the samples; choose it from 0 to 1")
        if cap is not None and not cap >= 1:
            raise KdbiasError(
                f"cap {cap:g} leaves no distribution (the mean weight is 1); choose a cap above 1"
            )
        return cls(
            n,
            cap=min(1.0, cap / n) if cap is not None else 1.0,
            square=min(1.0, 1 / (min_ess * n)) if min_ess else 1.0,
        )

    @property
    def bounded_ess(self) -> bool:
        """Whether there is a floor on the ESS at all."""
        return self.square < 1

    @property
    def floor(self) -> float:
        """Least ESS / n."""
        return 1 / (self.square * self.n)

    def with_floor(self, floor: float) -> "FeasibleSet":
        """The same set under another floor on ESS / n, from 1 / n to 1."""
        return replace(self, square=min(1.0, 1 / (floor * self.n)))

    def contains(self, p: np.ndarray, slack: float = 1e-9) -> bool:
        """Whether p lies in the set, within a relative slack."""
        return bool(
            p.min() >= 0
            and p.max() <= self.cap * (1 + slack)
            and abs(p.sum() - 1) <= slack
            and p @ p <= self.square * (1 + slack)
        )

    def project(self, v: np.ndarray) -> np.ndarray:
        """The point of the set nearest to v, (n,) float64."""
        p, _ = self._shrink(v, 1.0)
        return p

    def without_noise(self, p: np.ndarray, least: np.ndarray) -> np.ndarray:
        """p with 0 for masses below ``least`` (n,), a tiny share of all, still in the set.

        The others grow by that share. Where that breaks a limit they are pulled towards their own mean, which
        lifts the small ones: none falls below ``least`` anew.
        """
        kept = p >= least
        if not p[~kept].any():
            return np.where(kept, p, 0.0)  # no -0.0 either
        rest = p[kept] / p[kept].sum()
        centre, share = 1 / len(rest), 1.0
        square, most = float(rest @ rest), float(rest.max())
        if square > self.square and square > centre:
            share = np.sqrt(max(self.square - centre, 0.0) / (square - centre))
        if most > self.cap and most > centre:
            share = min(share, max(self.cap - centre, 0.0) / (most - centre))
        clean = np.zeros_like(p)
        clean[kept] = centre + (rest - centre) * share if share < 1 else rest
        return clean

    def lowest(self, g: np.ndarray) -> tuple[float, float]:
        """A proven lower bound on g'q over the set, exact up to ties, and the multiplier of the ball.

        The multiplier is 0 where the ball does not bind. At the optimum of p'Kp, with g = Kp, it is the
        lambda of p'(K + lambda I)p.
        """
        mean = float(g.mean())
        centred = g - mean
        q = _cheapest(centred, self.cap)
        if q @ q <= self.square:
            return mean + float(centred @ q), 0.0
        spread = float(centred.std())
        if spread <= 1e-15 * abs(mean):  # all directions cost the same
            return float(g.min()), 0.0
        q, s = self._shrink(-centred / (spread * self.n), np.inf)
        multiplier = spread * self.n / s
        # Weak duality: q minimises g'q + multiplier / 2 (q'q - square) over the simplex.
        slack = multiplier / 2 * (float(q @ q) - self.square)
        return mean + float(centred @ q / q.sum()) + min(slack, 0.0), multiplier

    def _shrink(self, v: np.ndarray, largest: float) -> tuple[np.ndarray, float]:
        """Projection of s v onto the capped simplex for the largest s <= ``largest`` that stays in the ball.

        p'p grows with s. With the sets of free and of capped samples known, s follows in closed form; that
        guess is repeated until the sets no longer change, inside a bracket that falls back on bisection.
        """
        centred = v - v.mean()
        if largest < np.inf:
            p, tau = _threshold(centred * largest, self.cap)
            if p @ p <= self.square * (1 + _RELATIVE):
                return p, largest
            low, high, s = 0.0, largest, largest
        else:
            low, s, tau = 0.0, 1.0, None
            p, tau = _threshold(centred, self.cap)
            while p @ p <= self.square and s < _LARGEST_SCALE:
                low, s = s, 4 * s
                p, tau = _threshold(centred * s, self.cap)
            high = s
        for _ in range(_MAX_STEPS):
            guess = self._closed_form(centred, p)
            if guess is None or not low < guess < high:
                guess = (low + high) / 2
            p, tau = _threshold(centred * guess, self.cap, tau)
            excess = p @ p - self.square
            if excess > 0:
                high = guess
            else:
                low = guess
            if abs(guess - s) <= _RELATIVE * s or abs(excess) <= _RELATIVE * self.square:
                s = guess
                break
            s = guess
        return self._into_ball(p), s

    def _closed_form(self, v: np.ndarray, p: np.ndarray) -> float | None:
        capped = p >= self.cap
        free = (p > 0) & ~capped
        k, capped_mass = int(free.sum()), self.cap * int(capped.sum())
        if k < 2:
            return None
        values = v[free]
        scatter = float(np.sum((values - values.mean()) ** 2))
        rest = self.square - self.cap * capped_mass - (1 - capped_mass) ** 2 / k
        return float(np.sqrt(rest / scatter)) if rest > 0 and scatter > 0 else None

    def share_inside(self, p: np.ndarray) -> float:
        """How much of the way from the ball's centre, the uniform point, to p (n,) is inside; 0 to 1."""
        square, centre = float(p @ p), 1 / self.n
        if square <= self.square:
            return 1.0
        return float(np.sqrt(max(self.square - centre, 0.0) / (square - centre)))

    def _into_ball(self, p: np.ndarray) -> np.ndarray:
        """Pull a point that rounding left outside the ball towards its centre."""
        share = self.share_inside(p)
        return p if share == 1 else 1 / self.n + (p - 1 / self.n) * share


def _cheapest(g: np.ndarray, cap: float) -> np.ndarray:
    """The minimiser of g'q over the capped simplex: the cheapest samples, filled up to the cap."""
    q = np.zeros(len(g))
    full = min(int(np.floor(1 / cap * (1 + _RELATIVE))), len(g))
    if full + 1 >= len(g):
        order = np.argsort(g, kind="stable")
    else:
        order = np.argpartition(g, full)[: full + 1]
        order = order[np.argsort(g[order], kind="stable")]
    q[order[:full]] = cap
    if full < len(g):
        q[order[full]] = max(0.0, 1 - full * cap)
    return q / q.sum()


def _threshold(v: np.ndarray, cap: float, guess: float | None = None) -> tuple[np.ndarray, float]:
    """Projection of v onto the capped simplex: clip(v - tau, 0, cap) with the tau that makes it sum to 1.

    Newton's method on the piecewise linear sum, which ends exactly once the pieces are right, in a bracket
    that each third step halves: without a cap Newton alone would do, with one it may wander.
    """
    n = len(v)
    above = cap if cap < 1 else np.inf  # a cap of 1 follows from the sum
    low = min(float(v.min()) - cap, float(v.mean()) - 1 / n)
    high = float(v.max())
    tau = guess if guess is not None and low < guess < high else float(v.mean()) - 1 / n
    p = np.clip(v - tau, 0, above)
    for step in range(_MAX_STEPS):
        excess = float(p.sum()) - 1
        if abs(excess) <= _RELATIVE:
            break
        if excess > 0:
            low = tau
        else:
            high = tau
        free = int(np.count_nonzero((p > 0) & (p < above)))
        following = tau + excess / free if free and step % 3 != 2 else (low + high) / 2
        if not low <= following <= high:
            following = (low + high) / 2
        if following == tau:
            break
        tau = following
        p = np.clip(v - tau, 0, above)
    return p, tau
