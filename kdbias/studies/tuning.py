"""Learning rates, tuned for natural sampling alone and then used by every arm."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.studies.cases import Case
from kdbias.studies.description import BASELINE, Arm, Description
from kdbias.studies.preparation import Machine
from kdbias.studies.runs import RunPlan, metric_of
from kdbias.tables.files import read_json


def baseline_of(study: Description, arm: Arm) -> Arm:
    """The arm whose learning rate an arm takes: natural, or the first from scratch with natural weights."""
    if not arm.scratch:
        return study.arms[BASELINE]
    for other in study.arms.values():
        if other.scratch and other.manifest["method"] == "natural":
            return other
    return arm


def tuning_runs(
    study: Description, case: Case, arms: Iterable[Arm], out: Path, machine: Machine
) -> list[RunPlan]:
    """A run for each learning rate and each baseline of `arms`; `case` is the one to tune on."""
    tune = case.prepared.data.tune
    if tune is None:
        return []
    bases = {base.name: base for base in (baseline_of(study, arm) for arm in arms)}
    return [RunPlan(out, case, base, tune.seed, lr, machine) for base in bases.values() for lr in tune.lr]


def chosen_rates(runs: Iterable[RunPlan]) -> dict[str, dict[str, Any]]:
    """For each tuned arm: ``lr``, and what every rate gave (``tried``: rate -> metric)."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        tune = run.case.prepared.data.tune
        assert tune is not None
        name = (tune.scratch_metric or tune.metric) if run.arm.scratch else tune.metric
        value, lower = metric_of(
            read_json(run.result), name, f"data.{run.case.prepared.data.name}.tune.metric"
        )
        entry = found.setdefault(run.arm.name, {"metric": name, "lower_is_better": lower, "tried": {}})
        entry["tried"][run.lr] = value
    for entry in found.values():
        tried, sign = entry["tried"], -1 if entry["lower_is_better"] else 1
        entry["lr"] = max(tried, key=lambda rate: sign * tried[rate])
        entry["tried"] = {f"{rate:g}": value for rate, value in tried.items()}
    if not found:
        raise KdbiasError("nothing was tuned")
    return found
