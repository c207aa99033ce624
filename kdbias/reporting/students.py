"""The section about training: what the students reached, by group too, and how their runs went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdbias.display.figure import Look
from kdbias.reporting import evaluations, training_figures
from kdbias.reporting.collect import Collection
from kdbias.reporting.sections import Section
from kdbias.reporting.summaries import shown_measures, students_table, values_by_scheme

_LINES = 8  # metrics of training drawn at most
_IN_FULL = 3  # evaluations of students that are shown one by one; of more, only what a scheme reaches


def students_section(found: Collection, look: Mapping[str, Look]) -> Section:
    section = Section("students", "Training and students" if found.runs else "Evaluations")
    alike = found.judged_alike
    values = values_by_scheme(alike, list(look))
    table = students_table(values)
    if table is not None:
        section.tables.append(table)
        figure = training_figures.results_by_scheme("results", values, shown_measures(values), look)
        if figure is not None:
            section.figures.append(figure)
    alone = [e for e in found.evaluations if e not in alike or table is None]
    others = evaluations.evaluations_table(alone)
    if others is not None:
        section.tables.append(others)
    judged = [e for e in found.evaluations if e not in alone]
    shown = found.evaluations if len(judged) <= _IN_FULL else alone
    for evaluation in shown:
        section.tables += evaluations.group_tables(evaluation)
        section.images += evaluations.plots(evaluation)
    if len(judged) > _IN_FULL:
        section.tables += evaluations.students_by_group(judged, list(look))
    curves: dict[str, list[training_figures.Curve]] = {}
    x_label = "epoch"
    order = list(look)
    for run in sorted(found.runs, key=lambda r: order.index(r.scheme)):
        x_label, lines = _curves(run.metrics, run.scheme)
        loss = (run.record.get("config") or {}).get("loss")
        for quantity, line in lines.items():
            named = f"{quantity} ({loss})" if loss and "loss" in quantity else quantity
            curves.setdefault(named.replace("_", " "), []).append(line)
    figure = training_figures.training_curves("training", dict(list(curves.items())[:_LINES]), x_label, look)
    if figure is not None:
        section.figures.append(figure)
    return section


_X_AXES = ("epoch", "step", "steps")
# Columns of metrics.csv that say how a run went along, not what it learnt.
_BOOKKEEPING = {
    "epoch",
    "step",
    "steps",
    "lr",
    "images_per_second",
    "data_wait",
    "ess_fraction",
    "unreadable",
    "seconds",
}


def _curves(
    metrics: Mapping[str, Sequence[object]], scheme: str
) -> tuple[str, dict[str, training_figures.Curve]]:
    """The columns of metrics.csv that are results, each over the first of epoch and step that is there."""
    x_name = next((name for name in _X_AXES if name in metrics), "row")
    length = len(next(iter(metrics.values()), ()))
    x_values = metrics.get(x_name, list(range(length)))
    found = {}
    for name, column in metrics.items():
        if name in _BOOKKEEPING:
            continue
        pairs = [(x, y) for x, y in zip(x_values, column, strict=True) if _is_number(x) and _is_number(y)]
        if pairs:
            array = np.array(pairs, dtype=float)
            found[name] = training_figures.Curve(scheme, array[:, 0], array[:, 1])
    return x_name, found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
