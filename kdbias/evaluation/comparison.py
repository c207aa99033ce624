"""Is the difference between two evaluations real? A paired bootstrap over the same units.

Both models were judged on the same samples, pairs or queries, so what is resampled is shared: a hard subject
is hard for both, and its luck cancels. From one run a side the interval covers the choice of test subjects
alone. Several runs a side (other training seeds) add the luck of training, by the variance between them:
:func:`kdbias.evaluation.resampling.difference`.
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

from kdbias.display.table import FEW, more
from kdbias.errors import KdbiasError
from kdbias.evaluation import PROTOCOLS
from kdbias.evaluation.resampling import LEVEL, difference, resampled_weights, take
from kdbias.evaluation.result import METRICS, read_metrics
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
from kdbias.tables.documents import read_document, write_json
from kdbias.tables.parquet_file import read_table
from kdbias.tables.run_files import claim
from kdbias.wording import plural, visible

_STAGE = "compare"


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
        """The runs of each side; a line a metric: is its difference real? Of groups, the real ones first.

        A last line says whether the luck of training is in the intervals.
        """
        sides = [f"  {side.upper()}: {', '.join(self.document[side])}" for side in "ab"]
        units = f"{self.document['n']:,} shared {plural(self.document['unit'])}"
        units += f", resampled by {self.document['interval']['resampled']}"
        lines = [
            f"{self.document['protocol']}: B - A over {units}",
            *sides,
            *_lines(self.document["metrics"]),
        ]
        for column, groups in self.document["groups"].items():
            real = {
                value: {k: e for k, e in metrics.items() if e["real"]} for value, metrics in groups.items()
            }
            for value in sorted(real, key=lambda value: not real[value])[:FEW]:
                lines += [
                    visible(f"{column}={value}:{'' if real[value] else ' no real difference'}"),
                    *_lines(real[value]),
                ]
            lines += more(len(groups), "-o FILE.json has them all")
        return "\n".join([*lines, _covered(len(self.document["a"]), len(self.document["b"]))])


def _covered(a: int, b: int) -> str:
    if a > 1 and b > 1:
        return f"{a} against {b} runs: the intervals cover the test set and the luck of training"
    if a == b:
        return "one run a side: real for these two models, not for other seeds of their training"
    single = "A" if a == 1 else "B"
    return f"{single} is one run: real for that very model, not for other seeds of its training"


def _lines(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max((len(name) for name in metrics), default=0)
    return [f"  {name:<{width}}  {_line(entry)}" for name, entry in metrics.items()]


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
        Differences B - A with 95 % intervals, from one run a side of the test set's luck alone, from several
        of the training's too. ``real`` means that the interval excludes zero; the two-sided ``p_value`` of
        one run a side is no smaller than 2 / (resamples + 1). Many metrics are tested at once: of twenty that
        do not differ, one will look real.

    Raises:
        KdbiasError: the evaluations judge different things, or ``output`` is something else already.
    """
    started = time.monotonic()
    if output is not None:
        _refuse_target(claim(output))
    if bootstrap < 100:
        raise KdbiasError(f"bootstrap = {bootstrap}; a comparison needs 100 resamples or more")
    sides = [_paths(a), _paths(b)]
    documents = [[read_metrics(path) for path in side] for side in sides]
    first = documents[0][0]
    judged = list(zip(sides[0] + sides[1], documents[0] + documents[1], strict=True))
    for path, document in judged:
        _same_question(sides[0][0], first, path, document)
    base = read_table(sides[0][0] / UNITS)
    judge = importlib.import_module(PROTOCOLS[first["protocol"]])
    clusters = stored_clusters(base)
    keys, subsets = subsets_of(stored_groups(base))
    left, right = ([_run(path, base, sides[0][0], subsets) for path in side] for side in sides)
    for path, document in judged:
        _same_test_data(sides[0][0], first, path, document)
    parameters = first["parameters"]

    def metrics(weights: np.ndarray) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Of the whole and each group: metric -> its values for the runs of both sides."""
        found = []
        for i in range(len(subsets)):
            a_runs, b_runs = (
                [judge.score(part, weights[rows], parameters) for part, rows in (run[i] for run in side)]
                for side in (left, right)
            )
            found.append({name: (_values(a_runs, name), _values(b_runs, name)) for name in a_runs[0]})
        return found

    observed = metrics(np.ones(base.num_rows))
    draws: list[dict[str, list[float]]] = [{name: [] for name in found} for found in observed]
    with bar(bootstrap, "resamples", "comparison") as progress:
        for weights in resampled_weights(base.num_rows, bootstrap, seed, clusters):
            for kept, found in zip(draws, metrics(weights), strict=True):
                for name, (x, y) in found.items():
                    kept[name].append(y.mean() - x.mean())
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
        _STAGE,
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
            "method": "percentile" if len(left) == len(right) == 1 else "t",
            "seed": seed,
        },
        "metrics": entries[0],
        "groups": groups,
    }
    if output is not None:
        write_json(output, document)
    return ComparisonResult(document)


def _refuse_target(path: Path) -> None:
    """Refuse to replace anything but another comparison."""
    if path.is_dir():
        raise KdbiasError(f"{path} is a folder; -o names a file, such as difference.json")
    try:
        replaceable = not path.exists() or read_document(path, {"stage": str})["stage"] == _STAGE
    except KdbiasError:
        replaceable = False
    if not replaceable:
        raise KdbiasError(f"{path} exists and is no comparison that kdbias wrote; choose another -o")


def _entry(a: np.ndarray, b: np.ndarray, draws: np.ndarray, lower_is_better: bool) -> dict[str, Any]:
    estimate, p_value = difference(a, b, draws)
    entry: dict[str, Any] = {
        "a": float(a.mean()) if np.isfinite(a).all() else None,
        "b": float(b.mean()) if np.isfinite(b).all() else None,
        "difference": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "standard_error": estimate.standard_error,
        "p_value": p_value,
        "real": None,
        "better": None,
    }
    if estimate.low is None or estimate.high is None or estimate.value is None:
        return entry
    entry["real"] = bool(estimate.low > 0 or estimate.high < 0)
    if entry["real"]:
        entry["better"] = "a" if (estimate.value > 0) == lower_is_better else "b"
    return entry


def _values(runs: list[dict[str, float]], metric: str) -> np.ndarray:
    return np.array([run[metric] for run in runs])


def _paths(side: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    several = [side] if isinstance(side, str | os.PathLike) else list(side)
    paths = [Path(path) for path in several]
    for path in paths:
        for name in (METRICS, UNITS):
            if not (path / name).exists():
                raise KdbiasError(f"{path} holds no {name}; compare output folders of kdbias evaluate")
    if not paths:
        raise KdbiasError("nothing to compare: give at least one evaluation a side")
    if len({path.resolve() for path in paths}) < len(paths):
        raise KdbiasError(
            f"one evaluation is given twice on one side ({', '.join(map(str, paths))}); "
            "runs of a side are separate trainings"
        )
    return paths


def _same_question(first: Path, one: Mapping[str, Any], path: Path, other: Mapping[str, Any]) -> None:
    """What must agree for a difference to mean anything.

    A gallery may hold other embeddings (a model's own), but of the same samples with the same labels.
    """
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


def _same_test_data(first: Path, one: Mapping[str, Any], path: Path, other: Mapping[str, Any]) -> None:
    for name, document in ((first, one), (path, other)):
        if "test_data" not in document:
            raise KdbiasError(
                f"{name} does not say which test data it used (an older kdbias made it); evaluate again"
            )
    for name in sorted(one["test_data"].keys() | other["test_data"].keys()):
        used = [document["test_data"].get(name, {"n": 0}) for document in (one, other)]
        if used[0] != used[1]:
            raise KdbiasError(
                f"{first} and {path} were judged with different {name} ({used[0]['n']:,} and "
                f"{used[1]['n']:,} rows); evaluate both on the same test data"
            )


def _run(
    path: Path, base: pa.Table, base_path: Path, subsets: list[np.ndarray | None]
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Results of one run, of the whole and of each group, every unit with its row in the base.

    They stay in their own order, which a protocol may rely on (IJB's are sorted by score).
    """
    units = read_table(path / UNITS)
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
    return slices


def _line(entry: Mapping[str, Any]) -> str:
    if entry["difference"] is None:
        return "n/a"
    text = f"{entry['a']:.4f} -> {entry['b']:.4f}: {entry['difference']:+.4f}"
    if entry["low"] is None:
        return text
    verdict = f"real, {entry['better'].upper()} is better" if entry["real"] else "not shown to be real"
    return f"{text} [{entry['low']:+.4f}, {entry['high']:+.4f}], p = {entry['p_value']:.3f}: {verdict}"
