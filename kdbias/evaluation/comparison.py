"""Is the difference between two evaluations real? A paired bootstrap over the same units.

Both models were judged on the same samples, pairs or queries, so what is resampled is shared: a hard subject
is hard for both, and its luck cancels. From one run a side the interval covers the choice of test subjects
alone. Several runs a side (other training seeds) add the luck of training, by the variance between them:
`kdbias.evaluation.resampling.difference`.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.result import Result
from kdbias.display.table import FEW, Table, more
from kdbias.errors import KdbiasError
from kdbias.evaluation.resampling import (
    LEVEL,
    UNITS,
    Part,
    Units,
    difference,
    resample,
    resampled_weights,
    take,
)
from kdbias.evaluation.settings import PROTOCOLS, CompareSettings, options_of
from kdbias.evaluation.stage import METRICS, read_metrics
from kdbias.functions import takes_settings
from kdbias.tables import fingerprints, provenance
from kdbias.tables.documents import read_document, write_json
from kdbias.tables.files import absent
from kdbias.tables.run_files import claim
from kdbias.wording import counted, plural, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_STAGE = "compare"
_COLUMNS = ("metric", "a", "b", "difference", "low", "high", "p_value", "verdict")


@dataclass(frozen=True, repr=False)
class ComparisonResult(Result):
    """What `compare` found.

    Attributes:
        document: provenance and ``{"protocol", "a", "b", "n", "interval", "metrics": {name: {"a", "b",
            "difference", "low", "high", "standard_error", "p_value", "real", "better"}}, "groups": {column:
            {value: {...}}}}``.
    """

    document: dict[str, Any]

    def blocks(self) -> list[str | Table]:
        """The runs of each side; a line a metric: is its difference real? Of groups, the real ones first.

        A last line says whether the luck of training is in the intervals.
        """
        document = self.document
        units = counted(document["n"], f"shared {document['unit']}")
        lines: list[str | Table] = [
            f"{document['protocol']}: B - A over {units}, resampled by {document['interval']['resampled']}"
        ]
        lines += [f"  {side.upper()}: {', '.join(document[side])}" for side in "ab"]
        lines.append(Table.of([_row(*item) for item in document["metrics"].items()], _COLUMNS))
        for column, values in document["groups"].items():
            real = {v: {k: e for k, e in metrics.items() if e["real"]} for v, metrics in values.items()}
            some = sorted(real, key=lambda value: not real[value])[:FEW]
            rows = [{"group": value, **_row(*item)} for value in some for item in real[value].items()]
            table = Table.of(rows, ["group", *_COLUMNS], headings={"group": column})
            lines += ["", *[table] * bool(rows)]
            lines += [visible(f"{column}={value}: no real difference") for value in some if not real[value]]
            lines += more(len(values), "-o FILE.json has them all")
        return [*lines, _covered(len(document["a"]), len(document["b"]))]

    def to_pandas(self) -> "pd.DataFrame":
        """A row a metric over all units (column and group are null), then one a group and metric."""
        import pandas as pd

        document = self.document
        every = [(None, None, document["metrics"])]
        every += [(column, name, m) for column, gs in document["groups"].items() for name, m in gs.items()]
        return pd.DataFrame(
            {"column": column, "group": group, "metric": metric, **entry}
            for column, group, metrics in every
            for metric, entry in metrics.items()
        )

    def plot(self) -> "Figure":
        """The difference of each metric with its interval."""
        from kdbias.display import plots

        metrics = self.document["metrics"]
        rows = [(name, {"B - A": e["difference"]}, plots.interval(e)) for name, e in metrics.items()]
        draw = plots.dots(rows, "B - A", self.document["protocol"], zero=True)
        return plots.figure(draw, width=6, height=plots.height_of(len(rows)))


def _covered(a: int, b: int) -> str:
    """What the intervals cover, given the runs on both sides."""
    if a > 1 and b > 1:
        return f"{a} against {b} runs: the intervals cover the test set and the luck of training"
    if a == b:
        return "one run a side: real for these two models, not for other seeds of their training"
    single = "A" if a == 1 else "B"
    return f"{single} is one run: real for that very model, not for other seeds of its training"


def _row(metric: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One metric of both sides, a row of the summary."""
    verdict = f"real, {str(entry['better']).upper()} is better" if entry["real"] else "not shown to be real"
    return {"metric": metric, **entry, "verdict": verdict if entry["low"] is not None else ""}


@takes_settings(CompareSettings)
def compare(
    a: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    b: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    settings: CompareSettings,
) -> ComparisonResult:
    """Say for each metric of two evaluations whether their difference is more than the luck of the test set.

    Args:
        a: output folder of `kdbias.evaluate`; several are runs of the same recipe with other seeds, whose
            metrics are averaged.
        b: what it is compared to, with the same protocol, options and test units.
        output: JSON file to write.

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
    named = {"a": _paths(a), "b": _paths(b)}
    documents = {path: read_metrics(path) for path in (*named["a"], *named["b"])}
    base, first = next(iter(documents.items()))
    for path, document in documents.items():
        _same_question(base, first, path, document)
    units = Units.read(base)
    groups = units.subsets()
    subsets = [np.arange(units.n), *groups.values()]
    runs = [_run(path, base, units, subsets) for path in (*named["a"], *named["b"])]
    for path, document in documents.items():
        _same_test_data(base, first, path, document)
    protocol = PROTOCOLS[first["protocol"]]
    score = partial(protocol.score, parameters=first["parameters"])
    resamples = resampled_weights(units.n, settings.bootstrap, settings.seed, units.clusters, "comparison")
    overall, *grouped = (
        _differences(found, len(named["a"]), protocol.lower_is_better)
        for found in resample(score, runs, units.n, resamples)
    )
    by_group: dict[str, dict[str, Any]] = {}
    for (column, value), entry in zip(groups, grouped, strict=True):
        by_group.setdefault(column, {})[value] = entry
    used = {f"{name}{i}": path for name, side in named.items() for i, path in enumerate(side)}
    document = provenance.document(
        _STAGE,
        settings.record(),
        {name: fingerprints.of_file(path / UNITS) for name, path in used.items()},
        {plural(first["unit"]): units.n},
        time.monotonic() - started,
    )
    document |= {
        **{name: first[name] for name in ("protocol", "unit")},
        **{name: list(map(str, side)) for name, side in named.items()},
        "n": units.n,
        "interval": {
            **first["interval"],
            "level": LEVEL,
            "repeats": settings.bootstrap,
            "seed": settings.seed,
            "method": "percentile" if len(used) == 2 else "t",
        },
        "metrics": overall,
        "groups": by_group,
    }
    if output is not None:
        write_json(output, document)
    return ComparisonResult(document)


def _refuse_target(path: Path) -> None:
    """Refuse to replace anything but another comparison."""
    if path.is_dir():
        raise KdbiasError(f"{path} is a folder; -o names a file, such as difference.json")
    if path.exists():
        with contextlib.suppress(KdbiasError):
            if read_document(path, {"stage": str})["stage"] == _STAGE:
                return
        raise KdbiasError(f"{path} exists and is no comparison that kdbias wrote; choose another -o")


def _differences(
    found: Mapping[str, np.ndarray], a: int, lower_is_better: frozenset[str]
) -> dict[str, dict[str, Any]]:
    """Metric -> how its first ``a`` runs and the others differ, of (1 + repeats, runs) values."""
    return {name: _entry(v[:, :a], v[:, a:], name in lower_is_better) for name, v in found.items()}


def _entry(a: np.ndarray, b: np.ndarray, lower_is_better: bool) -> dict[str, Any]:
    """Both means, their difference with interval and p, and whether it is real; of (1 + repeats, runs)."""
    estimate, p_value = difference(a[0], b[0], b[1:].mean(axis=1) - a[1:].mean(axis=1))
    found = estimate.document()
    value, low, high = found.pop("value"), estimate.low, estimate.high
    real = None if low is None or high is None else low > 0 or high < 0
    return {
        "a": float(a[0].mean()) if np.isfinite(a[0]).all() else None,
        "b": float(b[0].mean()) if np.isfinite(b[0]).all() else None,
        "difference": value,
        **found,
        "p_value": p_value,
        "real": real,
        "better": ("a" if (value > 0) == lower_is_better else "b") if real else None,
    }


def _paths(side: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Folders of one side, each with what a comparison reads."""
    several = [side] if isinstance(side, str | os.PathLike) else list(side)
    paths = [Path(path) for path in several]
    for path in paths:
        if not path.exists():
            raise absent(path, "folder")
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
    """Refuse evaluations that differ in what must agree for a difference to mean anything.

    A gallery may hold other embeddings (a model's own), but of the same samples with the same labels.
    """
    asked = [_asked(document) for document in (one, other)]
    named = [name for name in asked[0] | asked[1] if asked[0].get(name) != asked[1].get(name)]
    if named:
        values = " against ".join(str({name: found.get(name) for name in named}) for found in asked)
        raise KdbiasError(
            f"{first} and {path} were judged with different {', '.join(named)} ({values}); judge both alike"
        )


def _asked(document: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation was asked: two with the same can be compared."""
    roles = ("reference", "tail_from", "pairs", "templates", "detector_scores")
    return {
        "protocol": document["protocol"],
        "parameters": document["parameters"],
        **options_of(document["protocol"], document["config"]),
        **{role: document["inputs"].get(role) for role in roles},
        "group_by": sorted(document["groups"]),
    }


def _same_test_data(first: Path, one: Mapping[str, Any], path: Path, other: Mapping[str, Any]) -> None:
    """Refuse two evaluations on different test data."""
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
                f"{counted(used[1]['n'], 'row')}); evaluate both on the same test data"
            )


def _run(path: Path, base: Path, units: Units, subsets: list[np.ndarray]) -> list[Part]:
    """Results of one run, of the whole and of each group, every unit with its row in the base's units.

    They stay in their own order, which a protocol may rely on (IJB's are sorted by score).
    """
    mine = Units.read(path)
    places = units.places_of(mine, base, path)
    found: list[Part] = []
    for rows in subsets:
        member = np.zeros(units.n, dtype=bool)
        member[rows] = True
        chosen = np.flatnonzero(member[places])
        found.append((take(mine.columns, chosen), places[chosen]))
    return found
