"""From the result of every unit to metrics with intervals, by group."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdbias.evaluation.resampling import LEVEL, Estimate, bootstrap, json_estimates, resampled_weights
from kdbias.evaluation.task import Outcome
from kdbias.evaluation.units import groups_of, subsets_of
from kdbias.progress import bar

_REPEATS, _FEW_REPEATS, _MANY_UNITS = 1000, 200, 1_000_000


def measured(
    judge: Any, outcome: Outcome, group_by: Sequence[str], repeats: int | None, seed: int
) -> dict[str, Any]:
    """Metrics, groups and their spread, all from the same resamples."""
    if repeats is None:
        repeats = _REPEATS if outcome.n <= _MANY_UNITS else _FEW_REPEATS
    keys, subsets = subsets_of(groups_of(outcome, group_by))

    def score(columns: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, float]:
        return judge.score(columns, weights, outcome.parameters)

    with bar(repeats, "resamples", "intervals") as progress:

        def resamples() -> Any:
            for weights in resampled_weights(outcome.n, repeats, seed, outcome.clusters):
                yield weights
                progress.update(1)

        overall, *grouped = bootstrap(score, outcome.columns, subsets, resamples())
    groups: dict[str, dict[str, Any]] = {column: {} for column, _ in keys}
    estimates: dict[str, dict[str, dict[str, Estimate]]] = {column: {} for column, _ in keys}
    for (column, value), members, found in zip(keys, subsets[1:], grouped, strict=True):
        groups[column][value] = {
            "n": 0 if members is None else len(members),
            "metrics": json_estimates(found),
        }
        estimates[column][value] = found
    metrics = json_estimates(overall)
    for name, reason in outcome.reasons.items():
        metrics[name]["reason"] = reason
    return {
        "metrics": metrics,
        "groups": groups,
        "spread": {column: _spread(found, judge.LOWER_IS_BETTER) for column, found in estimates.items()},
        "interval": {"level": LEVEL, "repeats": repeats, "resampled": outcome.resampled, "seed": seed},
    }


def _spread(groups: Mapping[str, Mapping[str, Estimate]], lower_is_better: frozenset[str]) -> dict[str, Any]:
    """How far the groups lie apart, metric by metric, for metrics that two groups or more have."""
    found: dict[str, Any] = {}
    for metric in next(iter(groups.values()), {}):
        held = {name: group[metric].value for name, group in groups.items()}
        values = {name: value for name, value in held.items() if value is not None}
        if len(values) < 2:
            continue
        lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        worst, best = (highest, lowest) if metric in lower_is_better else (lowest, highest)
        found[metric] = {
            "worst": worst,
            "best": best,
            "min": values[lowest],
            "max": values[highest],
            "gap": values[highest] - values[lowest],
            "std": float(np.std(list(values.values()), ddof=1)),
        }
    return found


def plain(value: Any) -> Any:
    """JSON values: NumPy scalars and arrays unwrapped, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
