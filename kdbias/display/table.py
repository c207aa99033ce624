"""One table for all readers: aligned text for a terminal, Markdown, and cells for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbias.display.quantities import NONE, quantity
from kdbias.scratch import named
from kdbias.wording import visible

FEW = 12  # rows of a long table that a terminal shows


@dataclass(frozen=True)
class Cell:
    """One field; ``note`` is shown on hover and read out by screen readers."""

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
    under: str = ""  # a line under it: what is not shown

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, Any]],
        keys: str | Sequence[str],
        *,
        title: str = "",
        caption: str = "",
        headings: Mapping[str, str] | None = None,
        explain: bool = False,
    ) -> Table:
        """A row a mapping, a column a key, written as its quantity is.

        Args:
            rows: values by key; a text stands as it is, None is n/a. ``KEY_reason`` says why there is none.
            keys: the columns in order, as a sequence or with blanks between them.
            headings: other headings than the quantities' own, by key.
        """
        names = keys.split() if isinstance(keys, str) else list(keys)
        columns = [
            ((headings or {}).get(name, quantity(name).heading), quantity(name).meaning) for name in names
        ]
        return cls(title, caption, columns, [[cell(row, name) for name in names] for row in rows], explain)

    def cut(self, where: str, most: int = FEW) -> Table:
        """Its first rows; a line under them says how many more there are, and ``where``."""
        return replace(self, rows=self.rows[:most], under="".join(more(len(self.rows), where, most)))

    def text(self, most: int | None = None, where: str = "") -> str:
        """Text columns: the first flush left, the others flush right.

        Args:
            most: rows to show, as `cut` does.
        """
        if most is not None:
            return self.cut(where, most).text()
        lines = [[cell.text for cell in row] for row in self.rows]
        under = [self.under] if self.under else []
        return "\n".join([aligned([heading for heading, _ in self.columns], lines), *under])

    def markdown(self) -> str:
        """The table in Markdown."""
        heads = [heading for heading, _ in self.columns]
        return markdown(heads, [[cell.text for cell in row] for row in self.rows])

    def marked(self, best: Callable[[int, int], bool]) -> Table:
        """The same with the fields set off for which ``best(row, column)`` holds."""
        rows = [
            [replace(field, best=best(i, j)) for j, field in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        return replace(self, rows=rows)


def cell(row: Mapping[str, Any], key: str) -> Cell:
    """One field of `Table.of`."""
    about, value = quantity(key), row.get(key)
    if isinstance(value, Cell):
        return value
    if isinstance(value, str):
        return Cell(value, not about.text)
    written = about.write(value)
    note = str(row.get(f"{key}_reason") or "") if value is None else ""
    if about.full and written.startswith("<"):
        note = about.full(value)
    return Cell(written, not about.text, note=note)


def number(value: float | None, digits: int = 4, note: str = "") -> Cell:
    """A number that is no quantity of its own, with ``digits`` decimals."""
    return Cell(NONE if value is None else f"{value:,.{digits}f}", True, note=note)


def more(count: int, where: str, shown: int = FEW) -> list[str]:
    """The line under the first ``shown`` of ``count`` rows: where the others are, if there are any."""
    return [f"... and {count - shown:,} more: {where}"] if count > shown else []


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first flush left, the others flush right."""
    cells = [[visible(named(text)) for text in line] for line in (heads, *rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar within a field is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(field.replace("|", "\\|") for field in line) + " |" for line in lines)
