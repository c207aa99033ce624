"""The numbers of uniformity.json as pictures: evenness against effective sample size, and over bandwidths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kdbias.display.figure import SERIES, Figure, Look, legend_below, panel, plain_log_ticks
from kdbias.weighting.frontier_figure import OPTIMUM

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Point:
    """One scheme at one bandwidth."""

    scheme: str
    t: float
    ess: float  # ESS / n, in (0, 1]
    uniformity: float | None
    null: float
    effective_distinct: float | None
    ceiling: float | None  # None where it is larger than any float


def uniformity_against_ess(
    name: str,
    points: Sequence[Point],
    look: Mapping[str, Look],
    frontier: Mapping[float, Sequence[tuple[float, float]]] | None = None,
) -> Figure | None:
    """One panel a bandwidth: uniformity over ESS; ``frontier`` = t -> (ESS/n, uniformity) on the optimum."""
    panels, reaches = [], False
    for i, t in enumerate(sorted({p.t for p in points})):
        here = [p for p in points if p.t == t and p.uniformity is not None]
        line = (frontier or {}).get(t) or ()
        if len(here) + len(line) < 2:  # a dot alone trades nothing off
            continue
        view = _View.of(here, line)
        reaches = reaches or view.shows_null
        panels.append(
            panel(f"{name}-{i}", partial(_trade_off, t=t, points=here, look=look, frontier=line, view=view))
        )
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


@dataclass(frozen=True)
class _View:
    """Which stretch of uniformity a panel shows."""

    low: float
    high: float
    null: float

    @classmethod
    def of(cls, points: Sequence[Point], frontier: Sequence[tuple[float, float]]) -> _View:
        values = [p.uniformity for p in points if p.uniformity is not None] + [u for _, u in frontier]
        return cls(min(values), max(values), points[0].null)

    @property
    def spread(self) -> float:
        return max(self.high - self.low, 1e-3 * abs(self.high), 1e-6)

    @property
    def shows_null(self) -> bool:
        return self.null > self.low - 2.5 * self.spread


def _trade_off(
    axes: Axes,
    t: float,
    points: Sequence[Point],
    look: Mapping[str, Look],
    frontier: Sequence[tuple[float, float]],
    view: _View,
) -> None:
    if frontier:
        ordered = sorted(frontier)
        axes.plot(
            [100 * e for e, _ in ordered],
            [u for _, u in ordered],
            color=look[OPTIMUM].color,
            linewidth=1.4,
            linestyle="--",
            label="equilibrium frontier",
        )
    for p in points:
        axes.plot(
            100 * p.ess,
            p.uniformity or 0.0,
            look[p.scheme].marker,
            color=look[p.scheme].color,
            markersize=8,
            label=p.scheme,
            linestyle="none",
        )
    if view.shows_null:
        axes.axhline(view.null, color=SERIES[0], linewidth=1.2, linestyle=":", label="uniform sphere")
    else:
        axes.set_ylim(view.low - 0.25 * view.spread, view.high + 0.2 * view.spread)
        axes.annotate(
            f"uniform sphere far below: {view.null:.2f}",
            (0.98, 0.03),
            xycoords="axes fraction",
            ha="right",
            fontsize=8.5,
        )
    axes.set_xlim(0, 105)
    axes.set_title(f"t = {t:g}", loc="left")
    axes.set_xlabel("effective sample size (% of n)")
    axes.set_ylabel("uniformity (nats)")
    legend_below(axes, 2)


def distinct_across_bandwidths(name: str, points: Sequence[Point], look: Mapping[str, Look]) -> Figure | None:
    """Effective number of distinct samples over t, one line a scheme, with the ceiling of the dimension."""
    bandwidths = sorted({p.t for p in points})
    if len(bandwidths) < 2:
        return None

    ceilings = {p.t: p.ceiling for p in points if p.ceiling is not None}
    top = max(p.effective_distinct or 1.0 for p in points)
    tall = max(ceilings.values(), default=0.0) > 30 * top
    visible = any(value < 6 * top for value in ceilings.values()) or bool(ceilings and not tall)

    def draw(axes: Axes) -> None:
        if visible:
            axes.plot(
                [t for t in bandwidths if t in ceilings],
                [ceilings[t] for t in bandwidths if t in ceilings],
                color=SERIES[0],
                linewidth=1.2,
                linestyle=":",
                label="ceiling (uniform sphere)",
            )
        for scheme in dict.fromkeys(p.scheme for p in points):
            line = sorted(
                (p.t, p.effective_distinct)
                for p in points
                if p.scheme == scheme and p.effective_distinct is not None
            )
            axes.plot(
                [x for x, _ in line],
                [y for _, y in line],
                look[scheme].marker,
                color=look[scheme].color,
                linestyle=look[scheme].line,
                linewidth=1.7,
                markersize=4,
                label=scheme,
            )
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
