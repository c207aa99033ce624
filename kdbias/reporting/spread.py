"""Telling samples that are not ten times the same: few of a label, one of a neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRIED = 40  # candidates for each sample that is shown
_OF_A_LABEL = 3  # at most one in so many of what is shown has the same label, while there are others


def spread(
    count: int, labels: Sequence[str | None], x: np.ndarray | None = None, reach: np.ndarray | None = None
) -> list[int]:
    """Places of m candidates in the order to show them: those that stand for many, then the others.

    Args:
        count: how many are to be shown: one of each neighbourhood, and of a label no more than a third,
            while there are others.
        labels: m, the most telling candidate first; None for none.
        x: (m, d) unit vectors; None where they are not at hand, so that only labels are spread.
        reach: (m,) distance within which another sample counts as the same neighbourhood (to the k-th
            neighbour).
    """
    most = max(1, count // _OF_A_LABEL)
    first, later, seen = list[int](), list[int](), dict[str, int]()
    for place, label in enumerate(labels):
        crowded = label is not None and seen.get(label, 0) >= most
        if len(first) >= count or crowded or _beside(place, first, x, reach):
            later.append(place)
            continue
        first.append(place)
        if label is not None:
            seen[label] = seen.get(label, 0) + 1
    return first + later


def _beside(place: int, shown: list[int], x: np.ndarray | None, reach: np.ndarray | None) -> bool:
    """Whether a candidate lies within reach of one that is shown already."""
    if x is None or reach is None or not shown:
        return False
    nearest = np.sqrt(max(0.0, 2 - 2 * float((x[shown] @ x[place]).max())))
    return bool(nearest < reach[place])
