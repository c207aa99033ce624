"""Every arm against the baseline of its case: what tables and plots both show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias.studies.results import Row
from kdbias.studies.settings import BASELINE, Study
from kdbias.studies.statistics import Correlation, Difference, paired_difference, rank_correlation

PREDICTORS = ("uniformity", "effective_distinct", "ess_share")
_SIGN = {"uniformity": -1.0}


@dataclass(frozen=True)
class Compared:
    """One arm of one case by one metric.

    mean, std    over the arm's seeds (std None for one seed)
    difference   to the baseline's, paired by seed; None for the baseline itself
    gain         share of the baseline's mean error that the arm removes, with its interval: the error is
                 the metric where less is better, else 1 - metric
    """

    arm: str
    facts: dict[str, Any]
    mean: float
    std: float | None
    difference: Difference | None
    gain: tuple[float, float | None, float | None]
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
        return self.rows[0].dataset

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(row.arm for row in self.rows))

    def of(self, arm: str) -> list[Row]:
        return [row for row in self.rows if row.arm == arm]

    def values(self, arm: str, metric: str) -> dict[int, float]:
        """Seed -> value."""
        return {row.seed: row.metrics[metric] for row in self.of(arm) if metric in row.metrics}

    def lower_is_better(self, metric: str) -> bool:
        return any(row.lower_is_better.get(metric, False) for row in self.rows)

    def compare(self, arm: str, metric: str, baseline: str = BASELINE) -> Compared | None:
        """None where the arm or the baseline has no such metric."""
        ours, theirs = self.values(arm, metric), self.values(baseline, metric)
        if not ours or not theirs:
            return None
        lower = self.lower_is_better(metric)
        found = list(ours.values())
        difference = None if arm == baseline else paired_difference(ours, theirs, lower)
        normal = float(np.mean(list(theirs.values())))
        error = normal if lower else 1 - normal
        scale = (-1 if lower else 1) / error if error > 0 else float("nan")
        gain: tuple[float, float | None, float | None] = (0.0, None, None)
        if difference is not None:
            ends = [v for v in (difference.low, difference.high) if v is not None]
            ordered = sorted(scale * v for v in ends)
            low, high = ordered if ordered else (None, None)
            gain = (scale * difference.mean, low, high)
        return Compared(
            arm=arm,
            facts=self.of(arm)[0].facts,
            mean=float(np.mean(found)),
            std=float(np.std(found, ddof=1)) if len(found) > 1 else None,
            difference=difference,
            gain=gain,
            gains_by_seed=tuple(scale * (ours[s] - theirs[s]) for s in sorted(set(ours) & set(theirs))),
        )


def cases_of(study: Study, rows: Sequence[Row]) -> list[CaseRows]:
    """The rows by round and case, in the order of the description."""
    found = []
    for round_ in study.rounds:
        for data in study.data.values():
            for bias in data.bias:
                name = f"{data.name}/{bias}"
                own = tuple(row for row in rows if row.round == round_ and row.case == name)
                if own:
                    found.append(CaseRows(round_, name, own, data.primary, tuple(study.arms)))
    return found


def correlate(
    cases: Iterable[CaseRows], predictor: str, metric: str | None = None, repeats: int = 1000
) -> Correlation | None:
    """Does a measure of the sampled data order the arms as their gains do?

    Arms that are distilled through the same sampler, natural among them. `metric` is the case's first
    primary one by default; larger measures and gains count as better.
    """
    prepared = []
    for case in cases:
        name = metric or case.primary[0]
        measures, gains = [], []
        for arm in case.arms:
            first = case.of(arm)[0]
            found = case.compare(arm, name)
            measure = first.facts.get(predictor)
            if first.scratch or first.facts["sampling"] != "systematic" or found is None or measure is None:
                continue
            measures.append(_SIGN.get(predictor, 1.0) * measure)
            gains.append(found.gains_by_seed)
        prepared.append((measures, gains))
    return rank_correlation(prepared, repeats)
