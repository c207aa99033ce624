"""Samples that look wrong, on the page: how many of each kind, who they are, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import percent
from kdbias.display.table import Cell, Table
from kdbias.measurement.settings import SUSPECT_WORDS
from kdbias.measurement.suspects import has_word
from kdbias.reporting.group_tables import best_scheme
from kdbias.reporting.outputs import Density
from kdbias.reporting.thumbnails import Shown
from kdbias.tables.columns import SUSPECT
from kdbias.tables.joins import as_strings
from kdbias.wording import counted

_MEANING = {
    "blank": "of one colour",
    "dark": "all but black",
    "overexposed": "all but white",
    "tiny": "far smaller than the others",
    "odd-sized": "far longer or larger than the others",
    "isolated": "far from all others in the teacher's space",
    "label": "nearer to another label's centroid than to its own",
}
_NAMED = 5  # ids of a kind in the table


def suspects_of(density: Density) -> dict[str, np.ndarray]:
    """Word -> rows (m,) of the density table that it is said of; none where none were looked for."""
    name = SUSPECT[0]
    if name not in density.table.table.column_names:
        return {}
    words = as_strings(density.table.table.column(name))
    found = {word: np.flatnonzero(has_word(words, (word,))) for word in SUSPECT_WORDS}
    return {word: rows for word, rows in found.items() if len(rows)}


def suspects_table(density: Density, weights: Mapping[str, np.ndarray]) -> Table | None:
    """A row a kind: how many there are, their share of the draws, the first of them; None without any."""
    found, best = suspects_of(density), best_scheme(density, weights)
    if not found:
        return None
    ids, rows = density.table.ids, []
    for word, own in found.items():
        named = ids.take(pa.array(own[:_NAMED])).to_pylist()
        more = f" and {len(own) - _NAMED:,} more" if len(own) > _NAMED else ""
        row = [Cell(word), Cell(_MEANING[word]), Cell(f"{len(own):,}", True)]
        row += [Cell(percent(len(own) / density.table.n), True)]
        row += [] if best is None else [Cell(percent(weights[best][own].sum() / weights[best].sum()), True)]
        rows.append([*row, Cell(", ".join(named) + more)])
    heads = [("suspect", ""), ("what", ""), ("samples", ""), ("before", "share of natural sampling's draws")]
    heads += [] if best is None else [(f"after: {best}", "share of the draws under these weights")]
    caption = (
        "What looks wrong, to be looked through before weights are trusted; a sample may be of several. "
        "The map can be coloured by these words and its list filtered by them; kdbias suspects writes all."
    )
    return Table("Suspects", caption, [*heads, ("ids", "")], rows)


def suspects_shown(density: Density, weights: Mapping[str, np.ndarray]) -> list[Shown]:
    """For each kind a strip of pictures, those that are drawn most often first."""
    best = best_scheme(density, weights)
    values = None if best is None else weights[best]
    strips = []
    for word, rows in suspects_of(density).items():
        order = rows if values is None else rows[np.argsort(-values[rows], kind="stable")]
        meaning = f"{counted(len(rows), 'sample')}, {_MEANING[word]}"
        strips.append(Shown(f"Suspects: {word}", meaning, order, values))
    return strips
