"""What a public function hands back, as people meet it: text, tables in a notebook, a frame, a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from markupsafe import Markup, escape

from kdbias.display.table import Cell, Table
from kdbias.errors import KdbiasError
from kdbias.scratch import named
from kdbias.wording import visible, visible_lines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Block = str | Table


class Result:
    """Of all results: `summary()` for a terminal, a notebook's own view, `to_pandas()` and `plot()`.

    A result says in `blocks` what there is to show, texts and tables, and both views follow from that.
    """

    _between: ClassVar[str] = "\n"  # blocks in text
    _elsewhere: ClassVar[str] = ""  # where rows or figures are that a kind of result has not

    def blocks(self) -> Sequence[Block]:
        """What people are shown, in order; the texts may have several lines."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result as text for a terminal."""
        return named(text_of(self.blocks(), self._between))

    def __repr__(self) -> str:
        """The summary: what an interactive session shows; the fields where what it tells of is gone."""
        try:
            return self.summary()
        except (OSError, KdbiasError):
            return object.__repr__(self)

    def _repr_html_(self) -> str:
        """The same in a notebook; whatever comes from data is text there, never markup."""
        parts = [
            _paragraph(block) if isinstance(block, str) else table_html(block) for block in self.blocks()
        ]
        return named(str(Markup('<div class="kdbias">{}</div>').format(Markup("").join(parts))))

    def to_pandas(self) -> pd.DataFrame:
        """The rows behind the result, read from disk where they lie there.

        Raises:
            KdbiasError: this kind of result has none.
        """
        raise KdbiasError(f"a {type(self).__name__} has no rows{self._elsewhere}")

    def plot(self) -> Figure:
        """The result's main figure, a Matplotlib figure to show in a notebook or to save.

        Raises:
            KdbiasError: this kind of result has none, or not these numbers.
        """
        raise KdbiasError(f"a {type(self).__name__} has no figure{self._elsewhere}")

    def require_made(self) -> None:
        """Refuse rows and figures of a plan, or of one process's share: what lies there is another's."""
        if getattr(self, "planned", None) is not None:
            raise KdbiasError("this was only planned; without plan=True there are rows and a figure")
        if getattr(self, "state", None) == "partial":
            raise KdbiasError("this process did a share alone; process 0 has the rows and the figure")


def text_of(blocks: Sequence[Block], between: str = "\n") -> str:
    """Blocks as text for a terminal."""
    return between.join(block if isinstance(block, str) else block.text() for block in blocks)


def table_html(table: Table) -> Markup:
    """A table for a notebook, in the notebook's own colours; what a column means is shown on hover."""
    heads = Markup("").join(
        _field("th", i, Cell(name, True, note=what)) for i, (name, what) in enumerate(table.columns)
    )
    rows = [Markup("").join(_field("td", i, field) for i, field in enumerate(row)) for row in table.rows]
    body = Markup("").join(Markup("<tr>{}</tr>").format(row) for row in rows)
    under = _paragraph(table.under) if table.under else Markup("")
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}").format(heads, body, under)


def _field(tag: str, column: int, field: Cell) -> Markup:
    """A field; the first column is flush left, as in text."""
    side = "right" if field.number and column else "left"
    shown = escape(visible(field.text))
    shown = Markup("<b>{}</b>").format(shown) if field.best else shown
    note = Markup(' title="{}"').format(visible(field.note)) if field.note else Markup("")
    return Markup('<{} style="text-align: {}; padding: .15em .6em"{}>{}</{}>').format(
        Markup(tag), side, note, shown, Markup(tag)
    )


def _paragraph(text: str) -> Markup:
    """Lines of text, their spaces kept."""
    if not text:
        return Markup("")
    aligned = Markup("; font-family: monospace" * ("  " in text))
    shown = '<p style="white-space: pre-wrap; max-width: 70em; margin: .4em 0{}">{}</p>'
    return Markup(shown).format(aligned, visible_lines(text))
