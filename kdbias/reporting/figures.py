"""Figures of numbers: evenness against ESS and over bandwidths, frontiers, how students went and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.figure import SERIES, Figure, Look, legend_below, panel, plain_log_ticks
from kdbias.display.quantities import Quantity, write
from kdbias.weighting.frontier_figure import OPTIMUM, below, draw_panel, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdbias.reporting.outputs import Density, Frontier

    Rows = Sequence[Mapping[str, Any]]
    Looks = Mapping[str, Look]


def uniformity_against_ess(
    name: str, rows: Rows, look: Looks, frontier: Mapping[float, Sequence[tuple[float, float]]] | None = None
) -> Figure | None:
    """One panel a bandwidth: uniformity over ESS.

    Args:
        name: unique within the page.
        rows: scheme, t, ess_share, uniformity and null, one for each scheme and bandwidth.
        look: by scheme.
        frontier: t -> (ESS/n, uniformity) on the optimum.
    """
    panels, reaches = [], False
    for i, t in enumerate(sorted({row["t"] for row in rows})):
        here = [row for row in rows if row["t"] == t and row["uniformity"] is not None]
        line = (frontier or {}).get(t) or ()
        if len(here) + len(line) < 2:  # a dot alone trades nothing off
            continue
        reaches = reaches or _shows_null(here, line)
        panels.append(panel(f"{name}-{i}", partial(_trade_off, t=t, rows=here, look=look, frontier=line)))
    if not panels:
        return None
    dotted = (
        " (the dotted line is a perfectly uniform sphere of the same dimension; finite data of one kind "
        "cannot reach it)"
    )
    caption = (
        f"The trade-off of re-weighting. Down = the draws cover the sphere more evenly{dotted * reaches}. "
        "Left = fewer samples carry the epoch. The best place is low and right; a scheme that lies above and "
        "left of another pays more for less. One panel for each kernel bandwidth t: larger t looks at "
        "closer neighbours."
    )
    return Figure(name, "Uniformity against effective sample size", caption, tuple(panels))


def nearness_against_ess(name: str, density: Density, look: Looks) -> Figure | None:
    """The squared discrepancy from the target over ESS; None of natural sampling alone.

    Args:
        name: unique within the page.
        density: measured against a target.
        look: by scheme.
    """
    target, schemes = density.numbers["target"], density.numbers["schemes"]
    if len(schemes) < 2:
        return None
    rows = [
        {**scheme, "scheme": scheme["name"], "method": "", "discrepancy": scheme["discrepancy"]["value"]}
        for scheme in schemes
    ]

    def draw(axes: Axes) -> None:
        draw_panel(axes, rows, "discrepancy", look, target)
        axes.set_xlim(0, 105)
        legend_below(axes, 2)

    noise = (
        " At the dotted line the draws are as near as a reference of this size can tell; what lies below it "
        "follows the chance in the reference."
    )
    caption = (
        f"What nearness to {target['towards']} costs. Down = the draws are more like the target. Left = "
        "fewer samples carry the epoch. The best place is low and right; a scheme that lies above and left "
        f"of another pays more for less.{noise if target['noise'] else ''}"
    )
    return Figure(name, "Distance to the target against effective sample size", caption, (panel(name, draw),))


def _stretch(rows: Rows, frontier: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Least and largest uniformity of a panel, and how much that counts as."""
    values = [row["uniformity"] for row in rows] + [u for _, u in frontier]
    low, high = min(values), max(values)
    return low, high, max(high - low, 1e-3 * abs(high), 1e-6)


def _shows_null(rows: Rows, frontier: Sequence[tuple[float, float]]) -> bool:
    """Whether a uniform sphere is near enough to be drawn in the same panel."""
    low, _, spread = _stretch(rows, frontier)
    return rows[0]["null"] > low - 2.5 * spread


def _trade_off(
    axes: Axes, t: float, rows: Rows, look: Looks, frontier: Sequence[tuple[float, float]]
) -> None:
    """Draw uniformity against ESS (%), with the frontier where it is known."""
    if frontier:
        line = [(100 * ess, u) for ess, u in sorted(frontier)]
        style: dict[str, Any] = {"linewidth": 1.4, "linestyle": "--", "label": "equilibrium frontier"}
        axes.plot(*zip(*line, strict=True), color=look[OPTIMUM].color, **style)
    for row in rows:
        axes.plot(100 * row["ess_share"], row["uniformity"], **look[row["scheme"]].dots, markersize=8)
    null = rows[0]["null"]
    if _shows_null(rows, frontier):
        axes.axhline(null, color=SERIES[0], linewidth=1.2, linestyle=":", label="uniform sphere")
    else:
        low, high, spread = _stretch(rows, frontier)
        axes.set_ylim(low - 0.25 * spread, high + 0.2 * spread)
        said = f"uniform sphere far below: {null:.2f}"
        axes.annotate(said, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8.5)
    axes.set_xlim(0, 105)
    axes.set_title(f"t = {t:g}", loc="left")
    axes.set_xlabel("effective sample size (% of n)")
    axes.set_ylabel("uniformity (nats)")
    legend_below(axes, 2)


def distinct_across_bandwidths(name: str, rows: Rows, look: Looks) -> Figure | None:
    """Effective number of distinct samples over t, one line a scheme, with the ceiling of the dimension.

    Args:
        name: unique within the page.
        rows: scheme, t, effective_distinct and distinct_ceiling, one for each scheme and bandwidth.
        look: by scheme.
    """
    bandwidths = sorted({row["t"] for row in rows})
    if len(bandwidths) < 2:
        return None
    ceilings = {row["t"]: row["distinct_ceiling"] for row in rows if row["distinct_ceiling"] is not None}
    top = max(row["effective_distinct"] or 1.0 for row in rows)
    tall = max(ceilings.values(), default=0.0) > 30 * top
    visible = any(value < 6 * top for value in ceilings.values()) or bool(ceilings and not tall)

    def draw(axes: Axes) -> None:
        if visible:
            dotted: dict[str, Any] = {"linestyle": ":", "label": "ceiling (uniform sphere)"}
            axes.plot(*zip(*sorted(ceilings.items()), strict=True), color=SERIES[0], linewidth=1.2, **dotted)
        for scheme in dict.fromkeys(row["scheme"] for row in rows):
            own = {row["t"]: row["effective_distinct"] for row in rows if row["scheme"] == scheme}
            line = sorted((t, distinct) for t, distinct in own.items() if distinct is not None)
            marks: dict[str, Any] = {"marker": look[scheme].marker, "markersize": 4}
            axes.plot([t for t, _ in line], [d for _, d in line], **look[scheme].stroke, **marks)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(bandwidths, [f"{t:g}" for t in bandwidths])
        axes.minorticks_off()
        plain_log_ticks(axes.yaxis)
        if tall:
            axes.set_ylim(top=6 * top)
        axes.set_xlabel("kernel bandwidth t (larger = closer neighbours)")
        axes.set_ylabel("effective distinct samples D")
        legend_below(axes, 2)

    dotted = (
        "The dotted ceiling is what a uniform sphere of this dimension would give; no data can exceed it. "
    )
    caption = (
        "How many distinct samples the draws are worth, at each bandwidth. D counts near-duplicates as "
        f"one; the finer the kernel (larger t), the more samples count as distinct. {dotted * visible}A "
        "number without its t means nothing."
    )
    return Figure(name, "Effective number of distinct samples", caption, (panel(name, draw),))


def frontier_figure(name: str, frontier: Frontier, look: Looks) -> Figure | None:
    """One panel a measure; None where no scheme has any."""

    def draw(axes: Axes, column: str) -> None:
        draw_panel(axes, frontier.rows, column, look, frontier.record.get("target"))
        legend_below(axes, 2)

    drawn = [
        panel(f"{name}-{i}", partial(draw, column=column))
        for i, column in enumerate(panels(frontier.rows))
        if sum(row[column] is not None for row in frontier.rows) > 1
    ]
    if not drawn:
        return None
    caption = (
        "What a scheme reaches (upwards: uniformity, where down is better; distinct samples and "
        "rectification, where up is better) against what it keeps of the samples (right = more). The line "
        "joins the equilibria at several floors of the effective sample size: what lies below it in distinct "
        "samples and rectification pays more for less. In uniformity a scheme may beat it, as that leaves "
        "out pairs of a sample with itself, which the others count."
    )
    if "discrepancy" in panels(frontier.rows):
        caption = (
            "The first panel is what matters here: MMD², the squared discrepancy from the target, where down "
            "is better and what lies at its noise is as near as the target can tell. The others say how even "
            f"the draws are over the whole sphere, which the target does not ask for. {caption}"
        )
    if any(below(frontier.rows, column) for column in panels(frontier.rows)):
        caption += " Beside an arrow stands the number of what lies below the panel."
    return Figure(name, f"Frontier at t = {write('t', frontier.t)}", caption, tuple(drawn))


@dataclass(frozen=True)
class Curve:
    """One quantity over one run, with the name under which runs share a colour (the weight scheme)."""

    scheme: str
    x: np.ndarray
    y: np.ndarray


def training_curves(
    name: str, curves: Mapping[str, Sequence[Curve]], x_label: str, look: Looks
) -> Figure | None:
    """One panel a quantity; runs of the same scheme share a colour (one thin line a run)."""

    def draw(axes: Axes, lines: Sequence[Curve], quantity: str) -> None:
        for i, c in enumerate(lines):
            named = c.scheme if c.scheme not in [other.scheme for other in lines[:i]] else None
            thin = {"label": named, "linewidth": 1.3, "alpha": 0.85, "marker": "." if len(c.x) < 3 else None}
            axes.plot(c.x, c.y, **(look[c.scheme].stroke | thin))
        values = np.concatenate([c.y for c in lines])
        if values.min() > 0 and values.max() > 8 * values.min():
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        axes.set_xlabel(x_label)
        axes.set_ylabel(quantity)
        legend_below(axes, 3)

    if not curves:
        return None
    panels = tuple(
        panel(f"{name}-{i}", partial(draw, lines=lines, quantity=quantity))
        for i, (quantity, lines) in enumerate(curves.items())
    )
    caption = (
        "Progress of each run (one line a run, one colour a scheme). The training loss is a mean over what a "
        "run draws, so curves of two schemes measure different samples: compare students by the evaluation, "
        "not by these curves. A curve that still falls at its end says that the run was too short."
    )
    return Figure(name, "Training", caption, panels)


def results_by_scheme(
    name: str,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    measures: Mapping[str, Quantity],
    look: Looks,
) -> Figure | None:
    """One panel a measure: each run a dot, the mean a bar, +- one standard deviation over runs a line.

    Args:
        name: unique within the page.
        values: measure -> scheme -> one value a run.
        measures: which to draw, in order.
        look: by scheme.
    """
    panels = []
    for key, measure in measures.items():
        data = {scheme: np.asarray(v, dtype=float) for scheme, v in values[key].items() if len(v)}
        if sum(map(len, data.values())) > 1:  # one the table says
            draw = partial(_dots, measure=measure, data=data, look=look)
            panels.append(panel(f"{name}-{key}", draw, height=1.1 + 0.42 * len(data)))
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


def _dots(axes: Axes, measure: Quantity, data: Mapping[str, np.ndarray], look: Looks) -> None:
    """Draw each scheme's values as dots, with mean and standard deviation."""
    rows = np.arange(len(data))[::-1]
    for row, (scheme, values) in zip(rows, data.items(), strict=True):
        v, color = measure.scale * values, look[scheme].color
        mean, spread = v.mean(), v.std(ddof=1) if len(v) > 1 else 0.0
        axes.plot([mean - spread, mean + spread], [row, row], color=color, linewidth=2)
        axes.plot(mean, row, "|", color=color, markersize=16, markeredgewidth=2.5)
        offsets = np.linspace(-0.16, 0.16, len(v)) if len(v) > 1 else np.zeros(1)
        axes.plot(v, row + offsets, "o", color=color, markersize=4.5, alpha=0.75)
    axes.set_yticks(rows, [scheme.replace(" (", "\n(", 1) for scheme in data])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    name, _, unit = measure.heading.removesuffix(")").partition(" (")
    axes.set_title(name, loc="left")
    axes.set_xlabel(f"{unit or name}; {'left' if measure.better == 'lower' else 'right'} is better")
