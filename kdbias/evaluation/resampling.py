"""Bootstrap intervals: weigh the units again and again as resampling would, and score each time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Columns = Mapping[str, np.ndarray]
Score = Callable[[Columns, np.ndarray], dict[str, float]]

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A metric with its percentile interval; None where it is undefined or was not resampled."""

    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "standard_error": self.standard_error,
        }


def resampled_weights(
    n: int, repeats: int, seed: int, clusters: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """How often each of n units occurs in each of ``repeats`` resamples with replacement.

    Args:
        n: number of units.
        repeats: number of resamples.
        seed: of the random generator.
        clusters: what is resampled. None: the units themselves. (n,) integer codes: whole clusters, so that
            units of one subject stay together. (n, 2) codes: both subjects of a pair are resampled; a pair
            of one subject counts as often as that subject was drawn, a pair of two subjects as often as the
            product of both counts (the vertex bootstrap of a graph, with pairs as edges).

    Yields:
        (n,) float64 weights, drawn one resample after the other.
    """
    rng = np.random.default_rng(seed)
    between = None
    if clusters is not None and clusters.ndim == 2:
        between = clusters[:, 0] != clusters[:, 1]
    total = n if clusters is None else int(clusters.max(initial=-1)) + 1
    for _ in range(repeats):
        counts = np.bincount(rng.integers(total, size=total), minlength=total).astype(np.float64)
        if clusters is None:
            yield counts
        elif between is None:
            yield counts[clusters]
        else:
            weights = counts[clusters[:, 0]]
            np.multiply(weights, counts[clusters[:, 1]], out=weights, where=between)
            yield weights


def bootstrap(
    score: Score,
    columns: Columns,
    subsets: Sequence[np.ndarray | None],
    resamples: Iterator[np.ndarray],
) -> list[dict[str, Estimate]]:
    """Score subsets of the units, each with a percentile interval from the same resamples.

    Args:
        score: metrics of weighted units; NaN where a metric is undefined for them.
        columns: per-unit results, arrays of length n.
        subsets: for each result wanted, the rows it uses (None = all).
        resamples: weights of all n units, see :func:`resampled_weights`.

    Returns:
        One dictionary metric -> Estimate for each subset.
    """
    slices = [columns if rows is None else take(columns, rows) for rows in subsets]
    values = [score(part, np.ones(_length(part))) for part in slices]
    draws: list[dict[str, list[float]]] = [{name: [] for name in found} for found in values]
    for weights in resamples:
        for part, rows, kept in zip(slices, subsets, draws, strict=True):
            for name, value in score(part, weights if rows is None else weights[rows]).items():
                kept[name].append(value)
    return [
        {name: summarize(value, np.asarray(kept[name])) for name, value in found.items()}
        for found, kept in zip(values, draws, strict=True)
    ]


def summarize(value: float, draws: np.ndarray) -> Estimate:
    """The estimate from its value on the data and on resamples; NaN draws (metric undefined) are left out.

    Where more than half of the draws are NaN no interval is given.
    """
    if not np.isfinite(value):
        return Estimate(None)
    usable = draws[np.isfinite(draws)]
    if len(usable) < 2 or 2 * len(usable) < len(draws):
        return Estimate(float(value))
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), float(usable.std(ddof=1)))


def difference(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> tuple[Estimate, float | None]:
    """How much the second side's mean over its runs exceeds the first's.

    With one run a side the interval is the percentile one of the resamples: it covers the choice of test
    units alone. A few runs of other training seeds cannot be resampled like units (of three, 95 % intervals
    would hold the truth in 82 to 92 %). With several the interval is value +- t sqrt(V), where V is the
    variance over resamples plus s^2 / r of each side, s^2 the variance between its r runs, and t the quantile
    at the degrees of freedom of Welch and Satterthwaite. Noise of single runs on single units is in both
    parts, so the interval errs to the wide side. A side of one run adds nothing to V.

    Args:
        a, b: (r,) metric of each run of a side over all units.
        draws: (repeats,) difference of the means of the same runs on each resample of the units.

    Returns:
        The estimate, and the two-sided p-value; None where there is no interval.
    """
    value = float(b.mean() - a.mean())
    found = summarize(value, draws)
    if found.standard_error is None:
        return found, None
    runs = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (a, b) if len(side) > 1]
    if not runs:
        usable = draws[np.isfinite(draws)]
        tail = min((usable <= 0).sum(), (usable >= 0).sum())
        return found, float(min(1.0, 2 * (tail + 1) / (len(usable) + 1)))
    from scipy.stats import t

    variance = found.standard_error**2 + sum(part for part, _ in runs)
    uncertain = sum(part**2 / freedom for part, freedom in runs)
    freedom = variance**2 / uncertain if uncertain > 0 else math.inf
    error = math.sqrt(variance)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    return Estimate(value, value - half, value + half, error), p_value


def take(columns: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in columns.items()}


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean under weights; NaN where all weights are zero."""
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else float("nan")


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values()), np.empty(0)))


def json_estimates(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}
