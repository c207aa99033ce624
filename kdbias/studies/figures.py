"""A study's plots, one SVG a round and question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.figure import FAINT, LIGHT, Look, figure_file, fit_texts, legend_of_all, looks
from kdbias.display.quantities import QUANTITIES
from kdbias.studies.arms import BASELINE
from kdbias.studies.comparisons import Budget, CaseRows, budgets_of, cases_of, correlate, few_seeds
from kdbias.studies.results import Outline, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = ("centroid_balanced_accuracy", "centroid_tail_accuracy", "knn_balanced_accuracy", "cosine")
_LABELS = {name: QUANTITIES[name].heading.partition(" (")[0] for name in _NAMED}
_LABELS |= {"distance": "distance to the teacher", "auc": "AUC"}
_COLUMNS = 3
_WIDTH, _LEAST_WIDTH = 4.2, 5.0  # inches: of a panel, and of a file
_FRAME, _ROW = 1.3, 0.2  # inches: around the rows of a panel, and each
_NEARER = "Below 0: nearer to the teacher than under natural sampling."
_DECILE = "fidelity.distance[density_decile="


def write_plots(outline: Outline, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the plots of every round that has finished runs; returns their paths."""
    cases = cases_of(outline, rows)
    written = []
    for round_ in dict.fromkeys(case.round for case in cases):
        own = [case for case in cases if case.round == round_ and case.of(BASELINE)]
        if own:
            written += _write_round(own, folder, round_)
    return written


def _write_round(cases: Sequence[CaseRows], folder: Path, name: str) -> list[Path]:
    """Write one round's plots, each where there is something to show; returns their paths."""
    return [_panels(folder / f"{name}-{plot.name}.svg", plot) for plot in plots_of(cases) if plot.cases]


@dataclass(frozen=True)
class Plot:
    """One question about the cases of a round: a panel for each.

    Attributes:
        name: of its file.
        title: what is shown.
        cases: that have something to show.
        draw: draws one of them, in the colours of `looks`.
        height: of a panel, in inches.
        reading: how to read it, for a caption.
    """

    name: str
    title: str
    cases: Sequence[Any]
    draw: Callable[[Axes, Any, Sequence[str]], None]
    height: float
    reading: str = ""


def plots_of(cases: Sequence[CaseRows]) -> list[Plot]:
    """The plots of one round's cases, all of which have the baseline."""
    distilled = [case for case in cases if _shown(case)]
    with_deciles = [c for c in distilled if any(_DECILE in metric for metric in c.rows[0].metrics)]
    grouped = [case for case in distilled if _groups(case)]
    tall = _FRAME + _ROW * max((len(_groups(case)) for case in grouped), default=0)
    distance_title = "distance to the teacher by {}, against natural sampling"
    return [
        Plot(
            "gains",
            "error removed, against natural sampling (▲ better, ▼ worse: the 95 % interval excludes 0)",
            cases,
            _gains,
            _FRAME + _ROW * max(3, *(len(case.arms) for case in cases)),
            "Mean and 95 % interval over paired seeds; 0 is natural sampling. " + few_seeds(cases),
        ),
        Plot(
            "uniformity",
            "effective distinct samples and gain",
            cases,
            _scatter,
            2.8,
            "Do evener draws teach better? Each arm's distinct samples against what it removes of the error.",
        ),
        Plot("density", distance_title.format("density"), with_deciles, _deciles, 2.8, _NEARER),
        Plot("groups", distance_title.format("group"), grouped, _by_group, tall, _NEARER),
        Plot("steps", "mean ± standard deviation over seeds, by steps", budgets_of(cases), _steps, 3.0),
    ]


def _panels(path: Path, plot: Plot) -> Path:
    """A panel for each case; one legend for all where the panels label their artists."""
    columns = min(_COLUMNS, len(plot.cases))
    lines = math.ceil(len(plot.cases) / columns)
    width, height = max(_LEAST_WIDTH, _WIDTH * columns), plot.height * lines + 0.7
    with figure_file(path, width=width, height=height, font=8) as figure:
        panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
        for axes, case in zip(panels, plot.cases, strict=False):
            plot.draw(axes, case, LIGHT)
        for axes in panels[len(plot.cases) :]:
            axes.set_visible(False)
        legend_of_all(figure, min(7, 2 * columns))
        figure.suptitle(plot.title)
        fit_texts(figure)
    return path


def _look(case: CaseRows, hues: Sequence[str]) -> dict[str, Look]:
    """The look of each arm, by its place among the arms of the study."""
    return looks([BASELINE, *case.study_arms], hues)


def _label(metric: str) -> str:
    """A metric for a reader: `knn.centroid_balanced_accuracy` is balanced accuracy, nearest centroid."""
    name = metric.rpartition(".")[2]
    return _LABELS.get(name, name.replace("_", " "))


def _gains(axes: Axes, case: CaseRows, hues: Sequence[str]) -> None:
    """The share of natural's error that each arm removes, with its interval."""
    metric = case.primary[0]
    compared = [case.compare(arm, metric) for arm in reversed(case.arms) if arm != BASELINE]
    found = [c for c in compared if c is not None]
    for place, one in enumerate(found):
        better = one.difference.better if one.difference else 0
        color, marker = hues[better % 3], "o^v"[better]  # undecided, better, worse
        gain = one.gain.times(100)
        axes.plot([gain.low, gain.high], [place, place], color=color, linewidth=1.2)
        axes.plot([gain.value], [place], marker, color=color, markersize=5)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(len(found)), [c.arm for c in found])
    axes.set_ylim(-0.6, len(found) - 0.4)
    distilled = [c.gain.times(100) for c in found if c.arm in case.distilled]
    _limit(axes, [v for gain in distilled for v in (gain.value, gain.low, gain.high)])
    _mark_beyond(axes, [100 * c.gain.value for c in found])
    axes.set(title=case.name, xlabel=f"{_label(metric)}:\nerror removed (%)")


def _limit(axes: Axes, gains: Sequence[float]) -> None:
    """Leave far-off arms (from scratch) out of the picture, for the others to be seen."""
    if not gains:
        return
    low, high = np.nanmin([0, *gains]), np.nanmax([0, *gains])
    room = 0.15 * (high - low) + 0.1
    shown = axes.get_xlim()
    axes.set_xlim(max(shown[0], low - room), min(shown[1], high + room))


def _mark_beyond(axes: Axes, values: Sequence[float]) -> None:
    """Write out, in its row, each value that the picture leaves out."""
    low, high = axes.get_xlim()
    for place, value in enumerate(values):
        if value < low:
            axes.annotate(f"← {value:.0f}", (low, place), (3, -3), textcoords="offset points")
        elif value > high:
            axes.annotate(f"{value:.0f} →", (high, place), (-3, -3), textcoords="offset points", ha="right")


def _scatter(axes: Axes, case: CaseRows, hues: Sequence[str]) -> None:
    """Gain against effective distinct samples, each as a ratio to natural's."""
    natural = case.facts(BASELINE)["effective_distinct"]
    look = _look(case, hues)
    for arm in case.through_one_sampler:
        found = case.compare(arm, case.primary[0])
        if arm == BASELINE or found is None:
            continue
        x, gain = case.facts(arm)["effective_distinct"] / natural, found.gain.times(100)
        axes.plot([x, x], [gain.low, gain.high], color=look[arm].color, linewidth=0.8)
        axes.plot([x], [gain.value], markersize=5, **look[arm].dots)
    axes.plot([1], [0], markersize=5, **look[BASELINE].dots)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    rho = correlate([case], "effective_distinct", repeats=0)
    title = case.name if rho is None else f"{case.name}: rank correlation {rho.value:+.2f}"
    gained = f"{_label(case.primary[0])}:\nerror removed (%)"
    axes.set(title=title, xlabel="effective distinct samples / natural's", ylabel=gained)


def _change(case: CaseRows, arm: str, metric: str) -> float:
    """Relative change of a distance against natural, in percent."""
    found = case.compare(arm, metric)
    return math.nan if found is None else -100 * found.gain.value


def _shown(case: CaseRows) -> list[str]:
    """The arms with a teacher, without the baseline."""
    return [arm for arm in case.distilled if arm != BASELINE]


def _deciles(axes: Axes, case: CaseRows, hues: Sequence[str]) -> None:
    """Change of the distance to the teacher from the most isolated to the most crowded test samples."""
    look = _look(case, hues)
    deciles = range(1, 11)
    for arm in _shown(case):
        changes = [_change(case, arm, f"{_DECILE}{d:02d}]") for d in deciles]
        axes.plot(deciles, changes, marker=look[arm].marker, markersize=3, **look[arm].stroke)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    deciles_title = "decile of density (1 = most isolated)"
    axes.set(title=case.name, xlabel=deciles_title, ylabel="change of distance (%)")


def _groups(case: CaseRows) -> list[str]:
    """Metrics `fidelity.distance` of the groups that are no deciles."""
    metrics = case.rows[0].metrics
    return [m for m in metrics if m.startswith("fidelity.distance[") and "=" in m and _DECILE not in m]


def _by_group(axes: Axes, case: CaseRows, hues: Sequence[str]) -> None:
    """Change of the distance to the teacher for each arm and group."""
    groups, arms = _groups(case), _shown(case)
    changes = np.array([[_change(case, arm, group) for arm in arms] for group in groups])
    most = float(np.nanmax(np.abs(changes))) or 1.0
    axes.imshow(changes, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for i, j in np.ndindex(changes.shape):
        ink = "white" if abs(changes[i, j]) > 0.7 * most else "black"  # the map is dark at both ends
        axes.text(j, i, f"{changes[i, j]:+.1f}", ha="center", va="center", fontsize="small", color=ink)
    names = [group.partition("[")[2].rstrip("]") for group in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{case.name}: change (%), blue = nearer")


def _steps(axes: Axes, budget: Budget, hues: Sequence[str]) -> None:
    """The first metric against steps, a line an arm; arms stand side by side for their spreads to be seen."""
    look = _look(budget.cases[0], hues)
    for i, arm in enumerate(budget.arms):
        places = [step * 1.02 ** (i - (len(budget.arms) - 1) / 2) for step in budget.steps(arm)]
        axes.errorbar(
            places, *budget.curve(arm), marker=look[arm].marker, markersize=4, capsize=2, **look[arm].stroke
        )
    steps = budget.steps()
    axes.set(title=budget.name, xscale="log", xlabel="steps", ylabel=_label(budget.metric))
    axes.set_xticks(steps, [f"{step:,}" for step in steps])
    axes.minorticks_off()
