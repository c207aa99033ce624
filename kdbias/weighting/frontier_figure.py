"""The plot of a frontier: uniformity, effective distinct samples and rectification against the ESS."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kdbias.tables.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = (
    ("uniformity", "uniformity (nats, lower = more even)", 1),
    ("effective_distinct", "effective distinct samples D", 1),
    ("rectification", "rectification (%)", 100),
)
_LOWEST = {"rectification": -1.0}
"""The least that is drawn of a column; what lies below stands there, with its number beside it."""
_MARKERS = "osD^vP*X<>"


def write_figure(stem: Path, table: pa.Table) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg of a frontier's table."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = table.to_pylist()
    settings: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "frontier",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(12, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(_PANELS))
        for panel, (column, label, scale) in zip(axes, _PANELS, strict=True):
            _draw(panel, rows, column, scale)
            panel.set_xlabel("effective sample size (% of the samples)")
            panel.set_ylabel(label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        figure.suptitle(f"what each scheme reaches and costs, t = {rows[0]['t']:g}")
        written = []
        for suffix in ("png", "svg"):
            path = stem.with_name(f"{stem.name}.{suffix}")
            with atomic_path(path) as temporary:
                figure.savefig(
                    temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None
                )
            written.append(path)
    return written


def _draw(axes: "Axes", rows: list[dict[str, Any]], column: str, scale: float) -> None:
    """One panel: the equilibria as a line, every other scheme as a marker.

    The line bounds D and rectification at its ESS, not U: that leaves out pairs of a sample with itself.
    """
    line = sorted(
        (r["ess_share"], r[column]) for r in rows if r["method"] == "equilibrium" and _has(r, column)
    )
    if line:
        axes.plot(
            [100 * x for x, _ in line],
            [scale * y for _, y in line],
            "-o",
            color="#c22f5b",
            markersize=3,
            label="equilibrium (frontier of D)",
        )
    others = [r for r in rows if r["method"] != "equilibrium"]
    for index, row in enumerate(sorted(others, key=lambda r: r["scheme"])):
        if _has(row, column):
            axes.plot(
                100 * row["ess_share"],
                scale * drawn(row, column),
                _MARKERS[index % len(_MARKERS)],
                color="black" if row["method"] == "natural" else f"C{index}",
                linestyle="none",
                label=row["scheme"],
            )
    name_below(axes, rows, column, scale)
    axes.grid(alpha=0.3)


def drawn(row: Mapping[str, Any], column: str) -> float:
    """Where a value is drawn: itself, or the least that is."""
    return max(row[column], _LOWEST.get(column, row[column]))


def name_below(axes: "Axes", rows: Sequence[Mapping[str, Any]], column: str, scale: float) -> None:
    """Write out the values that lie below what is drawn, one above another."""
    below = [row for row in rows if _has(row, column) and drawn(row, column) > row[column]]
    for i, row in enumerate(below):
        right = row["ess_share"] > 0.6
        axes.annotate(
            f"{row['scheme']}: {scale * row[column]:,.0f} ↓",
            (100 * row["ess_share"], scale * drawn(row, column)),
            (-8 if right else 8, 11 * i - 3),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
        )


def _has(row: Mapping[str, Any], column: str) -> bool:
    return row[column] is not None
