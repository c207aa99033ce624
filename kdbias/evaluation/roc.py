"""ROC curves of weighted comparisons, and the thresholds that verification takes from other folds."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError


@dataclass(frozen=True)
class Roc:
    """Points of a ROC curve from the strictest threshold to the loosest.

    Attributes:
        far: (m,) share of impostor weight accepted, ascending from 0 to 1.
        tar: (m,) share of genuine weight accepted, ascending from 0 to 1.
        thresholds: (m,) a comparison is accepted at score >= threshold; the first is +inf.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray


def roc_curve(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
    """ROC points at every distinct score that carries weight; equal scores are accepted together.

    Args:
        scores: (n,) similarities; sorted descending they are used as they are, which saves the sort.
        same: (n,) bool, genuine comparisons.
        weights: (n,) >= 0, default 1.

    Returns:
        NaN rates where there is no impostor or no genuine weight.
    """
    if len(scores) > 1 and not (scores[:-1] >= scores[1:]).all():
        order = np.argsort(-scores, kind="stable")
        scores, same = scores[order], same[order]
        weights = None if weights is None else weights[order]
    genuine = same.astype(np.float64) if weights is None else weights * same
    impostor = (~same).astype(np.float64) if weights is None else weights - genuine
    ends = np.append(scores[:-1] != scores[1:], len(scores) > 0)[: len(scores)]
    last = np.flatnonzero(ends)  # where a run of equal scores ends
    accepted_genuine = np.concatenate([[0.0], np.cumsum(genuine)[last]])
    accepted_impostor = np.concatenate([[0.0], np.cumsum(impostor)[last]])
    thresholds = np.concatenate([[np.inf], scores[last]])
    if weights is not None:
        # A resample may leave out every comparison at a score; such a point repeats the one before.
        moved = (np.diff(accepted_genuine) > 0) | (np.diff(accepted_impostor) > 0)
        keep = np.concatenate([[True], moved])
        accepted_genuine, accepted_impostor = accepted_genuine[keep], accepted_impostor[keep]
        thresholds = thresholds[keep]
    with np.errstate(invalid="ignore"):
        far = accepted_impostor / accepted_impostor[-1]
        tar = accepted_genuine / accepted_genuine[-1]
    return Roc(far, tar, thresholds)


def without_intermediate(roc: Roc) -> Roc:
    """The curve without points inside straight, evenly spaced stretches, as scikit-learn draws it.

    The curve stays the same, but the point *nearest* to a FAR can become another one; published IJB numbers
    come from the curve without them.
    """
    if len(roc.far) <= 3:
        return roc
    keep = np.ones(len(roc.far), dtype=bool)
    # Rates are multiples of 1/n: a relative tolerance tells equal steps from rounding.
    bent = [~np.isclose(np.diff(rates[1:], 2), 0, atol=1e-13) for rates in (roc.far, roc.tar)]
    keep[2:-1] = bent[0] | bent[1]  # the origin is added to the curve afterwards, so two points stay
    return Roc(roc.far[keep], roc.tar[keep], roc.thresholds[keep])


def tar_at_most(roc: Roc, far: float) -> float:
    """The largest TAR among points with FAR <= far (the strict reading of TAR@FAR)."""
    return float(roc.tar[threshold_index(roc, far)])


def threshold_index(roc: Roc, far: float) -> int:
    """The loosest point with FAR <= far."""
    # The rates are sums of ones divided by their total: do not let rounding exclude an exact hit.
    return int(np.searchsorted(roc.far, far * (1 + 1e-12), side="right")) - 1


def tar_at_nearest(roc: Roc, far: float) -> float:
    """TAR at the point whose FAR is nearest to ``far``, which may lie above it; of equals, the loosest."""
    distance = np.abs(roc.far - far)
    return float(roc.tar[len(distance) - 1 - int(np.argmin(distance[::-1]))])


def tars(
    scores: np.ndarray, same: np.ndarray, weights: np.ndarray, fars: Sequence[float]
) -> tuple[list[float], list[float]]:
    """TAR at each FAR, nearest and at most, without the whole curve: two running sums and a search.

    The readings equal :func:`tar_at_nearest` and :func:`tar_at_most` of :func:`roc_curve`. Made for resamples
    of many millions of comparisons.

    Args:
        scores: (n,) similarities, sorted descending.
        same, weights: as for :func:`roc_curve`.
    """
    genuine = np.where(same, weights, 0.0)
    impostor = weights - genuine
    np.cumsum(genuine, out=genuine)
    np.cumsum(impostor, out=impostor)
    if not len(scores) or genuine[-1] == 0 or impostor[-1] == 0:
        return [float("nan")] * len(fars), [float("nan")] * len(fars)
    nearest, strict = [], []
    for far in fars:
        wanted = far * impostor[-1]
        below = _run_start(scores, int(np.searchsorted(impostor, wanted * (1 + 1e-12), side="right")))
        under = (float(impostor[below - 1]), float(genuine[below - 1])) if below else (0.0, 0.0)
        strict.append(under[1] / genuine[-1])
        nearest.append(under[1] / genuine[-1])
        if below < len(scores):
            first_above = _run_end(scores, below)
            level = impostor[first_above]
            # Of all points at this FAR the loosest: genuine pairs follow without a further impostor.
            last = _run_start(scores, int(np.searchsorted(impostor, level, side="right"))) - 1
            if level - wanted <= wanted - under[0]:
                nearest[-1] = float(genuine[max(last, first_above)] / genuine[-1])
    return nearest, strict


def _run_start(scores: np.ndarray, i: int) -> int:
    """The first position of the run of equal scores that position i (may be n) lies in."""
    return i if i >= len(scores) else bisect_left(scores, -scores[i], key=lambda score: -score)


def _run_end(scores: np.ndarray, i: int) -> int:
    """The last position of the run of equal scores that position i lies in."""
    return bisect_right(scores, -scores[i], key=lambda score: -score) - 1


def area(roc: Roc) -> float:
    """Area under the curve (trapezoids)."""
    return float(np.trapezoid(roc.tar, roc.far))


def equal_error_rate(roc: Roc) -> float:
    """Where FAR = 1 - TAR, interpolated linearly between points."""
    excess = roc.far - (1 - roc.tar)
    if not np.isfinite(excess).all():
        return float("nan")
    return float(np.interp(0.0, excess, roc.far))


def far_name(far: float) -> str:
    """``1e-4`` for 0.0001, ``0.05`` for what is no power of ten."""
    text = f"{far:.0e}".replace("e-0", "e-")
    return text if float(text) == far and far < 0.1 else f"{far:g}"


def tar_names(fars: Sequence[float], sign: str) -> list[str]:
    """Metric names, ``tar@far<=1e-4`` (sign "<=", at most) or ``tar@far=1e-4`` ("=", nearest)."""
    return [f"tar@far{sign}{far_name(far)}" for far in fars]


def decisions(
    style: str, scores: np.ndarray, same: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong decisions of pairs at the threshold that the other folds choose.

    Args:
        style: a key of ``STYLES``.
        scores: (m,) cosines.
        same: (m,) bool.
        folds: (m,) fold numbers 0 ... F - 1, F >= 2.

    Returns:
        (m,) bool, and (F,) thresholds: cosines, from which on a pair counts as the same, but of insightface
        squared distances, below which it does.

    Raises:
        KdbiasError: there is one fold alone.
    """
    how, count = STYLES[style], int(folds.max()) + 1
    if count < 2:
        raise KdbiasError("verification needs two folds or more: the threshold of one comes from the others")
    values = 2 - 2 * scores if how.distances else scores
    correct = np.zeros(len(values), dtype=bool)
    chosen = np.empty(count)
    for fold in range(count):
        test, train = folds == fold, folds != fold
        steps = how.grid(values[train])
        genuine, impostor = np.sort(values[train & same]), np.sort(values[train & ~same])
        accepted = [np.searchsorted(part, steps, side="left") for part in (genuine, impostor)]
        if not how.distances:
            accepted = [len(genuine) - accepted[0], len(impostor) - accepted[1]]
        sizes = [max(len(part), 1) if how.youden else 1 for part in (genuine, impostor)]
        rates = accepted[0] / sizes[0] - accepted[1] / sizes[1]
        equal = np.flatnonzero(rates == rates.max())
        chosen[fold] = steps[equal[len(equal) // 2 if how.middle else 0]]
        said_same = values[test] < chosen[fold] if how.distances else values[test] >= chosen[fold]
        correct[test] = said_same == same[test]
    return correct, chosen


def _span_steps(train: np.ndarray) -> np.ndarray:
    """1,000 thresholds, evenly over the range of the scores."""
    low, high = train.min(), train.max()
    return low + (high - low) / 1000 * np.arange(1, 1001)


def _midpoints(train: np.ndarray) -> np.ndarray:
    """Thresholds between neighbouring distinct scores, and one beyond each end."""
    levels = np.unique(train)
    return np.concatenate([levels[:1], (levels[:-1] + levels[1:]) / 2, levels[-1:] + 1])


@dataclass(frozen=True)
class Style:
    """How a threshold is found: among which values, by which rate, the middle or the first of the best.

    Attributes:
        grid: scores (train,) -> thresholds (k,) to try.
        youden: by the true less the false accept rate, not by the number of right decisions.
        distances: scores are squared distances, not cosines.
        middle: of several equally good the middle one, not the first.
    """

    grid: Callable[[np.ndarray], np.ndarray]
    youden: bool = False
    distances: bool = False
    middle: bool = False


STYLES = {
    "insightface": Style(lambda _: np.arange(400) / 100, distances=True),
    "facex": Style(_span_steps, youden=True),
    "exact": Style(_midpoints, middle=True),
}
"""The published ways, see `kdbias.evaluation.verification`."""
