"""Every arm against the baseline of its case: what tables and plots show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias.studies.arms import BASELINE
from kdbias.studies.results import Outline, Row
from kdbias.studies.statistics import (
    FEW_SEEDS,
    Correlation,
    Difference,
    Estimate,
    Regret,
    paired_difference,
    rank_correlation,
    regrets,
)
from kdbias.wording import counted

PREDICTORS = ("uniformity", "effective_distinct", "ess_share")
_SIGN = {"uniformity": -1.0}


@dataclass(frozen=True)
class Compared:
    """One arm of one case by one metric.

    mean, std    over the arm's seeds (std NaN for one seed)
    difference   to the baseline's, paired by seed; None for the baseline itself
    gain         share of the baseline's mean error that the arm removes: the error is the metric where less
                 is better, else 1 - metric
    """

    arm: str
    mean: float
    std: float
    difference: Difference | None
    gain: Estimate
    gains_by_seed: tuple[float, ...]


@dataclass(frozen=True)
class CaseRows:
    """The finished runs of one case in one round."""

    round: str
    name: str
    rows: tuple[Row, ...]
    primary: tuple[str, ...]
    study_arms: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.rows[0].dataset

    @property
    def arms(self) -> list[str]:
        """The arms that have rows, in their order."""
        return list(dict.fromkeys(row.arm for row in self.rows))

    @property
    def distilled(self) -> list[str]:
        """The arms with a teacher."""
        return [arm for arm in self.arms if not self.of(arm)[0].scratch]

    @property
    def through_one_sampler(self) -> list[str]:
        """Those of them that draw by the same sampler, natural among them."""
        return [arm for arm in self.distilled if self.facts(arm)["sampling"] == "systematic"]

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len({row.seed for row in self.rows})

    def facts(self, arm: str) -> dict[str, Any]:
        """What an arm's first row says beside its metrics."""
        return self.of(arm)[0].facts

    def of(self, arm: str) -> list[Row]:
        """The rows of an arm, one a seed."""
        return [row for row in self.rows if row.arm == arm]

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """Seed -> value."""
        return {row.seed: row.metrics[metric] for row in self.of(arm) if metric in row.metrics}

    def errors(self, arm: str, metric: str) -> dict[int, float]:
        """Seed -> error: the metric where less is better, else 1 - metric."""
        lower = self.lower_is_better(metric)
        return {seed: value if lower else 1 - value for seed, value in self.values(arm, metric).items()}

    def lower_is_better(self, metric: str) -> bool:
        """Whether less of a metric is better."""
        return any(row.lower_is_better.get(metric, False) for row in self.rows)

    def compare(self, arm: str, metric: str, baseline: str = BASELINE) -> Compared | None:
        """None where the arm or the baseline has no such metric."""
        ours, theirs = self.values(arm, metric), self.values(baseline, metric)
        if not ours or not theirs:
            return None
        lower = self.lower_is_better(metric)
        difference = None if arm == baseline else paired_difference(ours, theirs, lower)
        error = float(np.mean(list(self.errors(baseline, metric).values())))
        scale = (-1 if lower else 1) / error if error > 0 else math.nan
        mean, std = _mean_and_std(ours.values())
        return Compared(
            arm=arm,
            mean=mean,
            std=std,
            difference=difference,
            gain=Estimate(0.0) if difference is None else difference.times(scale),
            gains_by_seed=tuple(scale * (ours[s] - theirs[s]) for s in sorted(set(ours) & set(theirs))),
        )


def _mean_and_std(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of values, of which there is one at least; NaN for that of one."""
    found = list(values)
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else math.nan


def cases_of(outline: Outline, rows: Sequence[Row]) -> list[CaseRows]:
    """The rows by round and case, in the order of the description."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.round, row.case), []).append(row)
    return [
        CaseRows(
            round_,
            case,
            tuple(found[round_, case]),
            outline.primary[case.partition("/")[0]],
            tuple(outline.needs),
        )
        for round_, case in itertools.product(outline.rounds, outline.cases)
        if (round_, case) in found
    ]


def few_seeds(cases: Iterable[CaseRows]) -> str:
    """A sentence where some case has too few seeds for anything to be decided; else empty."""
    fewest = min((case.seeds for case in cases), default=FEW_SEEDS)
    if fewest >= FEW_SEEDS:
        return ""
    return f"{counted(fewest, 'seed')}: too few to tell; nothing is called decided under {FEW_SEEDS}"


def correlate(
    cases: Iterable[CaseRows], predictor: str, metric: str | None = None, repeats: int = 1000
) -> Correlation | None:
    """Does a measure of the sampled data order the arms as their gains do?

    Arms that are distilled through the same sampler, natural among them. `metric` is the case's first
    primary one by default; larger measures and gains count as better.
    """
    prepared = []
    for case in cases:
        measured = []
        for arm in case.through_one_sampler:
            measure, found = case.facts(arm).get(predictor), case.compare(arm, metric or case.primary[0])
            if found is not None and measure is not None:
                measured.append((_SIGN.get(predictor, 1.0) * measure, found.gains_by_seed))
        prepared.append(([measure for measure, _ in measured], [gains for _, gains in measured]))
    return rank_correlation(prepared, repeats)


def regrets_of(cases: Iterable[CaseRows]) -> list[Regret]:
    """The regret of every arm that has a teacher, by each case's first metric."""
    errors = {}
    for case in cases:
        metric, natural = case.primary[0], case.compare(BASELINE, case.primary[0])
        if natural is not None and natural.mean != (0.0 if case.lower_is_better(metric) else 1.0):
            errors[case.name] = {arm: case.errors(arm, metric) for arm in case.distilled}
    return regrets(errors, BASELINE)


@dataclass(frozen=True)
class Budget:
    """Cases of one draw that differ in their steps, fewest first."""

    cases: tuple[CaseRows, ...]

    @property
    def name(self) -> str:
        """The data set and its biases."""
        return self.cases[0].dataset + ": " + ", ".join(case.name.partition("/")[2] for case in self.cases)

    @property
    def metric(self) -> str:
        """The first primary one."""
        return self.cases[0].primary[0]

    @property
    def arms(self) -> list[str]:
        """Arms that have the metric in every case."""
        return [a for a in self.cases[0].arms if all(case.values(a, self.metric) for case in self.cases)]

    def steps(self, arm: str = BASELINE) -> list[int]:
        """Those of an arm's students in each case."""
        return [case.facts(arm)["steps"] for case in self.cases]

    def curve(self, arm: str) -> tuple[list[float], list[float]]:
        """Mean value over seeds in each case, and its standard deviation (ddof 1, NaN for one seed)."""
        found = [_mean_and_std(case.values(arm, self.metric).values()) for case in self.cases]
        return [mean for mean, _ in found], [std for _, std in found]

    def equivalent_steps(self, arm: str, place: int) -> float | None:
        """Steps that natural sampling needs for what `arm` reaches in the case at `place`.

        Interpolated between the cases, linearly in log steps. None where natural never gets there, or was
        there before its fewest steps: neither is measured.
        """
        sign = -1 if self.cases[0].lower_is_better(self.metric) else 1
        wanted = sign * self.curve(arm)[0][place]
        natural, steps = [sign * value for value in self.curve(BASELINE)[0]], np.log(self.steps())
        for i, (low, high) in enumerate(itertools.pairwise(natural)):
            if low <= wanted <= high and low < high:
                return float(np.exp(np.interp(wanted, [low, high], steps[i : i + 2])))
        return None


def budgets_of(cases: Sequence[CaseRows]) -> list[Budget]:
    """Groups of two cases or more that share their draw and differ in steps."""
    groups: dict[tuple[str, str], list[CaseRows]] = {}
    for case in cases:
        if case.of(BASELINE):
            groups.setdefault((case.dataset, case.rows[0].facts["draw"]), []).append(case)
    found = [Budget(tuple(sorted(g, key=lambda case: case.rows[0].facts["steps"]))) for g in groups.values()]
    return [budget for budget in found if len(set(budget.steps())) == len(budget.cases) > 1]
