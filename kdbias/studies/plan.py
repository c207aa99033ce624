"""Which runs a study consists of, as far as they can be named yet, and the learning rates that they take.

Rates are tuned for natural sampling alone and then used by every arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, product
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
                prepared = locate(data, self.out, self.study.data)
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
        tuned = [run.arm for run in self.tuning(self.cases.values()) if run.case == case]
        return list({arm.name: arm for arm in (*self.arms(case), *tuned)}.values())

    def tuning(self, cases: Iterable[Case]) -> list[RunPlan]:
        """The tuning runs that these cases need: a run for each learning rate and baseline of a data set."""
        places = {place.name: place for place in map(self.tuned_on, cases) if place is not None}
        return [run for place in places.values() for run in self._tuned_at(place)]

    def _tuned_at(self, place: Case) -> list[RunPlan]:
        tune = place.data.tune
        assert tune is not None
        cases = [case for case in self.cases.values() if case.data.name == place.data.name]
        bases = [self.baseline_of(arm) for case in cases for arm in self.arms(case)]
        tried = product({base.name: base for base in bases}.values(), tune.lr)
        return [RunPlan(self.out, place, base, tune.seed, lr, self.machine) for base, lr in tried]

    def baseline_of(self, arm: Arm) -> Arm:
        """The arm whose rate an arm takes: natural, or the first from scratch with natural weights."""
        if not arm.scratch:
            return self.study.arms[BASELINE]
        natural = (a for a in self.study.arms.values() if a.scratch and a.manifest["method"] == "natural")
        return next(natural, arm)

    def rates(self, case: Case) -> dict[str, dict[str, Any]] | None:
        """What tuning chose for each baseline of the case's data set; None where it is not finished.

        Of each: ``lr``, and what every rate gave (``tried``: rate -> metric). A rate whose run diverged gave
        None and is never chosen; ``lr`` is None where all did.
        """
        place = self.tuned_on(case)
        if place is None:
            return {}
        runs = self._tuned_at(place) if place.is_drawn else []
        if not place.is_drawn or not all(run.result.exists() for run in runs):
            return None
        return {name: _chosen(list(own)) for name, own in groupby(runs, lambda run: run.arm.name)}

    def runs(
        self, cases: Iterable[Case], rounds: Sequence[str] = ()
    ) -> tuple[list[tuple[str, RunPlan]], int]:
        """The runs of these cases with their rounds, and how many more cannot be named.

        That is: before their case is drawn and their learning rate is tuned, and where every rate diverged.
        """
        found: list[tuple[str, RunPlan]] = []
        unnamed = 0
        for case in cases:
            rates = self.rates(case) if case.is_drawn else None
            for name, round_ in self.study.rounds.items():
                if (rounds and name not in rounds) or not round_.has(case.name):
                    continue
                for seed, arm in product(round_.seeds, self.study.arms_of(case.data, case.bias, round_)):
                    tuned = (rates or {}).get(self.baseline_of(arm).name)
                    lr = tuned["lr"] if tuned else None
                    if rates is None or (tuned and lr is None):
                        unnamed += 1
                    else:
                        found.append((name, RunPlan(self.out, case, arm, seed, lr, self.machine)))
        return found, unnamed


def _chosen(runs: Sequence[RunPlan]) -> dict[str, Any]:
    """What the finished tuning runs of one arm come to: an entry of `Plan.rates`."""
    data, scratch = runs[0].case.data, runs[0].arm.scratch
    assert data.tune is not None
    metric = (data.tune.scratch_metric if scratch else None) or data.tune.metric
    tried: dict[float, float | None] = {}
    lower = False
    for rate, run in zip(data.tune.lr, runs, strict=True):
        result = read_result(run.result)
        tried[rate] = None
        if "diverged" not in result:
            tried[rate], lower = metric_of(result, metric, f"data.{data.name}.tune")
    values = {rate: value for rate, value in tried.items() if value is not None}
    return {
        "metric": metric,
        "lower_is_better": lower,
        "tried": {f"{rate:g}": value for rate, value in tried.items()},
        "lr": (min if lower else max)(values, key=lambda rate: values[rate], default=None),
    }


def end_of_range(entry: Mapping[str, Any]) -> str | None:
    """ "smallest" or "largest" where that rate of those tried was chosen, so that the best may lie beyond."""
    rates = sorted(entry["tried"], key=float)
    if entry["lr"] is None or len(rates) < 2:
        return None
    return {rates[0]: "smallest", rates[-1]: "largest"}.get(f"{entry['lr']:g}")
