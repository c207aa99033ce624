"""What a study concludes: paired differences with intervals, and rank correlations with theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEW_SEEDS = 3
"""Of fewer, an interval says too little of what another seed would give: nothing is called decided."""
_ENDS = (0.025, 0.975)  # of 95 % intervals


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, whose ends are NaN where a single seed gives none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def times(self, factor: float) -> Estimate:
        """The value and its interval in another unit."""
        return Estimate(factor * self.value, *sorted([factor * self.low, factor * self.high]))

    def write(self, digits: int) -> str:
        """``+1.2 [-0.3, +2.7]`` with these decimals."""
        value, low, high = (f"{v:+.{digits}f}" for v in (self.value, self.low, self.high))
        return value if math.isnan(self.low) else f"{value} [{low}, {high}]"


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """Mean paired difference with its t interval over seeds.

    seeds      pairs that were compared
    better     +1 or -1 where the interval excludes 0 and the first side is better or worse; else 0, as it is
               for fewer than `FEW_SEEDS`, too few to tell
    """

    seeds: int
    better: int

    @property
    def mark(self) -> str:
        """The sign of better or worse; '' for undecided."""
        return {1: " ▲", -1: " ▼"}.get(self.better, "")


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], lower_is_better: bool
) -> Difference | None:
    """`ours` - `theirs` (seed -> value) over the seeds that both have; None where they share none."""
    from scipy import stats

    d = np.array([ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))])
    if not len(d):
        return None
    mean = float(d.mean())
    if len(d) < 2:
        return Difference(mean, seeds=1, better=0)
    half = float(stats.t.ppf(_ENDS[1], len(d) - 1)) * float(d.std(ddof=1)) / math.sqrt(len(d))
    low, high = mean - half, mean + half
    sign = (int(low > 0) - int(high < 0)) * (len(d) >= FEW_SEEDS)
    return Difference(mean, low, high, seeds=len(d), better=-sign if lower_is_better else sign)


@dataclass(frozen=True, kw_only=True)
class Regret:
    """How much worse than the best arm an arm is, as a share of the baseline's error.

    by_case     where the arm was run
    worst       the largest of them
    everywhere  whether it was run in all cases
    """

    arm: str
    by_case: Mapping[str, Estimate]
    worst: Estimate
    everywhere: bool


def regrets(
    cases: Mapping[str, Mapping[str, Mapping[int, float]]], baseline: str, repeats: int = 2000, seed: int = 0
) -> list[Regret]:
    """The regret of every arm in every case and its worst, least worst first.

    In a case it is (mean error - the least mean error of any arm) / mean error of the baseline. The intervals
    are percentiles over resamples of each case's seeds, alike for its arms; in each resample the best arm and
    the worst case are sought anew.

    Args:
        cases: case -> arm -> seed -> error, above 0 for the baseline. Seeds that the baseline lacks do not
            count; an arm that lacks one of its seeds is left out of the case.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, np.ndarray]] = {}
    for case, errors in cases.items():
        seeds = sorted(errors[baseline])
        whole = {arm: [own[s] for s in seeds] for arm, own in errors.items() if own.keys() >= set(seeds)}
        table = np.array(list(whole.values()))
        picks = np.vstack([np.arange(len(seeds)), rng.integers(len(seeds), size=(repeats, len(seeds)))])
        means = table[:, picks].mean(axis=2)  # the first column as measured, then resamples
        regret = (means - means.min(axis=0)) / means[list(whole).index(baseline)]
        for arm, values in zip(whole, regret, strict=True):
            found.setdefault(arm, {})[case] = values if len(seeds) > 1 else values[:1]
    done = []
    for arm, own in found.items():
        shortest = min(len(values) for values in own.values())
        worst = np.max([values[:shortest] for values in own.values()], axis=0)
        by_case = {case: _resampled_estimate(values) for case, values in own.items()}
        everywhere = len(own) == len(cases)
        done.append(Regret(arm=arm, by_case=by_case, worst=_resampled_estimate(worst), everywhere=everywhere))
    return sorted(done, key=lambda regret: regret.worst.value)


def _resampled_estimate(values: np.ndarray) -> Estimate:
    """The first value with the percentile interval of the others; none without others."""
    ends = map(float, np.quantile(values[1:], _ENDS) if len(values) > 1 else ())
    return Estimate(float(values[0]), *ends)


@dataclass(frozen=True, kw_only=True)
class Correlation(Estimate):
    """Spearman's rank correlation over arms, with a percentile bootstrap interval."""

    arms: int
    cases: int


def rank_correlation(
    cases: Sequence[tuple[Sequence[float], Sequence[Sequence[float]]]], repeats: int = 1000, seed: int = 0
) -> Correlation | None:
    """Mean over cases of Spearman's correlation between a measure of each arm and its mean gain.

    Each bootstrap resample redraws the cases, within each its arms, and each arm's seeds. The seeds' luck,
    which is in the arms' mean gains already, counts twice by that: the interval is conservative. Over 4 to 11
    arms it held the true correlation in 92 to 100 % of simulated trials, and without any effect it excluded 0
    in about 1 % of them, not in 5 %. Redrawing arms alone, or Fisher's z, keeps the 5 %, but where 4 arms
    correlated by 0.95 both held the truth in 45 % of trials.

    Args:
        cases: for each, the measure of each arm, and of each arm the gains by seed (larger = better).

    Returns:
        None where no case has three arms of differing measure. `arms` counts those of all cases.
    """
    usable, points = [], []
    for measure, gains in cases:
        case = np.asarray(measure, float), [np.asarray(gain, float) for gain in gains]
        rho = float(_spearman(case[0], np.array([gain.mean() for gain in case[1]])))
        if len(measure) >= 3 and not math.isnan(rho):
            usable.append(case)
            points.append(rho)
    if not usable:
        return None
    values = _resampled(usable, repeats, seed)
    ends = map(float, np.quantile(values, _ENDS) if len(values) else ())
    arms = sum(len(measure) for measure, _ in usable)
    return Correlation(float(np.mean(points)), *ends, arms=arms, cases=len(usable))


def _resampled(cases: Sequence[tuple[np.ndarray, list[np.ndarray]]], repeats: int, seed: int) -> np.ndarray:
    """The mean correlation of each bootstrap resample that has one."""
    rng = np.random.default_rng(seed)
    drawn: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in cases]
    for repeat in range(repeats):
        for i in rng.integers(len(cases), size=len(cases)):
            measure, gains = cases[i]
            arms = rng.integers(len(measure), size=len(measure))
            drawn[i].append((repeat, measure[arms], _resampled_means([gains[a] for a in arms], rng)))
    # ranked all at once, a case at a time: an interval takes thousands of correlations
    of_repeat, sums = np.zeros(repeats, int), np.zeros(repeats)
    for places, measures, means in (map(np.array, zip(*case, strict=True)) for case in drawn if case):
        rhos = _spearman(measures, means)
        np.add.at(of_repeat, places, ~np.isnan(rhos))
        np.add.at(sums, places, np.nan_to_num(rhos))
    return sums[of_repeat > 0] / of_repeat[of_repeat > 0]


def _resampled_means(gains: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(arms,) means of each arm's seeds, drawn with replacement."""
    sizes = np.array([len(g) for g in gains])
    picks = np.floor(rng.random((len(gains), sizes.max())) * sizes[:, None]).astype(int)
    table = np.zeros(picks.shape)
    counted = np.arange(sizes.max()) < sizes[:, None]
    table[counted] = np.concatenate(gains)
    return (np.take_along_axis(table, picks, axis=1) * counted).sum(axis=1) / sizes


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation of (..., n) values along the last axis; NaN where one side is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (a, b))
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
