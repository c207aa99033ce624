"""Groups of near-duplicates: samples that are one another's copies to the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdbias.display.table import Cell, Table
from kdbias.reporting.outputs import Density
from kdbias.sphere.near_chains import near_chains
from kdbias.wording import counted

ALIKE = 0.999  # cosine from which on samples count as near-duplicates, as in the density table
_LOOKED_AT = 5000  # samples with near-duplicates; of more those with the most
_LISTED = 200  # groups
_NAMED = 5  # ids of a group in the table


@dataclass(frozen=True)
class Copies:
    """Near-duplicates in groups, the largest first.

    Attributes:
        groups: rows of the density table, ascending, two at least in each.
        looked_at, flagged: how many samples with near-duplicates were looked at, and how many there are.
    """

    groups: list[np.ndarray]
    looked_at: int
    flagged: int


def flagged(density: Density) -> tuple[np.ndarray, int]:
    """Rows (m,) of the samples with near-duplicates that are looked at, and how many there are in all."""
    near = density.table.numbers("near_duplicates")
    found = np.flatnonzero(near > 0)
    order = found[np.argsort(-near[found], kind="stable")]
    return np.sort(order[:_LOOKED_AT]), len(found)


def copies(rows: np.ndarray, x: np.ndarray, count: int) -> Copies:
    """Groups of samples that hang together by pairs of a cosine of at least `ALIKE`.

    Args:
        rows: (m,) of the samples with near-duplicates.
        x: (m, d) their unit vectors.
        count: of such samples in all.
    """
    own = np.arange(len(rows))
    names = near_chains(x, own, own, ALIKE)
    order = np.argsort(names, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(names[order])) + 1)
    return Copies(sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0])), len(rows), count)


def copies_table(found: Copies, density: Density) -> Table | None:
    """A row a group: its size, whether its labels agree, its first ids; None without any."""
    if not found.groups:
        return None
    ids, labels = density.table.ids, density.table.labels
    rows = []
    for number, group in enumerate(found.groups[:_LISTED], 1):
        own = sorted({label for i in group if (label := labels[int(i)].as_py())})
        named = [ids[int(i)].as_py() for i in group[:_NAMED]]
        more = f" and {len(group) - _NAMED:,} more" if len(group) > _NAMED else ""
        agree = own[0] if len(own) == 1 else f"{counted(len(own), 'label')}: {', '.join(own[:_NAMED])}"
        rows.append(
            [
                Cell(str(number), True),
                Cell(f"{len(group):,}", True),
                Cell(agree if own else "(none)"),
                Cell(", ".join(named) + more),
            ]
        )
    total = sum(map(len, found.groups))
    caption = (
        f"{counted(total, 'sample')} in {counted(len(found.groups), 'group')} that hang together by pairs of "
        f"a cosine of at least {ALIKE}: bursts, copies, re-encodings. D counts each group about once; "
        "weights collapse exact copies alone. A group of several labels may hold a wrong one."
    )
    if found.looked_at < found.flagged:
        caption += f" Looked at: the {found.looked_at:,} of {found.flagged:,} samples with most copies."
    if len(found.groups) > _LISTED:
        caption += f" The first {_LISTED} groups are listed."
    heads = [("group", ""), ("samples", ""), ("label", ""), ("ids", "")]
    return Table("Near-duplicates", caption, heads, rows)
