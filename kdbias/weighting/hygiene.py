"""What is done to any scheme's weights, in this order: temper, clip, mix, ESS floor.

All on one weight a distinct sample; members of a group of duplicates share it afterwards. So the natural
sampling that is mixed in is that of distinct samples: it brings no copies back.
"""

from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.simplex import FeasibleSet
from kdbias.tables.weight_manifest import LEAST_WEIGHT

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Hygiene:
    """Options common to all schemes.

    Attributes:
        temper: exponent on the weights, 0 (uniform) to 1 (as they are), or above to sharpen.
        clip: no sample's weight above this many times the mean; > 1.
        mix: share of natural sampling mixed in, 0 to 1; no distinct sample, its copies together, is then
            drawn less often than this times the mean one.
        min_ess: least ESS / distinct samples, reached by mixing in more natural sampling.
    """

    temper: float = 1.0
    clip: float | None = None
    mix: float = 0.0
    min_ess: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temper) and self.temper >= 0):
            raise KdbiasError(
                f"temper {self.temper:g} must be a number >= 0; 1 leaves the weights as they are"
            )
        if self.clip is not None and not self.clip > 1:
            raise KdbiasError(f"clip {self.clip:g} leaves no weights (their mean is 1); choose one above 1")
        if self.clip is not None and not self.clip < np.inf:
            raise KdbiasError(f"clip {self.clip:g} limits nothing; leave it out")
        if self.mix != 0 and not LEAST_WEIGHT <= self.mix <= 1:
            raise KdbiasError(
                f"mix {self.mix:g} is not a share that is ever drawn; choose 0, or from {LEAST_WEIGHT:g} to 1"
            )
        if self.min_ess is not None and not 0 <= self.min_ess <= 1:
            raise KdbiasError(
                f"min_ess {self.min_ess:g} is not a share of the samples; choose it from 0 to 1"
            )

    def limits(self, m: int, n: int) -> FeasibleSet:
        """What clip and floor leave to the masses of m distinct samples out of n."""
        floor = self.min_ess or 0.0
        return FeasibleSet(m, min((self.clip or n) / n, 1.0), 1 / (floor * m) if floor * m > 1 else 1.0)

    def apply(self, values: np.ndarray, n: int) -> np.ndarray:
        """Masses (m,), sum 1, of m distinct samples out of n from their relative weights (m,)."""
        p = tempered(values, self.temper)
        if self.clip is not None:
            p = clipped(p, self.clip, n)
        if self.mix:
            p = mixed(p, self.mix)
        return with_ess(p, self.min_ess) if self.min_ess else p


def tempered(values: np.ndarray, exponent: float) -> np.ndarray:
    """values^exponent as probabilities; a zero stays zero, whatever the exponent."""
    top = values.max()
    if not top > 0:
        raise KdbiasError("the scheme gave every sample the weight 0; choose another method")
    ratio = values / top
    powered = np.where(ratio > 0, np.power(ratio, exponent, where=ratio > 0, out=np.zeros_like(ratio)), 0.0)
    return powered / powered.sum()


def clipped(p: np.ndarray, clip: float, n: int) -> np.ndarray:
    """min(s p, clip / n) for the s that keeps the sum 1: proportions below the limit survive.

    Raises:
        KdbiasError: too few samples have weight for that limit.
    """
    limit = clip / n
    positive = int(np.count_nonzero(p))
    room = positive * limit - 1
    if room < -_ROUNDING:
        raise KdbiasError(
            f"clip {clip:g} cannot hold: {positive:,} distinct samples of {n:,} carry weight, so the mean of "
            f"theirs is {n / positive:.4g}; choose a clip above that"
        )
    if room <= _ROUNDING:  # all of them are at the limit
        return (p > 0) / positive
    descending = np.sort(p)[::-1]
    below = np.cumsum(descending[::-1])[::-1]  # mass of the i-th largest and all smaller ones
    capped = np.arange(len(p))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(below > 0, (1 - capped * limit) / below, 0)
    fits = descending * scale <= limit * (1 + 1e-12)
    return np.minimum(p * scale[np.argmax(fits)], limit)


def mixed(p: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * p + share / len(p)


def with_ess(p: np.ndarray, min_ess: float) -> np.ndarray:
    """p, mixed with just enough of the uniform distribution for 1 / p'p >= min_ess * m."""
    uniform = 1 / len(p)
    excess = float(p @ p) - uniform
    allowed = uniform / min_ess - uniform
    if excess <= allowed:
        return p
    return mixed(p, 1 - np.sqrt(allowed / excess))
