"""Learning rates, tuned for natural sampling alone and then used by every arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdbias.studies.cases import Case
from kdbias.studies.runs import RunPlan, metric_of, read_result
from kdbias.studies.settings import BASELINE, Arm, Machine, Study


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
    tune = case.prepared.data.tune
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
        data, name = run.case.prepared.data, run.arm.name
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
