"""What weights would do to each value of a column: its share of the draws, before, after, in the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.advice.data import Data
from kdbias.advice.finding import Finding
from kdbias.display.quantities import percent
from kdbias.tables.embedding_table import no_column
from kdbias.tables.joins import encode_all
from kdbias.tables.provenance import options_in
from kdbias.tables.telling import telling
from kdbias.targets.shares import MOST_VALUES, comparable
from kdbias.wording import counted

_NAMED = 3  # values of a column that a line names at each end
_LEAST = 0.002  # a share that moves by less is said to stay


@dataclass(frozen=True)
class GroupShift:
    """One value of a column.

    Attributes:
        column, value: None stands for samples without a value.
        samples: how many of those that are looked at.
        before: share of natural sampling's draws; after: under the advised weights; None where none are
            advised.
        target: share of the target; None where that is not known.
    """

    column: str
    value: str | None
    samples: int
    before: float
    after: float | None
    target: float | None

    @property
    def change(self) -> float:
        """By how much the share of the draws grows; 0 where no weights are advised."""
        return 0.0 if self.after is None else self.after - self.before


def columns_of(data: Data, asked: Sequence[str]) -> tuple[list[str], str | None]:
    """The columns to speak of, and one line about those that are left out.

    Raises:
        KdbiasError: a column was asked for that the table does not have.
    """
    known = ["label", *data.table.group_columns]
    for name in asked:
        if name not in known:
            table = data.table
            raise no_column(table.path, name, table.group_columns, options_in(table.provenance))
    if asked:
        return list(asked), None
    return telling((name, data.table.column(name)) for name in known)


def shifts(finding: Finding, columns: Sequence[str]) -> list[GroupShift]:
    """A row for each value of each column, by falling share of the samples."""
    found, masses, against = [], finding.masses, finding.against
    for name in columns:
        codes, names = encode_all(finding.column(name))
        if len(names) > MOST_VALUES:
            continue
        size = np.bincount(codes, minlength=len(names))
        after = None if masses is None else np.bincount(codes, weights=masses, minlength=len(names))
        texts = names.to_pylist()
        wanted = None if against is None else against.shares(name)
        if wanted is not None and not comparable(dict.fromkeys(texts, 1.0), wanted):
            wanted = None  # another set of names altogether
        for i in np.argsort(-size, kind="stable"):
            found.append(
                GroupShift(
                    name,
                    texts[i],
                    int(size[i]),
                    float(size[i] / len(codes)),
                    None if after is None else float(after[i]),
                    None if wanted is None else wanted.get(texts[i], 0.0),
                )
            )
        absent = [] if wanted is None else [value for value in wanted if value not in texts]
        found += [GroupShift(name, value, 0, 0.0, None, wanted[value]) for value in absent if wanted]
    return found


def told(rows: Sequence[GroupShift]) -> list[str]:
    """A line a column: which values gain and lose most, and what they are in the target."""
    lines = []
    for column in dict.fromkeys(row.column for row in rows):
        own = [row for row in rows if row.column == column]
        known = [row for row in own if row.samples]
        lines.append(f"{column}: {_gains(known) or _shares(known)}")
        if absent := [row for row in own if not row.samples and (row.target or 0) >= _LEAST]:
            named = ", ".join(f"{_name(row)} ({percent(row.target or 0)})" for row in absent[:_NAMED])
            lines.append(f"{column}: in the target but not in the data, where no weights bring it: {named}")
    return lines


def _gains(known: Sequence[GroupShift]) -> str:
    """Which values are drawn more, and which less; empty where all stay."""
    ups = sorted((row for row in known if row.change >= _LEAST), key=lambda row: -row.change)
    downs = sorted((row for row in known if row.change <= -_LEAST), key=lambda row: row.change)
    return "; ".join(
        f"{word} {', '.join(map(_shift, some[:_NAMED]))}{_more(len(some))}"
        for word, some in (("more of", ups), ("less of", downs))
        if some
    )


def _shares(known: Sequence[GroupShift]) -> str:
    """What the largest values are of the samples."""
    most, stays = 2 * _NAMED, "stays: " if known[0].after is not None else ""
    return f"{stays}{', '.join(map(_share, known[:most]))}{_more(len(known), most)}"


def _name(row: GroupShift) -> str:
    return row.value or "(none)"


def _shift(row: GroupShift) -> str:
    target = "" if row.target is None else f", target {percent(row.target)}"
    return f"{_name(row)} ({100 * row.before:.1f} -> {percent(row.after or 0.0)}{target})"


def _share(row: GroupShift) -> str:
    target = "" if row.target is None else f" (target {percent(row.target)})"
    return f"{_name(row)} {percent(row.before)}{target}"


def _more(count: int, shown: int = _NAMED) -> str:
    return f" and {counted(count - shown, 'other')}" if count > shown else ""
