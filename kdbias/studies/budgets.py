"""The same draw trained for different numbers of steps: what an arm saves of natural sampling's compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.studies.comparisons import CaseRows
from kdbias.studies.description import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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

    def curve(self, arm: str, metric: str) -> tuple[list[int], list[float]]:
        """Steps and mean value over seeds."""
        steps = [case.of(arm)[0].facts["steps"] for case in self.cases]
        return steps, [float(np.mean(list(case.values(arm, metric).values()))) for case in self.cases]

    def equivalent_steps(self, arm: str, metric: str, place: int) -> float | None:
        """Steps that natural sampling needs for what `arm` reaches in the case at `place`.

        Interpolated between the cases, linearly in log steps. None where natural never gets there, or was
        there before its fewest steps: neither is measured.
        """
        steps, natural = self.curve(BASELINE, metric)
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


def draw_budget(axes: Axes, budget: Budget, looks: dict[str, tuple[Any, str]]) -> None:
    """The first metric against steps, a line an arm."""
    metric = budget.cases[0].primary[0]
    for arm in budget.arms:
        color, marker = looks.get(arm, ("black", "+"))
        axes.plot(*budget.curve(arm, metric), color=color, marker=marker, markersize=4, label=arm)
    steps = budget.curve(BASELINE, metric)[0]
    axes.set_xscale("log")
    axes.set_xticks(steps, [f"{step:,}" for step in steps])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.set_ylabel(metric)
    axes.set_title(budget.name)
