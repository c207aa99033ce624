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


def masses_of(found: Weights, settings: WeightsSettings, groups: Groups, n: int) -> np.ndarray:
    """(m,) masses of the distinct samples, sum 1, after hygiene; n draws are an epoch.

    What was solved for, and of which nothing more is asked, stays as it was solved. Else its cap and its
    floor are restored where other steps broke them (a temper above 1 does), so that its gap remains a proof.
    No mass is left so small that it would never be drawn.
    """
    m, clip, floor = groups.distinct, limit_of(found, settings), settings.floor
    if found.solution is not None and (settings.temper, settings.clip, settings.mix) == (1.0, None, 0.0):
        return found.values
    p = cleaned(found.values, n, temper=settings.temper, clip=clip, mix=settings.mix, floor=floor)
    square = 1 / (floor * m) if floor and floor * m > 1 else 1.0
    return FeasibleSet(m, min((clip or n) / n, 1.0), square).without_noise(p, groups.least)


def limit_of(found: Weights, settings: WeightsSettings) -> float | None:
    """The largest weight that a distinct sample may have, copies together; None for any."""
    caps = (settings.clip, found.cap if found.solution is not None else None)
    return min((limit for limit in caps if limit is not None), default=None)


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
    return _limited(p, np.full(len(p), limit))


def _limited(p: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """min(s p, limits) (m,) for the s that keeps the sum 1; limits of what is > 0 sum to more."""
    with np.errstate(divide="ignore", invalid="ignore"):
        order = np.argsort(np.where(p > 0, limits / p, np.inf), kind="stable")
    ranked, ends = p[order], limits[order]
    rest = np.cumsum(ranked[::-1])[::-1]  # mass of the i-th to reach its limit and all later ones
    reached = np.concatenate([[0.0], np.cumsum(ends[:-1])])
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(rest > 0, (1 - reached) / rest, 0)
    fits = ranked * scale <= ends * (1 + 1e-12)
    return np.minimum(p * scale[np.argmax(fits)], limits)


def held(p: np.ndarray, limits: np.ndarray, floor: float | None) -> np.ndarray:
    """p (m,) under limits (m,), with the ESS floor as near as they allow."""
    p = _limited(p, limits)
    if not floor or 1 / (p @ p) >= floor * len(p):
        return p
    even = _limited(np.full(len(p), 1 / len(p)), limits)
    away = p - even
    square, along, room = away @ away, even @ away, 1 / (floor * len(p)) - even @ even
    if room <= 0 or square == 0:
        return even
    return even + away * min(1.0, (np.sqrt(along * along + square * room) - along) / square)


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
