"""The main figure of each result, for `plot()`: one that a notebook shows and `savefig` keeps."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.display.figure import ALL, LIGHT, legend_below, legend_of_all, looks, plain_log_ticks
from kdbias.display.quantities import quantity
from kdbias.wording import cut, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]

MOST = 16  # rows of a figure that has one for each value
_NATURAL, _HUE = LIGHT[:2]
_NAME = 28  # characters of a name beside an axis
_ROW = 0.3  # inches


def figure(*panels: Draw, width: float = 4.6, height: float = 3.4, legend: int = 0) -> Figure:
    """A figure with one panel for each function that draws into axes.

    Args:
        width, height: of a panel, in inches.
        legend: columns of one legend under all panels, 0 for none.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with mpl.rc_context({**ALL, "font.size": 9, "axes.titlesize": 10, "text.parse_math": False}):
        made = _shown_figure()(figsize=(width * len(panels), height), layout="constrained")
        FigureCanvasAgg(made)
        for axes, draw in zip(np.ravel(made.subplots(1, len(panels))), panels, strict=True):
            axes.grid(alpha=0.3)
            axes.set_axisbelow(True)
            draw(axes)
        if legend:
            legend_of_all(made, legend)
    return made


@functools.cache
def _shown_figure() -> type[Figure]:
    """Matplotlib's figure; a notebook shows it without pyplot, too, which keeps figures alive."""
    from matplotlib.figure import Figure as MplFigure

    class ShownFigure(MplFigure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return ShownFigure


def histogram(values: np.ndarray, xlabel: str, title: str, logarithmic: bool = False) -> Draw:
    """How many samples have which value; of a logarithmic axis, those above 0."""

    def draw(axes: Axes) -> None:
        shown = values[np.isfinite(values) & (not logarithmic or values > 0)]
        edges: Any = 40
        if logarithmic and len(shown) and shown.min() < shown.max():
            edges = np.geomspace(shown.min(), shown.max(), 41)
            axes.set_xscale("log")
        axes.hist(shown, edges, color=_HUE)
        if axes.get_xscale() == "log":
            plain_log_ticks(axes.xaxis)
        axes.set(xlabel=xlabel, ylabel="samples", title=title)

    return draw


def lorenz(weights: np.ndarray) -> Draw:
    """The share of the draws that the most drawn samples take."""

    def draw(axes: Axes) -> None:
        masses = np.concatenate([[0.0], np.cumsum(np.sort(weights)[::-1])])
        axes.plot(np.linspace(0, 100, len(masses)), 100 * masses / masses[-1], color=_HUE)
        axes.plot([0, 100], [0, 100], color=_NATURAL, linestyle="--", label="natural: all alike")
        axes.set(xlabel="most drawn samples (%)", ylabel="share of the draws (%)", title="Who is drawn")
        axes.legend()

    return draw


def across(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], key: str, xlabel: str) -> Draw:
    """A quantity of each named scheme over a logarithmic axis."""

    def draw(axes: Axes) -> None:
        for name, look in looks(lines, LIGHT).items():
            x, y = lines[name]
            axes.plot(
                x, y, **(look.stroke | {"label": cut(visible(name), _NAME)}), marker=look.marker, markersize=4
            )
        axes.set(xscale="log", yscale="log")
        plain_log_ticks(axes.xaxis)
        plain_log_ticks(axes.yaxis)
        axes.set(xlabel=xlabel, ylabel=quantity(key).heading, title=quantity(key).meaning)
        legend_below(axes)

    return draw


def dots(
    rows: Iterable[tuple[str, Mapping[str, float | None], tuple[float, float] | None]],
    xlabel: str,
    title: str,
    zero: bool = False,
) -> Draw:
    """A row for each name: its values by what they are, and an interval around the last one.

    Args:
        rows: name, values (a missing one is None), interval or None; the first MOST are drawn.
        zero: draw a line at 0, where nothing differs.
    """

    def draw(axes: Axes) -> None:
        shown = list(rows)[:MOST]
        kinds = list(dict.fromkeys(kind for _, values, _ in shown for kind in values))
        colors = [_NATURAL, _HUE, *LIGHT[2:]] if len(kinds) > 1 else [_HUE]
        for color, kind in zip(colors, kinds, strict=False):
            points = [(v[kind], y) for y, (_, v, _) in enumerate(shown) if v.get(kind) is not None]
            axes.plot(
                *zip(*points, strict=True), "o", color=color, label=kind, markersize=5
            ) if points else None
        for y, (_, _, interval) in enumerate(shown):
            if interval is not None:
                axes.plot(interval, (y, y), color=colors[min(len(kinds), len(colors)) - 1], linewidth=1.5)
        if zero:
            axes.axvline(0, color=_NATURAL, linewidth=1)
        axes.set_yticks(range(len(shown)), [cut(visible(name), _NAME) for name, _, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set(xlabel=xlabel, title=title)

    return draw


def percent(share: float | None) -> float | None:
    """A share in percent, where there is one."""
    return None if share is None else 100 * share


def interval(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    """The ends of a number's interval, where it has one."""
    low, high = entry.get("low"), entry.get("high")
    return None if low is None or high is None else (low, high)


def height_of(rows: int) -> float:
    """Inches of a figure that has a row for each name."""
    return 1.4 + _ROW * min(max(rows, 2), MOST)


def curve(x: Sequence[float], y: Sequence[float], xlabel: str, ylabel: str, title: str) -> Draw:
    """One line."""

    def draw(axes: Axes) -> None:
        axes.plot(x, y, color=_HUE, marker="o" if len(x) < 30 else "", markersize=3)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)

    return draw


def scatter(points: np.ndarray, labels: Sequence[str | None], title: str) -> Draw:
    """Samples (n, 2), coloured by label where there are few of them."""

    def draw(axes: Axes) -> None:
        names = list(dict.fromkeys(labels))
        told = 1 < len(names) <= len(LIGHT) + 1
        for i, name in enumerate(names if told else [None]):
            rows = [row for row, label in enumerate(labels) if label == name] if told else slice(None)
            color = LIGHT[(i + 1) % len(LIGHT)]
            shown = cut(visible(str(name)), _NAME) if told else None
            axes.plot(*points[rows].T, ".", color=color, markersize=4, alpha=0.7, label=shown)
        axes.set(xticks=[], yticks=[], title=title)
        axes.set_aspect("equal", "datalim")
        if told:
            legend_below(axes, 5)

    return draw
