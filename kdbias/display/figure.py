"""One look for every figure, and how it becomes a file or a panel of the page.

Panels of the page are inline SVG that follows its light or dark colours: Matplotlib draws with placeholder
colours, which become CSS variables of the page, so that the same drawing is readable on both backgrounds
without a script. Text stays text (searchable, in the reader's font). Files are PNG or SVG on white.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from kdbias.tables.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as MplFigure

INK = "#010101"
FAINT = "#010102"
SERIES = tuple(f"#0102{i:02x}" for i in range(9))  # 0 = the baseline (natural), then eight hues
# What the placeholders stand for on a light and on a dark page; files are drawn with the first. Okabe and
# Ito's blue, vermilion and green, then hues that colour-blind readers tell from these and from each other.
_LIGHT = "#6c6f75 #0072b2 #d55e00 #009e73 #9900ff #990000 #cc66ff #663366 #6633cc"
_DARK = "#a6aab1 #4aa8ff #ff8a3d #1fd6a2 #a04dff #f0e442 #d94848 #ff4fd0 #9a6b6b"
LIGHT, DARK = tuple(_LIGHT.split()), tuple(_DARK.split())
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = "os^vPX*<"
WIDTH = 4.2  # inches; narrow enough that a phone shows the text at a readable size
HEIGHT = 3.0  # with a legend of up to two lines
_LEGEND_LINE = 0.18  # inches, as are the next
_LETTER, _HANDLE = 0.06, 0.4
_WIDE = 0.6  # width of a letter, in its height

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

    name: str
    color: str
    line: str
    marker: str

    @property
    def stroke(self) -> dict[str, Any]:
        """What a line of the series is drawn with."""
        return {"color": self.color, "linestyle": self.line, "linewidth": 1.7, "label": self.name}

    @property
    def dots(self) -> dict[str, Any]:
        """What markers alone are drawn with."""
        return {"color": self.color, "marker": self.marker, "linestyle": "none", "label": self.name}


def looks(names: Iterable[str], hues: Sequence[str] = SERIES) -> dict[str, Look]:
    """A look for each name in order of appearance; ``natural`` always gets the neutral baseline look.

    Args:
        names: of the series.
        hues: the baseline's colour, then the others', such as SERIES for a page and LIGHT for a file.
    """
    found: dict[str, Look] = {}
    for name in dict.fromkeys(names):
        if name == "natural":
            found[name] = Look(name, hues[0], "-", "D")
            continue
        turn, place = divmod(len(found.keys() - {"natural"}), len(hues) - 1)
        marker = MARKERS[(place + turn) % len(MARKERS)]
        found[name] = Look(name, hues[1 + place], LINE_STYLES[turn % len(LINE_STYLES)], marker)
    return found


@contextmanager
def figure_file(*paths: Path, width: float, height: float, font: float = 9) -> Iterator[MplFigure]:
    """A figure of ``width`` x ``height`` inches to draw into, then written to each path as its ending says.

    The same drawing gives the same SVG, byte for byte. ``font``: size of the text in points.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as MplFigure

    with mpl.rc_context({**ALL, "font.size": font, "axes.titlesize": font + 1, "svg.hashsalt": "kdbias"}):
        figure = MplFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        for path in paths:
            dated = {"Date": None} if path.suffix == ".svg" else None
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=dated)


def panel(name: str, draw: Callable[[Axes], None], *, width: float = WIDTH, height: float = HEIGHT) -> Markup:
    """Run ``draw(axes)`` on a fresh panel of ``width`` x ``height`` inches and return it as inline SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as MplFigure

    with mpl.rc_context({**_PAGE, "svg.hashsalt": name}):
        figure = MplFigure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(True)
        draw(axes)
        return to_svg(figure, name)


ALL: dict[Any, Any] = {
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_PAGE: dict[Any, Any] = {
    **ALL,
    "text.parse_math": False,  # names come from users; log axes use plain_log_ticks
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.8,
    "axes.titlesize": 10,
    "axes.labelsize": 9.8,
    "legend.fontsize": 8.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # ticks say their whole value; an offset would cover the title
    "axes.formatter.limits": (-9, 12),
    "grid.alpha": 0.5,
    "grid.linewidth": 0.6,
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
    text = re.sub(r' style="([^"]*)"', _attributes, text)
    # the page scales the drawing to its column; the viewBox keeps the shape
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = rf'<svg viewBox="\1" role="img" {spaces}>'
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, text, count=1)
    return Markup(text)


def _attributes(style: re.Match[str]) -> str:
    """A style of an element as attributes, which a page's content-security policy lets pass."""
    pairs = [part.split(":", 1) for part in style.group(1).split(";") if part.strip()]
    kept = ((name.strip(), value.strip()) for name, value in pairs)
    return "".join(f' {name}="{value}"' for name, value in kept if name != "font-family")


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


def legend_of_all(figure: MplFigure, columns: int) -> None:
    """One legend under all axes of a figure, each label once."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def fit_texts(figure: MplFigure) -> None:
    """Break titles and labels into lines as long as what they belong to, so that none is cut off."""
    import matplotlib as mpl

    figure.draw_without_rendering()  # which lays the axes out
    points = float(mpl.rcParams["font.size"])
    if whole := figure.get_suptitle():
        figure.suptitle(_wrapped(whole, figure.get_figwidth(), 1.2 * points))
    for axes in figure.axes:
        place = axes.get_window_extent()
        width, height = place.width / figure.dpi, place.height / figure.dpi
        axes.set_title(_wrapped(axes.get_title(), width, points + 1))
        axes.set_xlabel(_wrapped(axes.get_xlabel(), width, points))
        axes.set_ylabel(_wrapped(axes.get_ylabel(), height, points))


def _wrapped(text: str, inches: float, points: float) -> str:
    """A text in lines of at most so many inches, of letters of this size; a longer word is broken."""
    letters = max(8, int(inches * 72 / (points * _WIDE)))
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, letters) or [""])


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
