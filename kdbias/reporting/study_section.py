"""What the page shows of a study: differences to natural sampling, by group too, and its plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.display.figure import SERIES, Figure, fit_texts, legend_below, panel
from kdbias.display.table import Cell, Table
from kdbias.reporting.outputs import StudyOutput
from kdbias.studies.arms import BASELINE
from kdbias.studies.comparisons import CaseRows, cases_of, few_seeds
from kdbias.studies.conclusions import READING, against, trained
from kdbias.studies.figures import Plot, plots_of
from kdbias.studies.results import read_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUPS = 40  # rows of a table by group


def read_study_output(folder: Path, record: dict[str, Any]) -> StudyOutput:
    """What a study left in a folder.

    Raises:
        KdbiasError: nothing of it is finished, or a file is damaged.
    """
    outline, rows, document = read_results(folder)
    return StudyOutput(folder, record, document, tuple(cases_of(outline, rows)))


def study_notices(study: StudyOutput) -> Iterator[str]:
    """What a reader must know first: runs that are missing, and seeds that are too few."""
    if missing := study.document["missing"]:
        yield f"{study.path}: {missing:,} of {study.document['planned']:,} runs are missing"
    if few := few_seeds(study.cases):
        yield f"{study.path}: {few}"


def study_tables(study: StudyOutput) -> list[Table]:
    """For each case the differences to natural sampling, then those by group."""
    found = []
    for case in study.cases:
        if case.of(BASELINE):
            title = f"{case.name}, round {case.round}: against natural sampling"
            caption = f"{trained(case)}. {' '.join(READING.split())}"
            table = against(case, BASELINE, case.arms)
            found += [replace(table, title=title, caption=caption), *_by_group(case)]
    return found


def _by_group(case: CaseRows) -> Iterator[Table]:
    """The share of natural sampling's error that each arm removes, in each group, by the first metric."""
    metric = case.primary[0]
    names = case.of(BASELINE)[0].metrics
    groups = [name for name in names if name.startswith(f"{metric}[") and "=" in name][:_GROUPS]
    arms = [arm for arm in case.distilled if arm != BASELINE]
    if not groups or not arms:
        return
    rows = [[Cell(_value(group)), *(_cell(case, arm, group) for arm in arms)] for group in groups]
    title = f"{case.name}, round {case.round}: by group"
    caption = (
        f"Share of natural sampling's error that is removed, % (negative: added), by {metric}, with 95 % "
        "intervals over paired seeds; ▲ better and ▼ worse where they exclude 0."
    )
    yield Table(title, caption, [("group", ""), *((arm, "") for arm in arms)], rows)


def _value(metric: str) -> str:
    """COLUMN=VALUE of a metric of a group."""
    return metric.partition("[")[2].rstrip("]")


def _cell(case: CaseRows, arm: str, metric: str) -> Cell:
    """A gain in percent with its interval and mark."""
    found = case.compare(arm, metric)
    if found is None or found.difference is None:
        return Cell("n/a", True)
    return Cell(found.gain.times(100).write(1) + found.difference.mark, True)


def study_figures(study: StudyOutput, name: str) -> list[Figure]:
    """The plots of each round, in the page's colours.

    Args:
        name: what ids on the page begin with.
    """
    found = []
    for i, round_ in enumerate(dict.fromkeys(case.round for case in study.cases)):
        own = [case for case in study.cases if case.round == round_ and case.of(BASELINE)]
        for plot in plots_of(own) if own else ():
            if plot.cases:
                found.append(_figure(plot, f"{name}-{i}-{plot.name}", round_))
    return found


def _figure(plot: Plot, name: str, round_: str) -> Figure:
    """One plot, a panel a case."""
    panels = tuple(
        panel(f"{name}-{i}", partial(_drawn, plot, case), height=plot.height)
        for i, case in enumerate(plot.cases)
    )
    title = f"Round {round_}: {plot.title}"
    return Figure(name, title, plot.reading or plot.title, panels)


def _drawn(plot: Plot, case: Any, axes: Axes) -> None:
    """Draw one case, with all its texts whole."""
    plot.draw(axes, case, SERIES)
    legend_below(axes)
    fit_texts(axes.figure)  # type: ignore[arg-type]
