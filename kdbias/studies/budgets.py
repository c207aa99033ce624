"""The same draw trained for different numbers of steps: what an arm saves of natural sampling's compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.studies.comparisons import CaseRows
from kdbias.studies.settings import BASELINE


@dataclass(frozen=True)
class Budget:
    """Cases of one draw that differ in their steps, fewest first."""

    cases: tuple[CaseRows, ...]

    @property
    def name(self) -> str:
        return self.cases[0].dataset + ": " + ", ".join(case.name.partition("/")[2] for case in self.cases)

    @property
    def arms(self) -> list[str]:
        """Arms that every case has."""
        return [arm for arm in self.cases[0].arms if all(case.of(arm) for case in self.cases)]

    def curve(self, arm: str, metric: str) -> tuple[list[int], list[float], list[float]]:
        """Steps, mean value over seeds and its standard deviation (ddof 1, NaN for one seed)."""
        steps = [case.of(arm)[0].facts["steps"] for case in self.cases]
        values = [list(case.values(arm, metric).values()) for case in self.cases]
        spreads = [float(np.std(v, ddof=1)) if len(v) > 1 else math.nan for v in values]
        return steps, [float(np.mean(v)) for v in values], spreads

    def equivalent_steps(self, arm: str, metric: str, place: int) -> float | None:
        """Steps that natural sampling needs for what `arm` reaches in the case at `place`.

        Interpolated between the cases, linearly in log steps. None where natural never gets there, or was
        there before its fewest steps: neither is measured.
        """
        steps, natural, _ = self.curve(BASELINE, metric)
        sign = -1 if self.cases[0].lower_is_better(metric) else 1
        wanted = sign * self.curve(arm, metric)[1][place]
        reached = [sign * value for value in natural]
        for i in range(len(steps) - 1):
            low, high = reached[i], reached[i + 1]
            if low <= wanted <= high and low < high:
                share = (wanted - low) / (high - low)
                return math.exp(math.log(steps[i]) + share * (math.log(steps[i + 1]) - math.log(steps[i])))
        return None


def budgets_of(cases: Sequence[CaseRows]) -> list[Budget]:
    """Groups of two cases or more that share their draw and differ in steps."""
    groups: dict[tuple[str, str], list[CaseRows]] = {}
    for case in cases:
        if case.of(BASELINE):
            groups.setdefault((case.dataset, case.rows[0].facts["draw"]), []).append(case)
    found = []
    for group in groups.values():
        group.sort(key=lambda case: case.rows[0].facts["steps"])
        if len({case.rows[0].facts["steps"] for case in group}) == len(group) > 1:
            found.append(Budget(tuple(group)))
    return found
