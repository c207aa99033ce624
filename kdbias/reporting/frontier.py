"""What ``kdbias weights --frontier`` found: its table, and each measure against the effective sample size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.display.figure import Figure, Look, legend_below, panel
from kdbias.reporting.tables import Cell, Table, magnitude, number, percent, rectification
from kdbias.tables.parquet_file import read_table
from kdbias.tables.run_record import read_record
from kdbias.weighting.frontier_figure import PANELS, below, draw_panel, optimum, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = (
    ("scheme", "how samples are weighted"),
    ("ESS", "Kish effective sample size, % of n"),
    ("U", "uniformity in nats, lower = more even"),
    ("D", "effective number of distinct samples at this t"),
    ("rectified", "0 % = natural, 100 % = the best re-weighting of this data"),
    ("max weight", "expected draws of the sample that is drawn most often"),
    ("never drawn", "samples of weight 0"),
    ("identities", "effective number of labels: exp(entropy of their share of the draws)"),
)


@dataclass(frozen=True)
class Frontier:
    """An output of ``kdbias weights --frontier``: a row a scheme, by falling effective sample size."""

    path: Path
    record: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def t(self) -> float:
        return float(self.rows[0]["t"])

    @property
    def names(self) -> list[str]:
        """Its series: each scheme, and the equilibria as one."""
        return series(self.rows)

    def optimum(self, column: str) -> list[tuple[float, float]]:
        """(ESS/n, value) of the equilibria, by rising ESS."""
        return optimum(self.rows, column)


def read_frontier(folder: Path) -> Frontier:
    return Frontier(folder, read_record(folder), read_table(folder / "frontier.parquet").to_pylist())


def frontier_table(frontier: Frontier) -> Table:
    rows = [
        [
            Cell(row["scheme"]),
            percent(row["ess_share"]),
            number(row["uniformity"]),
            magnitude(row["effective_distinct"]),
            rectification(row["rectification"], row["rectification_reason"] or ""),
            number(row["max_weight"], 2),
            Cell(f"{row['zero_weights']:,}", True),
            number(row["effective_identities"], 1),
        ]
        for row in frontier.rows
    ]
    caption = (
        f"What each scheme reaches and costs at t = {frontier.t:g}, by falling effective sample size. The "
        "equilibria are the frontier: at their ESS no sampling of this data is less crowded."
    )
    skipped = frontier.record.get("skipped") or {}
    if skipped:
        caption += " Left out: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + "."
    return Table(f"Schemes of {frontier.path.name}", caption, _COLUMNS, rows, explain=True)


def frontier_figure(name: str, frontier: Frontier, look: Mapping[str, Look]) -> Figure | None:
    """One panel a measure; None where no scheme has any."""
    panels = [
        panel(f"{name}-{i}", partial(_draw, rows=frontier.rows, column=column, look=look))
        for i, column in enumerate(PANELS)
        if sum(row[column] is not None for row in frontier.rows) > 1
    ]
    if not panels:
        return None
    caption = (
        "What a scheme reaches (upwards: uniformity, where down is better; distinct samples and "
        "rectification, where up is better) against what it keeps of the samples (right = more). The line "
        "joins the equilibria at several floors of the effective sample size: what lies below it in distinct "
        "samples and rectification pays more for less. In uniformity a scheme may beat it, as that leaves "
        "out pairs of a sample with itself, which the others count."
    )
    if any(below(frontier.rows, column) for column in PANELS):
        caption += " Beside an arrow stands the number of what lies below the panel."
    return Figure(name, f"Frontier at t = {frontier.t:g}", caption, tuple(panels))


def _draw(axes: Axes, rows: Sequence[Mapping[str, Any]], column: str, look: Mapping[str, Look]) -> None:
    draw_panel(axes, rows, column, look)
    legend_below(axes, 2)
