"""Telling samples that are not ten times the same: few of a label, one of a neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TRIED = 40  # candidates for each sample that is shown,
_TELLING = 10  # but no more than one in so many of all
_OF_A_LABEL = 3  # at most one in so many of what is shown has the same label, while there are others
_ROOM = (1.0, 0.5, 0.25, 0.1)  # shares of its reach that a sample keeps to itself, less and less


def tried(count: int, n: int) -> int:
    """How many of n samples are candidates for a strip of ``count``: the most telling tenth at most."""
    return max(count, min(_TRIED * count, n // _TELLING))


def spread(
    count: int, labels: Sequence[str | None], x: np.ndarray | None = None, reach: np.ndarray | None = None
) -> list[int]:
    """Places of m candidates in the order to show them: those that stand for many, then the others.

    Args:
        count: how many are to be shown: one of each neighbourhood, and of a label no more than a third,
            while there are others; then of smaller and smaller neighbourhoods.
        labels: m, the most telling candidate first; None for none.
        x: (m, d) unit vectors; None where they are not at hand, so that only labels are spread.
        reach: (m,) distance within which another sample counts as the same neighbourhood (to the k-th
            neighbour).
    """
    most = max(1, count // _OF_A_LABEL)
    shown, seen = list[int](), dict[str, int]()
    for room, of_a_label in [(_ROOM[0], most), *((room, count) for room in _ROOM)]:
        for place, label in enumerate(labels):
            if len(shown) >= count:
                break
            crowded = label is not None and seen.get(label, 0) >= of_a_label
            if place in shown or crowded or _beside(place, shown, x, reach, room):
                continue
            shown.append(place)
            if label is not None:
                seen[label] = seen.get(label, 0) + 1
    return shown + [place for place in range(len(labels)) if place not in shown]


def _beside(
    place: int, shown: list[int], x: np.ndarray | None, reach: np.ndarray | None, room: float
) -> bool:
    """Whether a candidate lies within reach of one that is shown already."""
    if x is None or reach is None or not shown:
        return False
    nearest = np.sqrt(max(0.0, 2 - 2 * float((x[shown] @ x[place]).max())))
    return bool(nearest < room * reach[place])
