"""What is done to any scheme's weights, in this order: temper, clip, mix, ESS floor.

All on one weight a distinct sample; members of a group of duplicates share it afterwards. So the natural
sampling that is mixed in is that of distinct samples: it brings no copies back.
"""

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.weighting.schemes.scheme import Weights
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import counted

_ROUNDING = 1e-9


def masses_of(found: Weights, settings: WeightsSettings, groups: Groups) -> np.ndarray:
    """(m,) masses of the distinct samples, sum 1, after hygiene.

    What was solved for, and of which nothing more is asked, stays as it was solved. Else its cap and its
    floor are restored where other steps broke them (a temper above 1 does), so that its gap remains a proof.
    No mass is left so small that it would never be drawn.
    """
    n, m, clip, floor = len(groups.group), groups.distinct, settings.clip, settings.floor
    if found.solution is not None:
        if (settings.temper, clip, settings.mix) == (1.0, None, 0.0):
            return found.values
        clip = min((limit for limit in (clip, found.cap) if limit is not None), default=None)
    p = cleaned(found.values, n, temper=settings.temper, clip=clip, mix=settings.mix, floor=floor)
    square = 1 / (floor * m) if floor and floor * m > 1 else 1.0
    return FeasibleSet(m, min((clip or n) / n, 1.0), square).without_noise(p, groups.least)


def cleaned(
    values: np.ndarray,
    n: int,
    *,
    temper: float = 1.0,
    clip: float | None = None,
    mix: float = 0.0,
    floor: float | None = None,
) -> np.ndarray:
    """Masses (m,), sum 1, of m distinct samples out of n from their relative weights (m,), all >= 0.

    Args:
        temper: exponent on the weights, 0 (uniform) to 1 (as they are), or above to sharpen.
        clip: no sample's weight above this many times the mean; > 1.
        mix: share of natural sampling mixed in, 0 to 1; no distinct sample, its copies together, is then
            drawn less often than this times the mean one.
        floor: least ESS / distinct samples, reached by mixing in more natural sampling.

    Raises:
        KdbiasError: all weights are 0, or too few are not for the clip.
    """
    p = tempered(values, temper)
    if clip is not None:
        p = clipped(p, clip, n)
    if mix:
        p = mixed(p, mix)
    return with_ess(p, floor) if floor else p


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
            f"clip {clip:g} cannot hold: {counted(positive, 'distinct sample')} of {n:,} with a weight, "
            f"so the mean of theirs is {n / positive:.4g}; choose a clip above that"
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
    """Probabilities (n,), a share of them spread evenly over all samples."""
    return (1 - share) * p + share / len(p)


def with_ess(p: np.ndarray, min_ess: float) -> np.ndarray:
    """p, mixed with just enough of the uniform distribution for 1 / p'p >= min_ess * m."""
    uniform = 1 / len(p)
    excess = float(p @ p) - uniform
    allowed = uniform / min_ess - uniform
    if excess <= allowed:
        return p
    return mixed(p, 1 - np.sqrt(allowed / excess))
