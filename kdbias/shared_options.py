"""Options that several stages have: what is the same of them, said once; a stage gives what differs.

Each function gives a field of a `Settings` class. Imports nothing heavy.
"""

from typing import Any

from kdbias.device import MOST_PARALLEL, parse_bytes
from kdbias.errors import KdbiasError
from kdbias.settings import option

_GRID = 1024


def memory(text: str = "most extra memory to take, 256MiB or more") -> Any:
    """An amount of memory, in bytes once it is read."""
    return option("4GiB", text, parse=parse_bytes, metavar="SIZE", accepts="str | int", operational=True)


def threads(
    text: str = "CPU threads", default: int | None = None, shown: str | None = "all", operational: bool = True
) -> Any:
    """CPU threads; ``shown`` says how many where the default is None."""
    shown = shown if default is None else None
    return option(default, text, shown=shown, least=1, most=MOST_PARALLEL, operational=operational)


def device(text: str, default: str = "auto", operational: bool = True) -> Any:
    """The CPU or a GPU."""
    return option(default, text, metavar="auto|cpu|cuda[:N]", operational=operational)


def block_rows(shown: str) -> Any:
    """Samples of a block, of what sees all pairs; `refuse_off_grid` checks it."""
    text = "samples of a block, a multiple of 1024: pairs are seen a block by a block"
    return option(None, text, least=1, shown=shown, operational=True)


def refuse_off_grid(block_rows: int | None) -> None:
    """Refuse blocks that end within a tile."""
    if block_rows is not None and block_rows % _GRID:
        raise KdbiasError(
            f"--block-rows {block_rows} is no multiple of {_GRID}, on whose grid pairs are seen"
        )


def embeddings() -> Any:
    """The embedding table behind a density table."""
    shown = "the one that DENSITY was made from"
    return option(None, "embedding table", path=True, metavar="EMB", shown=shown)


def group_by(
    text: str = "report by this column, too; repeatable", shown: str | None = None, operational: bool = False
) -> Any:
    """Columns to report by."""
    return option((), text, metavar="COLUMN", shown=shown, operational=operational)


def judged_groups() -> Any:
    """Columns by which students are judged."""
    return group_by("judge each value of this column, too; repeatable", shown="those of few values")
