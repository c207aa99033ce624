"""Training curves, and what the students reached with the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdbias.display.figure import Figure, Look, legend_below, panel, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """One quantity over one run, with the name under which runs share a colour (the weight scheme)."""

    scheme: str
    x: np.ndarray
    y: np.ndarray


def training_curves(
    name: str, curves: Mapping[str, Sequence[Curve]], x_label: str, look: Mapping[str, Look]
) -> Figure | None:
    """One panel a quantity; runs of the same scheme share a colour (one thin line a run)."""
    panels = []
    for i, (quantity, lines) in enumerate(curves.items()):
        lines = [c for c in lines if len(c.y)]
        if not lines:
            continue

        def draw(axes: Axes, lines: Sequence[Curve] = lines, quantity: str = quantity) -> None:
            named: set[str] = set()
            for c in lines:
                axes.plot(
                    c.x,
                    c.y,
                    color=look[c.scheme].color,
                    linestyle=look[c.scheme].line,
                    linewidth=1.3,
                    alpha=0.85,
                    marker="." if len(c.x) < 3 else None,
                    label=None if c.scheme in named else c.scheme,
                )
                named.add(c.scheme)
            positive = min(float(np.nanmin(c.y)) for c in lines) > 0
            if positive and max(float(np.nanmax(c.y)) for c in lines) > 8 * min(
                float(np.nanmin(c.y)) for c in lines
            ):
                axes.set_yscale("log")
                plain_log_ticks(axes.yaxis)
            axes.set_xlabel(x_label)
            axes.set_ylabel(quantity)
            legend_below(axes, 3)

        panels.append(panel(f"{name}-{i}", draw))
    if not panels:
        return None
    caption = (
        "Progress of each run (one line a run, one colour a scheme). The training loss is a mean over what a "
        "run draws, so curves of two schemes measure different samples: compare students by the evaluation, "
        "not by these curves. A curve that still falls at its end says that the run was too short."
    )
    return Figure(name, "Training", caption, tuple(panels))


@dataclass(frozen=True)
class Measure:
    """What to plot of a table of results."""

    key: str
    label: str  # with its unit
    higher_is_better: bool
    percent: bool = False


def results_by_scheme(
    name: str,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    measures: Sequence[Measure],
    look: Mapping[str, Look],
) -> Figure | None:
    """One panel a measure: each run a dot, the mean a bar, +- one standard deviation over runs a line.

    Args:
        name: unique within the page.
        values: measure key -> scheme -> one value a run.
        measures: which to draw, in order.
        look: colours by scheme.
    """
    panels = []
    for measure in measures:
        by_scheme = {s: np.asarray(v, dtype=float) for s, v in values.get(measure.key, {}).items() if len(v)}
        if sum(map(len, by_scheme.values())) < 2:  # the table says it
            continue

        def draw(axes: Axes, m: Measure = measure, data: Mapping[str, np.ndarray] = by_scheme) -> None:
            _dots(axes, m, data, look)

        panels.append(panel(f"{name}-{measure.key}", draw, height=1.1 + 0.42 * len(by_scheme)))
    if not panels:
        return None
    counts = sorted({len(v) for m in values.values() for v in m.values()})
    runs = " to ".join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))
    caption = f"What the students reached: every run is a dot ({runs} run{'s' * (counts[-1] > 1)} a scheme)"
    if counts[-1] > 1:
        caption += (
            ", the upright bar is the mean and the line one standard deviation to each side. Where the lines "
            "of two schemes overlap, the seeds alone could explain the difference."
        )
    else:
        caption += (
            ". One run says nothing about the spread over seeds, which may be larger than a difference."
        )
    return Figure(name, "Students", caption, tuple(panels))


def _dots(axes: Axes, measure: Measure, data: Mapping[str, np.ndarray], look: Mapping[str, Look]) -> None:
    factor = 100 if measure.percent else 1
    rows = np.arange(len(data))[::-1]
    for row, (scheme, v) in zip(rows, data.items(), strict=True):
        color = look[scheme].color
        mean, spread = factor * v.mean(), factor * (v.std(ddof=1) if len(v) > 1 else 0.0)
        axes.plot([mean - spread, mean + spread], [row, row], color=color, linewidth=2)
        axes.plot(mean, row, "|", color=color, markersize=16, markeredgewidth=2.5)
        offsets = np.linspace(-0.16, 0.16, len(v)) if len(v) > 1 else np.zeros(1)
        axes.plot(factor * v, row + offsets, "o", color=color, markersize=4.5, alpha=0.75)
    axes.set_yticks(rows, [scheme.replace(" (", "\n(", 1) for scheme in data])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    better = "right" if measure.higher_is_better else "left"
    name, _, unit = measure.label.removesuffix(")").partition(" (")
    axes.set_title(name, loc="left")
    axes.set_xlabel(f"{unit or name}; {better} is better")
