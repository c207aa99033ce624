"""Evaluations one by one: every metric with its interval, each group, and the plots beside them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbias.reporting.collect import Evaluation
from kdbias.reporting.summaries import shown_measures, spread
from kdbias.reporting.tables import NONE, Cell, Table, number
from kdbias.reporting.training_figures import Measure
from kdbias.wording import plural

_GROUPS = 40  # rows of a table by group
_METRICS = 8  # its columns
_ACROSS = 6  # lines up to which a group is a column and a metric a row
_IMAGES = 4  # plots of an evaluation
_LARGEST = 4 << 20  # bytes of a plot
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Image:
    """A plot that a stage drew, as a data URI."""

    title: str
    caption: str
    uri: str


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Every evaluation with all its metrics and intervals."""
    rows = []
    for e in evaluations:
        judged = judged_by(e)
        for name, entry in (e.metrics.get("metrics") or {}).items():
            if not isinstance(entry, Mapping):
                entry = {"value": entry}
            low, high = entry.get("low"), entry.get("high")
            interval = NONE if low is None or high is None else f"{low:.4f} to {high:.4f}"
            rows.append(
                [
                    Cell(e.path.name),
                    Cell(judged),
                    Cell(str(e.metrics.get("protocol", ""))),
                    Cell(name.replace("_", " ")),
                    number(entry.get("value"), 4),
                    Cell(interval, True),
                ]
            )
    if not rows:
        return None
    columns = [
        ("evaluation", "its folder"),
        ("judged", "run or table"),
        ("protocol", ""),
        ("metric", ""),
        ("value", ""),
        (
            "95 % interval",
            "percentile bootstrap over the judged units; the spread over training seeds is not in it",
        ),
    ]
    return Table("All evaluations", "Each metric with its bootstrap interval.", columns, rows)


def group_tables(evaluation: Evaluation) -> list[Table]:
    """A table a grouping column: a row a group with value and interval of each metric, then their spread."""
    document = evaluation.metrics
    tables = []
    for column, groups in (document.get("groups") or {}).items():
        metrics = list(dict.fromkeys(name for _, name, e in _estimates(groups) if e["value"] is not None))
        if not metrics:
            continue
        shown = metrics[:_METRICS]
        lines = [[Cell(column), Cell("n", True), *(Cell(name.replace("_", " "), True) for name in shown)]]
        for value, group in list(groups.items())[:_GROUPS]:
            held = group.get("metrics") or {}
            estimates = [_estimate(held.get(name)) for name in shown]
            lines.append([Cell(str(value)), number(group.get("n"), 0), *estimates])
        across = (document.get("spread") or {}).get(column) or {}
        if across:
            gaps = [_gap(across.get(name) or {}) for name in shown]
            lines.append([Cell("gap"), Cell("", True), *gaps])
        if len(lines) <= _ACROSS:  # few groups stand side by side
            lines = [list(line) for line in zip(*lines, strict=True)]
            lines = [[Cell(line[0].text), *(replace(c, number=True) for c in line[1:])] for line in lines]
        caption = (
            f"Judged: {judged_by(evaluation)}, protocol {document.get('protocol', '?')}. Each value with its "
            "95 % bootstrap interval; gap = the best group's value less the worst one's."
        )
        if len(groups) > _GROUPS:
            caption += f" The first {_GROUPS} of {len(groups):,} groups."
        if len(metrics) > _METRICS:
            caption += f" The first {_METRICS} of {len(metrics):,} metrics."
        heads = [(cell.text, "") for cell in lines[0]]
        tables.append(Table(f"{evaluation.path.name} by {column}", caption, heads, lines[1:]))
    return tables


def judged_by(evaluation: Evaluation) -> str:
    """What an evaluation judged, by name."""
    if evaluation.run is not None:
        return evaluation.run.path.name
    return str((evaluation.record.get("paths") or {}).get("model") or evaluation.path.name)


def _estimates(groups: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(group, metric, estimate) of one grouping column."""
    for value, group in groups.items():
        for name, entry in (group.get("metrics") or {}).items():
            yield value, name, entry if isinstance(entry, Mapping) else {"value": entry}


def _estimate(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None or entry.get("value") is None:
        return Cell(NONE, True)
    text = f"{entry['value']:.4f}"
    low, high = entry.get("low"), entry.get("high")
    return Cell(text if low is None or high is None else f"{text} [{low:.3f}, {high:.3f}]", True)


def _gap(entry: Mapping[str, Any]) -> Cell:
    if entry.get("gap") is None:
        return Cell(NONE, True)
    worst = f" (worst: {entry['worst']})" if entry.get("worst") is not None else ""
    return Cell(f"{entry['gap']:.4f}{worst}", True)


def students_by_group(evaluations: Sequence[Evaluation], order: Sequence[str]) -> list[Table]:
    """A table a grouping column: what the students of each scheme reached in each group."""
    columns = list(dict.fromkeys(column for e in evaluations for column in e.metrics.get("groups") or {}))
    tables = []
    for column in columns:
        values: dict[str, dict[str, dict[str, list[float]]]] = {}  # metric -> group -> scheme -> a run each
        for evaluation in evaluations:
            if evaluation.run is None:
                continue
            for group, name, entry in _estimates((evaluation.metrics.get("groups") or {}).get(column) or {}):
                if entry["value"] is not None:
                    by_scheme = values.setdefault(name, {}).setdefault(group, {})
                    by_scheme.setdefault(evaluation.run.scheme, []).append(float(entry["value"]))
        if values:
            tables.append(_by_group(column, values, order))
    return tables


def _by_group(
    column: str, values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], order: Sequence[str]
) -> Table:
    measures: list[Measure] = shown_measures(values)
    groups = list(dict.fromkeys(group for m in measures for group in values[m.key]))
    held = {scheme for m in measures for by_scheme in values[m.key].values() for scheme in by_scheme}
    schemes = [scheme for scheme in order if scheme in held]
    rows = [
        [
            Cell(str(group)),
            Cell(scheme),
            *(spread(values[m.key].get(group, {}).get(scheme, ()), m) for m in measures),
        ]
        for group in groups[:_GROUPS]
        for scheme in schemes
    ]
    heads = [(column, ""), ("sampling", ""), *((m.label, "") for m in measures)]
    caption = "Mean over runs ± one standard deviation (ddof 1) in each group of the judged samples."
    if len(groups) > _GROUPS:
        caption += f" The first {_GROUPS} of {len(groups):,} groups."
    return Table(f"Students by {column}", caption, heads, rows)


def plots(evaluation: Evaluation) -> list[Image]:
    """The plots that the evaluation drew and that still lie in its folder."""
    document = evaluation.metrics
    listed = [name for name in document.get("plots") or [] if isinstance(name, str)]
    images = []
    for name in listed[:_IMAGES]:
        file = evaluation.path / Path(name).name
        if not file.is_file() or file.stat().st_size > _LARGEST:
            continue
        content = file.read_bytes()
        if not content.startswith(_PNG):
            continue
        count, units = document.get("n"), plural(document.get("unit", "unit"))
        judged = f"{count:,} {units}" if isinstance(count, int) else units
        caption = f"Drawn by kdbias evaluate: protocol {document.get('protocol', '?')}, {judged}."
        uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        images.append(Image(f"{evaluation.path.name}: {file.stem.replace('_', ' ')}", caption, uri))
    return images
