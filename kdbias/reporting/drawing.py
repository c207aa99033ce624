"""One look for every figure: small panels of inline SVG that follow the page's light or dark colours.

Matplotlib draws with placeholder colours; ``to_svg`` swaps them for CSS variables of the page, so that the
same drawing is readable on both backgrounds without a script. Text stays text (searchable, in the
reader's font).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure as MplFigure

INK = "#010101"
FAINT = "#010102"
SERIES = tuple(f"#0102{i:02x}" for i in range(9))  # 0 = the baseline (natural), then eight hues
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "v")
WIDTH = 4.2  # inches; narrow enough that a phone shows the text at a readable size
HEIGHT = 3.0  # with a legend of up to two lines
_LEGEND_LINE = 0.18  # inches, as are the next
_LETTER, _HANDLE = 0.06, 0.4

_CSS = {INK: "currentColor", FAINT: "var(--faint)", **{c: f"var(--s{i})" for i, c in enumerate(SERIES)}}


@dataclass(frozen=True)
class Figure:
    """A titled group of panels with one caption that says what to read from it."""

    name: str
    title: str
    caption: str
    panels: tuple[Markup, ...]


@dataclass(frozen=True)
class Look:
    """Colour, line style and marker of one named series, the same in every figure of a page."""

    color: str
    line: str
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name in order of appearance; ``natural`` always gets the neutral baseline look."""
    found: dict[str, Look] = {}
    hues = len(SERIES) - 1
    for name in names:
        if name in found:
            continue
        if name == "natural":
            found[name] = Look(SERIES[0], "-", "D")
            continue
        place = sum(other != "natural" for other in found)
        turn = place // hues % len(LINE_STYLES)
        found[name] = Look(SERIES[1 + place % hues], LINE_STYLES[turn], MARKERS[turn])
    return found


def density_colors() -> Colormap:
    """Sequential map for log density (blue = isolated, red = crowded), readable on white and near-black."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "density", ["#4f86e8", "#2fa7a0", "#c9a227", "#e0662f", "#c22f5b"]
    )


def weight_colors() -> Colormap:
    """Diverging map for log weight (blue = drawn less than natural, grey = as often, orange = more)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "weight", ["#2f6fd6", "#78a4df", "#9a9a9a", "#e39a4b", "#d9541e"]
    )


def panel(name: str, draw: Callable[[Axes], None], *, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """Run ``draw(axes)`` on a fresh panel of ``width`` x ``height`` inches and return it as inline SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MplFigure

    with mpl.rc_context(_settings(name)):
        figure = MplFigure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(True)
        draw(axes)
        return to_svg(figure, name)


def _settings(name: str) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,  # names come from users; log axes use plain_log_ticks
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.8,
        "axes.titlesize": 10,
        "axes.labelsize": 9.8,
        "legend.fontsize": 8.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.formatter.useoffset": False,  # ticks say their whole value; an offset would cover the title
        "axes.formatter.limits": (-9, 12),
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "grid.color": FAINT,
        "grid.alpha": 0.5,
        "grid.linewidth": 0.6,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "savefig.dpi": 160,
        "figure.dpi": 160,
    }


def to_svg(figure: MplFigure, name: str) -> Markup:
    """The figure as an SVG element for inlining: page colours, ids unique to ``name``, no metadata."""
    buffer = io.StringIO()
    empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda m: f"{m.group(1)}{name}-", text)
    text = re.sub(r"#01010[12]\b|#01020[0-8]\b", lambda m: _CSS[m.group(0)], text)
    # the page scales the drawing to its column; the viewBox keeps the shape
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening_tag, text, count=1)
    return Markup(text)


def _opening_tag(match: re.Match[str]) -> str:
    return (
        f'<svg viewBox="{match.group(1)}" role="img" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )


def legend_below(axes: Axes, columns: int = 2) -> None:
    """A legend under the axes, where it can never cover data; a long one makes the panel taller."""
    _, labels = axes.get_legend_handles_labels()
    figure = cast("MplFigure", axes.figure)
    if not labels:
        return
    entry = _HANDLE + _LETTER * max(map(len, labels))
    columns = max(1, min(columns, len(labels), int(figure.get_figwidth() / entry)))
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * max(0, lines - 2))
    figure.legend(loc="outside lower center", ncols=columns, handlelength=1.6)


def plain_log_ticks(axis: Axis) -> None:
    """Ticks such as 0.1, 0.3, 1, 3, 10 on a logarithmic axis instead of powers."""
    from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / max(low, high * 1e-12))
    if decades < 1:  # powers alone would leave the axis without a tick
        axis.set_major_locator(AutoLocator())
    else:
        axis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0)[: 2 if decades < 3 else 1])
        )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
