"""The evaluate stage: embeddings in, ``metrics.json`` out.

``OUT/metrics.json`` holds one document::

    version, stage, created, seconds   as in every provenance document
    config, inputs                     the options that change numbers; fingerprints of what was read
    sources                            {role: {"path", "stage", "config"}}: where inputs lie, what made them
    protocol, unit, n                  what was judged ("sample", "pair", "query") and how many
    left_out                           units not judged, by reason
    metrics      {name: {"value", "low", "high", "standard_error"}}     null = undefined, or not resampled
    groups       {column: {value: {"n", "metrics": {...}}}}
    spread       {column: {metric: {"worst", "best", "min", "max", "gap", "std"}}}    over groups; ddof 1
    interval     {"level", "repeats", "resampled", "seed"}              percentile bootstrap
    parameters, details                the protocol's own facts
    test_data    {name: {"n", "digest"}}    rows that decide the answer (a gallery's ids and labels)
    units, plots                       file names beside it

``OUT/units.parquet`` has the result of every unit; :func:`kdbias.evaluation.compare` pairs two of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.data.filters import spelled
from kdbias.display.quantities import NONE
from kdbias.display.result import Result
from kdbias.display.table import Table, number
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.evaluation import inputs
from kdbias.evaluation.resampling import ALL, LEVEL, UNITS, Units, bootstrap, resampled_weights
from kdbias.evaluation.roc import far_name
from kdbias.evaluation.settings import READING, EvaluateSettings
from kdbias.evaluation.task import Outcome, Task, read_embeddings
from kdbias.functions import takes_settings
from kdbias.progress import say
from kdbias.tables import provenance
from kdbias.tables.documents import read_document, write_json
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_record import Run, Stage
from kdbias.wording import counted, plural

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METRICS = "metrics.json"
_STAGE = Stage("evaluate", files=("metrics.json", "units.parquet"), folders=("embeddings",))
_REPEATS, _FEW_REPEATS, _MANY_UNITS = 1000, 200, 1_000_000
_NUMBER = (float, None)
_METRICS = {str: {"value": _NUMBER, "low?": _NUMBER, "high?": _NUMBER, "reason?": str}}
_SHAPE = {
    "protocol": str,
    "unit": str,
    "n": int,
    "metrics": _METRICS,
    "groups": {str: {str: {"n": int, "metrics": _METRICS}}},
    "spread?": {str: {str: {"worst": (str, None), "gap": _NUMBER}}},
    "config": {str: object},
    "inputs": {str: (str, None)},
    "interval": {"repeats": int, "resampled": object},
    "left_out": {str: int},
    "details": {"operating_point?": ({"far": float}, None)},
    "parameters?": {str: object},
    "test_data?": {str: {"n": int, "digest": str}},
    "plots?": [str],
}


@dataclass(frozen=True, repr=False)
class EvaluationResult(Result):
    """What `evaluate` wrote.

    Attributes:
        document: the content of ``metrics.json``.
        path: the output folder.
    """

    document: dict[str, Any]
    path: Path

    def value(self, metric: str) -> float | None:
        """One metric by name, over all units."""
        found = self.document["metrics"]
        if metric not in found:
            raise KdbiasError(f"{self.path} has no metric {metric!r}; it has {', '.join(found)}")
        return found[metric]["value"]

    def blocks(self) -> list[str | Table]:
        """Every metric with its interval, then the groups."""
        document, resampled = self.document, self.document["interval"]["repeats"] > 0
        head = f"{document['protocol']}: {counted(document['n'], document['unit'])} judged"
        if resampled:
            head += f", resampled by {document['interval']['resampled']}"
        left_out = [f"{count:,} {reason}" for reason, count in document["left_out"].items() if count]
        if left_out:
            head += f"; left out: {', '.join(left_out)}"
        metrics = document["metrics"]
        named = {name: _named(name, document["details"]) for name in metrics}
        rows = [{"metric": named[name], **entry} for name, entry in metrics.items()]
        lines: list[str | Table] = [
            head,
            Table.of(rows, "metric value low high" if resampled else "metric value"),
        ]
        lines += [
            f"{named[n]}: {NONE} ({e['reason']})"
            for n, e in metrics.items()
            if e["value"] is None and "reason" in e
        ]
        for column, groups in document["groups"].items():
            lines += ["", _group_table(column, groups, named).cut(f"{METRICS} has them all")]
        return lines

    def to_pandas(self) -> pd.DataFrame:
        """A row a metric over all units (column and group are null), then one a group and metric."""
        import pandas as pd

        document = self.document
        every = [(None, None, document)]
        every += [
            (column, *named) for column, groups in document["groups"].items() for named in groups.items()
        ]
        return pd.DataFrame(
            {"column": column, "group": group, "n": of["n"], "metric": metric}
            | {key: entry.get(key) for key in ("value", "low", "high")}
            for column, group, of in every
            for metric, entry in of["metrics"].items()
        )

    def plot(self) -> Figure:
        """Every metric with its interval."""
        from kdbias.display import plots

        metrics = self.document["metrics"]
        rows = [
            (_named(name, self.document["details"]), {"value": entry["value"]}, plots.interval(entry))
            for name, entry in metrics.items()
        ]
        title = f"{self.document['protocol']}, {counted(self.document['n'], self.document['unit'])}"
        return plots.figure(plots.dots(rows, "value", title), width=6, height=plots.height_of(len(rows)))


def read_metrics(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``metrics.json`` that ``evaluate`` left in a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    return read_document(Path(folder) / METRICS, _SHAPE)


@takes_settings(EvaluateSettings)
def evaluate(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    settings: EvaluateSettings,
) -> EvaluationResult:
    """Judge embeddings by a protocol and write ``metrics.json``, ``units.parquet`` and plots.

    Args:
        model: an embedding table; or, with ``data``, a run folder or any teacher spec, whose embeddings of
            the data are computed into ``OUT/embeddings`` first.
        output: folder to write.
        overwrite: start over where the output exists.

    Raises:
        KdbiasError: unknown protocol, an option the protocol does not read, or input that does not fit.
    """
    started = time.monotonic()
    asked, paths = settings.chosen, settings.chosen.paths
    judged, types = inputs.model_inputs(model, settings)
    config = _config(settings, types)
    fingerprints = judged | inputs.input_fingerprints(paths)
    try:
        reads = (model, settings.data, *paths.values())
        usual = settings.defaults(config)
        run = Run.open(output, _STAGE, config, fingerprints, overwrite, defaults=usual, reads=reads)
    except ConfigChangedError:
        if settings.data is None:
            _read(model, settings)  # what is wrong in itself is named before what has changed
        raise
    with run:
        if run.already_finished():
            return EvaluationResult(read_metrics(run.out), run.out)
        table = model
        if settings.data is not None:
            table = inputs.embed_model(model, run.out / "embeddings", settings)
        task = _read(table, settings)
        say(f"evaluate: {asked.name}, {task.model.n:,} x {task.model.d} float32 on the CPU, from {table}")
        outcome = asked.judge(task)
        units = outcome.units(settings.group_by)
        facts = measured(settings, outcome, units)
        staged = run.stage()
        counts = {plural(asked.unit): outcome.n}
        document = provenance.document(_STAGE.name, config, fingerprints, counts, 0.0)
        document |= {
            "protocol": asked.name,
            "unit": asked.unit,
            "n": outcome.n,
            "left_out": dict(outcome.left_out),
            **facts,
            "sources": {role: inputs.origin(path) for role, path in {"model": table, **paths}.items()},
            "parameters": dict(outcome.parameters),
            "test_data": {name: inputs.rows_fingerprint(rows) for name, rows in outcome.test_data.items()},
            "details": dict(outcome.details),
            "units": UNITS,
            "plots": [_drawn(staged / f"{name}.png", draw) for name, draw in outcome.plots.items()],
        }
        document["seconds"] = round(time.monotonic() - started, 3)
        write_table(staged / UNITS, units.table(), document)
        write_json(staged / METRICS, document)
        named = {} if settings.data is None else {"model": str(model), "data": settings.data}
        run.finish(counts, document["seconds"], plots=document["plots"], paths=named)
        return EvaluationResult(document, run.out)


def _config(settings: EvaluateSettings, types: Mapping[str, Any]) -> dict[str, Any]:
    """What a run records: the options that change numbers."""
    gallery = settings.chosen.paths.get("gallery")
    judged_against = types if gallery is None else inputs.column_types(gallery)
    embedding = {name: settings.embedding.get(name) for name in (*READING, "flip")}
    return {
        "protocol": settings.protocol,
        "where": spelled(settings.where, types),
        "gallery_where": spelled(settings.gallery_where, judged_against),
        "group_by": list(settings.group_by),
        "options": settings.chosen.record(),
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
        "embedding": None
        if settings.data is None
        else {**embedding, "root": None, "precision": settings.precision or "fp32"},
    }


def _read(table: str | os.PathLike[str], settings: EvaluateSettings) -> Task:
    """The embeddings that a protocol wants, of the rows that were asked for."""
    asked = settings.chosen
    gallery, reference = asked.paths.get("gallery"), asked.paths.get("reference")
    others = None
    if gallery is not None:
        others = read_embeddings(gallery, settings.gallery_where)
    elif settings.gallery_where:
        others = read_embeddings(table, settings.gallery_where, asked.flips)
    # Data were embedded where they satisfy it, unless a gallery from the same data was asked for.
    where = settings.where if settings.data is None or settings.gallery_where else ()
    return Task(
        model=read_embeddings(table, where, asked.flips),
        reference=None if reference is None else read_embeddings(reference),
        gallery=others,
    )


def measured(settings: EvaluateSettings, outcome: Outcome, units: Units) -> dict[str, Any]:
    """Metrics, groups and their spread, all from the same resamples."""
    protocol, repeats, seed = settings.chosen, settings.bootstrap, settings.seed
    if repeats is None:
        repeats = _REPEATS if outcome.n <= _MANY_UNITS else _FEW_REPEATS
    subsets = units.subsets()
    score = partial(protocol.score, parameters=outcome.parameters)
    resamples = resampled_weights(outcome.n, repeats, seed, outcome.clusters, "intervals")
    overall, *grouped = bootstrap(score, outcome.columns, [ALL, *subsets.values()], resamples)
    metrics = {name: estimate.document() for name, estimate in overall.items()}
    for name, reason in outcome.reasons.items():
        metrics[name]["reason"] = reason
    groups: dict[str, dict[str, Any]] = {}
    for ((column, value), rows), found in zip(subsets.items(), grouped, strict=True):
        entries = {name: estimate.document() for name, estimate in found.items()}
        groups.setdefault(column, {})[value] = {"n": len(rows), "metrics": entries}
    return {
        "metrics": metrics,
        "groups": groups,
        "spread": {column: _spread(found, protocol.lower_is_better) for column, found in groups.items()},
        "interval": {"level": LEVEL, "repeats": repeats, "resampled": outcome.resampled, "seed": seed},
    }


def _spread(groups: Mapping[str, Mapping[str, Any]], lower_is_better: frozenset[str]) -> dict[str, Any]:
    """How far the groups lie apart, metric by metric, for metrics that two groups or more have."""
    found: dict[str, Any] = {}
    for metric in next(iter(groups.values()))["metrics"]:
        found_in = ((name, group["metrics"][metric]["value"]) for name, group in groups.items())
        values = {name: value for name, value in found_in if value is not None}
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


def _drawn(path: Path, draw: Callable[[Any], None]) -> str:
    """Draw a plot into a file; its name."""
    from kdbias.display.figure import figure_file

    with figure_file(path, width=6.4, height=4.0, font=10) as figure:
        draw(figure.add_subplot())
    return path.name


def _group_table(column: str, groups: Mapping[str, Mapping[str, Any]], named: Mapping[str, str]) -> Table:
    """A row a group: its size and the metrics that any group has, headed by their names."""
    rows = [
        {"group": value, "n": group["n"], **{m: number(e["value"]) for m, e in group["metrics"].items()}}
        for value, group in groups.items()
    ]
    known = [name for name in named if any(name in row and row[name].text != NONE for row in rows)]
    return Table.of(rows, ["group", "n", *known], headings={"group": column, **named})


def _named(metric: str, details: Mapping[str, Any]) -> str:
    """A metric as it is printed: error rates at one threshold with the FAR that chose it."""
    point = details.get("operating_point")
    return f"{metric}@far<={far_name(point['far'])}" if point and metric in ("fmr", "fnmr") else metric
