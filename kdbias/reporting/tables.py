"""Tables of the page and the text of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbias.display.quantities import write

NONE = "n/a"


@dataclass(frozen=True)
class Cell:
    """One field of a table; ``note`` is shown on hover and read out by screen readers."""

    text: str
    number: bool = False
    best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; ``columns`` are (heading, what it means)."""

    title: str
    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    explain: bool = False  # list what the columns mean under the table


def number(value: float | None, digits: int = 3, note: str = "") -> Cell:
    """A number with ``digits`` decimals (thousands separated), or n/a."""
    if value is None:
        return Cell(NONE, True, note=note)
    return Cell(f"{value:,.{digits}f}", True, note=note)


def percent(value: float | None, digits: int = 1, note: str = "") -> Cell:
    return (
        Cell(NONE, True, note=note) if value is None else Cell(f"{100 * value:.{digits}f} %", True, note=note)
    )


def rectification(value: float | None, reason: str) -> Cell:
    """Its percentage as everywhere; the note is the reason for none, or the number where it is not shown."""
    text = write("rectification", value)
    exact = "" if value is None or not text.startswith("<") else f"{100 * value:,.1f} %"
    return Cell(text, True, note=reason if value is None else exact)


def magnitude(value: float | None) -> Cell:
    """A count that may be astronomically large (the ceiling of D grows like e^2t)."""
    if value is None:
        return Cell(NONE, True)
    return Cell(f"{value:,.1f}" if value < 1e5 else f"{value:.1e}", True)
