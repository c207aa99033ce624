"""The plot of a frontier: uniformity, effective distinct samples and rectification against the ESS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.display import plots
from kdbias.display.figure import LIGHT, Look, figure_file, legend_of_all, looks
from kdbias.display.quantities import write

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

    Rows = Sequence[Mapping[str, Any]]

OPTIMUM = "equilibrium"
LINES = {OPTIMUM: "equilibrium (frontier of D)", "matched": "matched (frontier of MMD²)"}
"""Methods that are drawn as lines over their floors -> their names in the legend."""
PANELS = {
    "discrepancy": ("MMD² (lower = nearer)", 1),
    "uniformity": ("uniformity (nats, lower = more even)", 1),
    "effective_distinct": ("effective distinct samples D", 1),
    "rectification": ("rectification (%)", 100),
}
"""Column of the frontier's table -> the panel's label, and the factor of what is drawn."""
_LOWEST = {"rectification": -1.0}
"""The least that is drawn of a column; what lies below stands there, with its number beside it."""


def series(rows: Rows) -> list[str]:
    """What is drawn by name: each scheme, and the equilibria as one."""
    return list(dict.fromkeys(row["method"] if row["method"] in LINES else row["scheme"] for row in rows))


def panels(rows: Rows) -> list[str]:
    """The columns that are drawn: of PANELS, the discrepancy only where there is a target."""
    return [c for c in PANELS if c != "discrepancy" or any(row.get(c) is not None for row in rows)]


def optimum(rows: Rows, column: str, method: str = OPTIMUM) -> list[tuple[float, float]]:
    """(ESS/n, value) of the equilibria, or of the matched samplings, by rising ESS."""
    return sorted((r["ess_share"], r[column]) for r in rows if r["method"] == method and _has(r, column))


def write_figure(
    stem: Path, table: pa.Table, t: float | Sequence[float], target: Mapping[str, Any] | None = None
) -> None:
    """Write ``stem``.png and ``stem``.svg of a frontier's table at bandwidth(s) t."""
    rows = table.to_pylist()
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    look = looks(series(rows), LIGHT)
    columns = panels(rows)
    with figure_file(*paths, width=4 * len(columns), height=4.2) as figure:
        for axes, column in zip(figure.subplots(1, len(columns)), columns, strict=True):
            draw_panel(axes, rows, column, look, target)
            axes.grid(alpha=0.3)
        legend_of_all(figure, 4)
        figure.suptitle(f"what each scheme reaches and costs, t = {write('t', t)}")


def drawn(table: pa.Table, target: Mapping[str, Any] | None = None) -> MplFigure:
    """The same as a figure to show."""
    rows = table.to_pylist()
    look = looks(series(rows), LIGHT)
    draws = [partial(draw_panel, rows=rows, column=c, look=look, target=target) for c in panels(rows)]
    return plots.figure(*draws, width=4, height=4.2, legend=4)


def draw_panel(
    axes: Axes,
    rows: Rows,
    column: str,
    look: Mapping[str, Look],
    target: Mapping[str, Any] | None = None,
) -> None:
    """One panel: equilibria and matched samplings as lines, every other scheme as a marker.

    The line bounds D and rectification at its ESS, not U: that leaves out pairs of a sample with itself.

    Args:
        axes: to draw on.
        rows: of the frontier's table.
        column: one of PANELS.
        look: of each of `series`.
        target: of the frontier, whose noise is drawn as a line beside discrepancies.
    """
    label, factor = PANELS[column]
    for method, name in LINES.items():
        shown = [(100 * x, factor * y) for x, y in optimum(rows, column, method)]
        if shown:
            stroke = {**look[method].stroke, "linestyle": "-", "label": name}
            axes.plot(*zip(*shown, strict=True), **stroke, marker="o", markersize=3.5)
    if column == "discrepancy" and target and target["noise"]:
        axes.axhline(target["noise"], color="0.5", linewidth=1.2, linestyle=":", label="noise of the target")
    for row in rows:
        if row["method"] not in LINES and _has(row, column):
            place = (100 * row["ess_share"], factor * _drawn(row, column))
            axes.plot(*place, **look[row["scheme"]].dots, markersize=7)
    for i, row in enumerate(below(rows, column)):
        right = row["ess_share"] > 0.6
        axes.annotate(
            f"{row['scheme']}: {factor * row[column]:,.0f} ↓",
            (100 * row["ess_share"], factor * _drawn(row, column)),
            (-8 if right else 8, 11 * i - 3),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
        )
    if column == "discrepancy":
        axes.set_ylim(bottom=0)  # last: it holds the other end
    axes.set_xlabel("effective sample size (% of n)")
    axes.set_ylabel(label)


def below(rows: Rows, column: str) -> list[Mapping[str, Any]]:
    """The rows whose value lies below what is drawn, and is written out instead."""
    return [row for row in rows if _has(row, column) and _drawn(row, column) > row[column]]


def _drawn(row: Mapping[str, Any], column: str) -> float:
    """Where a value is drawn: itself, or the least that is."""
    return max(row[column], _LOWEST.get(column, row[column]))


def _has(row: Mapping[str, Any], column: str) -> bool:
    """Whether the row has a value there."""
    return row.get(column) is not None
