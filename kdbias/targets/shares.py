"""Shares of a column's values in the data and in their target, and which of them chance does not explain."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST_VALUES = 1000
"""A column with more is a name of samples or of persons rather than of groups, and is left out."""
_LEVEL = 1e-3  # of a column, whatever its number of values: a difference beyond it is no accident
_ROUNDING = 1e-9

Shares = Mapping[str | None, float]
"""The share of each value of a column; None: no value."""


def comparable(known: Shares, wanted: Shares | None) -> bool:
    """Whether two columns name groups, some of them the same."""
    if wanted is None or len({*known, *wanted}) > MOST_VALUES:
        return False
    return any(value is not None and wanted.get(value) for value in known)


def share_rows(known: Shares, n: int, wanted: Shares, size: float | None) -> list[dict[str, Any]]:
    """A row a value, by falling share of the data: value, share, share_reference and balance.

    ``balance`` is ``short`` or ``over-full`` where two samples of one law would hardly differ so, and None
    elsewhere: by Fisher's exact test of the two counts, two-sided, at a level of 1 in 1,000 divided by the
    number of values (Bonferroni). Where the target is known exactly, every difference counts.

    Args:
        known: in the data.
        n: samples of the data.
        wanted: in the target.
        size: effective number of reference samples; None where the target is known exactly.
    """
    values = sorted(
        {**known, **wanted}, key=lambda value: (-known.get(value, 0.0), value is None, value or "")
    )
    ours, theirs = (np.array([shares.get(value, 0.0) for value in values]) for shares in (known, wanted))
    off = ours - theirs
    far = np.abs(off) > _ROUNDING
    if size is not None:
        far &= _chance(ours, n, theirs, size) < _LEVEL / len(values)
    return [
        {
            "value": value,
            "share": float(ours[i]),
            "share_reference": float(theirs[i]),
            "balance": ("short" if off[i] < 0 else "over-full") if far[i] else None,
        }
        for i, value in enumerate(values)
    ]


def _chance(ours: np.ndarray, n: int, theirs: np.ndarray, size: float) -> np.ndarray:
    """(V,) p-values of Fisher's exact test that two samples of one law have such shares of a value."""
    from scipy.stats import hypergeom

    m = max(round(size), 1)
    found = np.rint(theirs * m).astype(int)
    law = hypergeom(n + m, np.rint(ours * n).astype(int) + found, m)
    return np.minimum(1.0, 2 * np.minimum(law.cdf(found), law.sf(found - 1)))
