"""Which runs a study consists of, as far as they can be named yet, and the learning rates that they take.

Rates are tuned for natural sampling alone and then used by every arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.studies.cases import Case
from kdbias.studies.preparation import locate
from kdbias.studies.runs import RunPlan, metric_of, read_result
from kdbias.studies.settings import BASELINE, Arm, Machine, Study


@dataclass(frozen=True)
class Plan:
    """A description in its output folder.

    A run can be named once the biased samples are drawn and the learning rate is tuned; until then it only
    counts as missing.
    """

    study: Study
    out: Path
    machine: Machine
    only: tuple[str, ...] = ()

    @cached_property
    def cases(self) -> dict[str, Case]:
        """All cases by name ("DATASET/BIAS"), less those that `only` leaves out and whose data are not here.

        Raises:
            KdbiasError: data that are asked for cannot be read.
        """
        asked = {name.partition("/")[0] for name in self.only}
        found = dict[str, Case]()
        for data in self.study.data.values():
            try:
                prepared = locate(data, self.out)
            except KdbiasError:
                if not asked or data.name in asked:
                    raise
                continue
            found |= {case.name: case for case in (Case(prepared, bias) for bias in data.bias.values())}
        return found

    @property
    def chosen(self) -> list[Case]:
        """The cases named by `only` as "DATASET" or "DATASET/BIAS"; all where it is empty."""
        only = self.only
        return [c for n, c in self.cases.items() if not only or n in only or c.prepared.data.name in only]

    def tuned_on(self, case: Case) -> Case | None:
        """The case on which a case's learning rates are tuned."""
        tune = case.data.tune
        return None if tune is None else self.cases[f"{case.data.name}/{tune.bias}"]

    def arms(self, case: Case) -> list[Arm]:
        """The arms of a case over all rounds, in the order of the file."""
        found = dict[str, Arm]()
        for round_ in self.study.rounds.values():
            if round_.has(case.name):
                found |= {arm.name: arm for arm in self.study.arms_of(case.data, case.bias, round_)}
        return [arm for arm in self.study.arms.values() if arm.name in found]

    def needed_arms(self, case: Case) -> list[Arm]:
        """The arms whose manifests a case needs: its own, and the baselines that are tuned on it."""
        found = {arm.name: arm for arm in self.arms(case)}
        if case in (self.tuned_on(other) for other in self.cases.values()):
            found |= {run.arm.name: run.arm for run in self._named_tuning(case)}
        return list(found.values())

    def _named_tuning(self, case: Case) -> list[RunPlan]:
        data = case.data
        others = [c for c in self.cases.values() if c.prepared.data.name == data.name]
        arms = [arm for other in others for arm in self.arms(other)]
        return tuning_runs(self.study, case, arms, self.out, self.machine)

    def tuning(self, cases: Iterable[Case]) -> list[RunPlan]:
        """The tuning runs that these cases need."""
        places = {p.name: p for p in map(self.tuned_on, cases) if p is not None}
        return [run for place in places.values() for run in self._named_tuning(place)]

    def rates(self, case: Case) -> dict[str, dict[str, Any]] | None:
        """What tuning chose for the case's data set; None where it is not finished."""
        place = self.tuned_on(case)
        if place is None:
            return {}
        if not place.is_drawn:
            return None
        runs = self._named_tuning(place)
        return chosen_rates(runs) if all(run.result.exists() for run in runs) else None

    def runs(
        self, cases: Iterable[Case], rounds: Sequence[str] = ()
    ) -> tuple[list[tuple[str, RunPlan]], int]:
        """The runs of these cases with their rounds, and how many more cannot be named.

        That is: before their case is drawn and their learning rate is tuned, and where every rate diverged.
        """
        found: list[tuple[str, RunPlan]] = []
        unnamed = 0
        for case in cases:
            rates = self.rates(case)
            for name, round_ in self.study.rounds.items():
                if (rounds and name not in rounds) or not round_.has(case.name):
                    continue
                arms = self.study.arms_of(case.data, case.bias, round_)
                if rates is None or not case.is_drawn:
                    unnamed += len(arms) * len(round_.seeds)
                    continue
                for seed in round_.seeds:
                    for arm in arms:
                        tuned = rates.get(baseline_of(self.study, arm).name)
                        if tuned is not None and tuned["lr"] is None:
                            unnamed += 1
                            continue
                        rate = None if tuned is None else tuned["lr"]
                        found.append((name, RunPlan(self.out, case, arm, seed, rate, self.machine)))
        return found, unnamed


def baseline_of(study: Study, arm: Arm) -> Arm:
    """The arm whose learning rate an arm takes: natural, or the first from scratch with natural weights."""
    if not arm.scratch:
        return study.arms[BASELINE]
    for other in study.arms.values():
        if other.scratch and other.manifest["method"] == "natural":
            return other
    return arm


def tuning_runs(study: Study, case: Case, arms: Iterable[Arm], out: Path, machine: Machine) -> list[RunPlan]:
    """A run for each learning rate and each baseline of `arms`; `case` is the one to tune on."""
    tune = case.data.tune
    if tune is None:
        return []
    bases = {base.name: base for base in (baseline_of(study, arm) for arm in arms)}
    return [RunPlan(out, case, base, tune.seed, lr, machine) for base in bases.values() for lr in tune.lr]


def chosen_rates(runs: Iterable[RunPlan]) -> dict[str, dict[str, Any]]:
    """For each tuned arm: ``lr``, and what every rate gave (``tried``: rate -> metric).

    A rate whose run diverged gave None and is never chosen; ``lr`` is None where all did.
    """
    metrics: dict[str, str] = {}
    tried: dict[str, dict[float, tuple[float, bool] | None]] = {}
    for run in runs:
        data, name = run.case.data, run.arm.name
        assert data.tune is not None
        assert run.lr is not None
        metrics[name] = (data.tune.scratch_metric if run.arm.scratch else None) or data.tune.metric
        result = read_result(run.result)
        found = None if "diverged" in result else metric_of(result, metrics[name], f"data.{data.name}.tune")
        tried.setdefault(name, {})[run.lr] = found
    return {name: _chosen(metric, tried[name]) for name, metric in metrics.items()}


def _chosen(metric: str, tried: dict[float, tuple[float, bool] | None]) -> dict[str, Any]:
    """`tried`: rate -> value and whether less is better, or None."""
    values = {rate: found[0] for rate, found in tried.items() if found is not None}
    lower = any(found[1] for found in tried.values() if found is not None)
    best = min if lower else max
    return {
        "metric": metric,
        "lower_is_better": lower,
        "tried": {f"{rate:g}": values.get(rate) for rate in tried},
        "lr": best(values, key=lambda rate: values[rate]) if values else None,
    }


def end_of_range(entry: Mapping[str, Any]) -> str | None:
    """ "smallest" or "largest" where that rate of those tried was chosen, so that the best may lie beyond."""
    rates = sorted(entry["tried"], key=float)
    if entry["lr"] is None or len(rates) < 2:
        return None
    return {rates[0]: "smallest", rates[-1]: "largest"}.get(f"{entry['lr']:g}")
