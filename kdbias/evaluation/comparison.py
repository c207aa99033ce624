"""Is the difference between two evaluations real? A paired bootstrap over the same units.

Both models were judged on the same samples, pairs or queries, so what is resampled is shared: a hard subject
is hard for both, and its luck cancels. What the interval covers is the choice of test subjects. It does not
cover the luck of training; give several runs a side (other seeds) for that, and runs are resampled too.
"""

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.errors import KdbiasError
from kdbias.evaluation import PROTOCOLS
from kdbias.evaluation.intervals import LEVEL, resampled_weights, summarize, take
from kdbias.evaluation.judge import METRICS
from kdbias.evaluation.measuring import plural
from kdbias.evaluation.units import (
    UNITS,
    places_in,
    stored_clusters,
    stored_groups,
    stored_results,
    subsets_of,
)
from kdbias.progress import bar
from kdbias.tables import fingerprints, provenance
from kdbias.tables.files import read_json, write_json


@dataclass(frozen=True)
class ComparisonResult:
    """What :func:`compare` found.

    Attributes:
        document: provenance and ``{"protocol", "a", "b", "n", "interval", "metrics": {name: {"a", "b",
            "difference", "low", "high", "standard_error", "p_value", "real", "better"}}, "groups": {column:
            {value: {...}}}}``.
    """

    document: dict[str, Any]

    def summary(self) -> str:
        """One line a metric, saying whether the difference is real; of groups, the real ones alone.

        With one run a side a last line says that the luck of training is not in the intervals.
        """
        units = f"{self.document['n']:,} shared {plural(self.document['unit'])}"
        lines = [f"{self.document['protocol']}: B - A over {units}", *_lines(self.document["metrics"])]
        for column, groups in self.document["groups"].items():
            for value, metrics in groups.items():
                real = {name: entry for name, entry in metrics.items() if entry["real"]}
                lines += [f"{column}={value}:{'' if real else ' no real difference'}", *_lines(real)]
        if min(len(self.document["a"]), len(self.document["b"])) < 2:
            lines.append("one run a side: real for these two models, not for other seeds of their training")
        return "\n".join(lines)


def _lines(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max((len(name) for name in metrics), default=0)
    return [f"  {name:<{width}}  {_line(entry)}" for name, entry in metrics.items()]


@dataclass(frozen=True)
class _Run:
    """Results of one evaluation, cut to the whole and to each group, every unit with its row in the base."""

    slices: list[tuple[dict[str, np.ndarray], np.ndarray]]


def compare(
    a: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    b: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ComparisonResult:
    """Say for each metric of two evaluations whether their difference is more than the luck of the test set.

    Args:
        a, b: output folders of :func:`kdbias.evaluate` with the same protocol, options and test units;
            several a side are runs of the same recipe with other seeds, whose metrics are averaged.
        output: JSON file to write.
        bootstrap: number of resamples, at least 100.
        seed: of the resampling.

    Returns:
        Differences B - A with 95 % intervals. ``real`` means that the interval excludes zero; the two-sided
        bootstrap ``p_value`` is no smaller than 2 / (resamples + 1). Many metrics are tested at once: of
        twenty that do not differ, one will look real.

    Raises:
        KdbiasError: the evaluations judge different things.
    """
    started = time.monotonic()
    if bootstrap < 100:
        raise KdbiasError(f"bootstrap = {bootstrap}; a comparison needs 100 resamples or more")
    sides = [_paths(a), _paths(b)]
    documents = [[read_json(path / METRICS) for path in side] for side in sides]
    first = documents[0][0]
    for path, document in zip(sides[0] + sides[1], documents[0] + documents[1], strict=True):
        _same_question(sides[0][0], first, path, document)
    base = pq.read_table(sides[0][0] / UNITS)
    judge = importlib.import_module(PROTOCOLS[first["protocol"]])
    clusters = stored_clusters(base)
    keys, subsets = subsets_of(stored_groups(base))
    left, right = ([_run(path, base, sides[0][0], subsets) for path in side] for side in sides)
    parameters = first["parameters"]

    def differences(weights: np.ndarray, chosen: list[np.ndarray]) -> list[dict[str, tuple[float, float]]]:
        found = []
        for i in range(len(subsets)):
            means = []
            for runs in ([left[r] for r in chosen[0]], [right[r] for r in chosen[1]]):
                cut = [run.slices[i] for run in runs]
                means.append(_mean([judge.score(part, weights[rows], parameters) for part, rows in cut]))
            found.append({name: (means[0][name], means[1][name]) for name in means[0]})
        return found

    everything = [np.arange(len(left)), np.arange(len(right))]
    observed = differences(np.ones(base.num_rows), everything)
    draws: list[dict[str, list[float]]] = [{name: [] for name in found} for found in observed]
    rng = np.random.default_rng([seed, 1])
    with bar(bootstrap, "resamples", "comparison") as progress:
        for weights in resampled_weights(base.num_rows, bootstrap, seed, clusters):
            chosen = [rng.integers(len(rows), size=len(rows)) for rows in everything]
            for kept, found in zip(draws, differences(weights, chosen), strict=True):
                for name, (x, y) in found.items():
                    kept[name].append(y - x)
            progress.update(1)
    entries = [
        {
            name: _entry(x, y, np.asarray(kept[name]), name in judge.LOWER_IS_BETTER)
            for name, (x, y) in found.items()
        }
        for found, kept in zip(observed, draws, strict=True)
    ]
    groups: dict[str, dict[str, Any]] = {}
    for (column, value), entry in zip(keys, entries[1:], strict=True):
        groups.setdefault(column, {})[value] = entry
    used = {f"{name}{i}": p for name, side in zip("ab", sides, strict=True) for i, p in enumerate(side)}
    document = provenance.document(
        "compare",
        {"bootstrap": bootstrap, "seed": seed},
        {name: fingerprints.of_file(path / UNITS) for name, path in used.items()},
        {plural(first["unit"]): base.num_rows},
        time.monotonic() - started,
    )
    document |= {
        "protocol": first["protocol"],
        "unit": first["unit"],
        "a": [str(path) for path in sides[0]],
        "b": [str(path) for path in sides[1]],
        "n": base.num_rows,
        "interval": {
            "level": LEVEL,
            "repeats": bootstrap,
            "resampled": first["interval"]["resampled"],
            "runs_resampled": len(left) > 1 or len(right) > 1,
            "seed": seed,
        },
        "metrics": entries[0],
        "groups": groups,
    }
    if output is not None:
        write_json(output, document)
    return ComparisonResult(document)


def _entry(a: float, b: float, draws: np.ndarray, lower_is_better: bool) -> dict[str, Any]:
    estimate = summarize(b - a, draws)
    entry: dict[str, Any] = {
        "a": a if np.isfinite(a) else None,
        "b": b if np.isfinite(b) else None,
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "standard_error": estimate.standard_error,
        "p_value": None,
        "real": None,
        "better": None,
    }
    if estimate.low is None or estimate.high is None or estimate.value is None:
        return entry
    usable = draws[np.isfinite(draws)]
    tail = min((usable <= 0).sum(), (usable >= 0).sum())
    entry["p_value"] = float(min(1.0, 2 * (tail + 1) / (len(usable) + 1)))
    entry["real"] = bool(estimate.low > 0 or estimate.high < 0)
    if entry["real"]:
        entry["better"] = "a" if (estimate.value > 0) == lower_is_better else "b"
    return entry


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _paths(side: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    several = [side] if isinstance(side, str | os.PathLike) else list(side)
    paths = [Path(path) for path in several]
    for path in paths:
        for name in (METRICS, UNITS):
            if not (path / name).exists():
                raise KdbiasError(f"{path} holds no {name}; compare output folders of kdbias evaluate")
    if not paths:
        raise KdbiasError("nothing to compare: give at least one evaluation a side")
    return paths


def _same_question(first: Path, one: Mapping[str, Any], path: Path, other: Mapping[str, Any]) -> None:
    """What must agree for a difference to mean anything; galleries may differ (a model's own)."""
    for name in ("protocol", "parameters"):
        if one[name] != other[name]:
            raise KdbiasError(f"{first} and {path} differ in {name}: {one[name]} against {other[name]}")
    options = [document["config"]["options"] for document in (one, other)]
    if options[0] != options[1]:
        changed = sorted(
            k for k in options[0].keys() | options[1].keys() if options[0].get(k) != options[1].get(k)
        )
        raise KdbiasError(
            f"{first} and {path} were judged with different {', '.join(changed)}; judge both alike"
        )
    for role in ("reference", "tail_from", "pairs", "templates", "detector_scores"):
        if one["inputs"].get(role) != other["inputs"].get(role):
            raise KdbiasError(f"{first} and {path} were judged with a different --{role.replace('_', '-')}")
    if one["groups"].keys() != other["groups"].keys():
        raise KdbiasError(
            f"{first} is grouped by {', '.join(one['groups']) or 'nothing'}, {path} by "
            f"{', '.join(other['groups']) or 'nothing'}; give both the same --group-by"
        )


def _run(path: Path, base: pa.Table, base_path: Path, subsets: list[np.ndarray | None]) -> _Run:
    """Results of one run in its own order, which a protocol may rely on (IJB's are sorted by score)."""
    units = pq.read_table(path / UNITS)
    places = places_in(base, units, base_path, path)
    columns = stored_results(units)
    slices = []
    for rows in subsets:
        if rows is None:
            slices.append((columns, places))
            continue
        member = np.zeros(base.num_rows, dtype=bool)
        member[rows] = True
        mine = np.flatnonzero(member[places])
        slices.append((take(columns, mine), places[mine]))
    return _Run(slices)


def _line(entry: Mapping[str, Any]) -> str:
    if entry["difference"] is None:
        return "n/a"
    text = f"{entry['a']:.4f} -> {entry['b']:.4f}: {entry['difference']:+.4f}"
    if entry["low"] is None:
        return text
    verdict = f"real, {entry['better'].upper()} is better" if entry["real"] else "not shown to be real"
    return f"{text} [{entry['low']:+.4f}, {entry['high']:+.4f}], p = {entry['p_value']:.3f}: {verdict}"
