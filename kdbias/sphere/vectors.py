"""What the geometry expects of its vectors, and the small sums over them that several folders need."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.room import room

_ROWS = 8192  # at a time; fewer where they are widened to float64 or hashed
_FEWER = 1024
_TOLERANCE = 1e-3


def distances(cosines: np.ndarray) -> np.ndarray:
    """Euclidean distances (float64) of unit vectors at these cosines; rounding beyond 1 counts as 1."""
    return np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))


def require_unit_rows(x: np.ndarray) -> None:
    """Refuse anything but (n, d) float32 rows of length one; the message names offending rows.

    Raises:
        KdbiasError: another shape or dtype, no rows, or rows with NaN or inf or of another length.
    """
    if x.ndim != 2 or x.dtype != np.float32 or not len(x):
        raise KdbiasError(f"(n, d) float32 unit vectors are needed, got {x.dtype} of shape {x.shape}")
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        squares = np.einsum("nd,nd->n", rows, rows)
        bad = np.flatnonzero(~(np.abs(squares - 1) <= 2 * _TOLERANCE))
        if len(bad):
            lengths = ", ".join(f"{np.sqrt(s):.4g}" for s in squares[bad[:3]])
            raise KdbiasError(
                f"vectors {', '.join(str(start + b) for b in bad[:3])} are not of length 1 (lengths: "
                f"{lengths}); normalise them, and remove those that are zero or not finite"
            )


def label_sums(
    x: np.ndarray,
    codes: np.ndarray,
    count: int,
    rows: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Sum of the vectors of each label, in float64, of which it holds a thousand rows at a time.

    Args:
        x: (n, d) vectors of any float type.
        codes: (n,) int label of each, from 0 to ``count`` - 1; those of -1 are left out.
        count: labels; one without samples has a sum of 0.
        rows: (m,) rows of ``x`` to add up, of which ``codes`` (m,) are then the labels; default all.
        weights: (n,) of the rows of ``x``; default 1 each.

    Returns:
        (count, d) float64.
    """
    order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
    sums = np.zeros((count, x.shape[1]))
    for first in range(0, len(order), _FEWER):
        places = order[first : first + _FEWER]
        ordered, positions = codes[places], places if rows is None else rows[places]
        edges = np.flatnonzero(np.diff(ordered, prepend=-1))
        some = x[positions].astype(np.float64)
        if weights is not None:
            some *= weights[positions, None]
        sums[ordered[edges]] += np.add.reduceat(some, edges, axis=0)
    return sums


def second_moment(x: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
    """Sum of p_i x_i x_i' over rows x (n, d) float32 with masses p (n,), default 1 each.

    Returns:
        (d, d) float64: sums of float32 products of up to 8,192 rows.
    """
    moment = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        left = rows if p is None else rows * p[start : start + _ROWS, None].astype(np.float32)
        moment += left.T @ rows
    return moment


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's rank correlation of (n,) numbers a and b, in [-1, 1]; ties share their mean rank.

    None where either is constant.
    """
    left, right = (ranks - ranks.mean() for ranks in map(_ranks, (a, b)))
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / scale if scale > 0 else None


def _ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) float64 ranks from 1, ties at their mean; SciPy's import takes longer than small runs."""
    _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places.reshape(-1)]


def row_digests(x: np.ndarray) -> np.ndarray:
    """(n, 2) uint64 digests of rows (n, d): equal where all numbers are, zeros of either sign included."""
    digests = room(x, (len(x), 2), np.uint64)
    for start in range(0, len(x), _FEWER):
        rows = np.ascontiguousarray(x[start : start + _FEWER]) + 0.0  # -0.0 and 0.0 are the same number
        joined = b"".join(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
        digests[start : start + _FEWER] = np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
    return digests
