"""The two loops of `epoch_order` compiled by numba, bit for bit the same as its NumPy versions.

Only imported where an epoch is long enough to repay compiling, and only where numba is installed.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def whole_draws(weights: np.ndarray, scale: float, snap: float) -> int:
    """Sum of the whole parts of the expected counts weights * scale."""
    total = 0
    for i in range(len(weights)):
        total += int(np.floor(weights[i] * scale + snap))
    return total


@numba.njit(cache=True, nogil=True)
def fill_ticks(
    weights: np.ndarray,
    scale: float,
    snap: float,
    offset: float,
    contested: int,
    ticks: np.ndarray,
    first: int,
    reach: float,
    before: float,
    end: int,
    last_fractional: int,
) -> tuple[float, float, int, int]:
    """Write the systematic draws of rows from `first` on into `ticks`, of which `end` are filled.

    Takes and returns where the sums stand: reach of the fractions, draws before it, end, and the last row
    with a fraction.
    """
    room = len(ticks) - 4
    for i in range(len(weights)):
        expected = weights[i] * scale
        whole = np.floor(expected + snap)
        fraction = max(expected - whole, 0.0)
        if fraction > 0.0:
            last_fractional = first + i
        reach += fraction
        hit = min(np.ceil(reach - offset), float(contested))
        count = int(whole + hit - before)
        before = hit
        if count <= 4 and end <= room:
            # Four stores cost less than a branch on the count, which no processor can predict.
            ticks[end] = first + i
            ticks[end + 1] = first + i
            ticks[end + 2] = first + i
            ticks[end + 3] = first + i
            end += count
        else:
            for _ in range(count):
                ticks[end] = first + i
                end += 1
    return reach, before, end, last_fractional


@numba.njit(cache=True, nogil=True)
def gather(
    ticks: np.ndarray,
    positions: np.ndarray,
    left_size: int,
    right_size: int,
    to_left: np.ndarray,
    to_right: np.ndarray,
    out: np.ndarray,
) -> None:
    """out = ticks[permutation(positions)]; the tables are (rounds, right_size) and (rounds, left_size)."""
    n, count = len(ticks), len(positions)
    left, right = np.empty(count, np.int64), np.empty(count, np.int64)
    _permute(positions, left_size, right_size, to_left, to_right, left, right, out)
    single, l1, r1 = np.empty(1, np.int64), np.empty(1, np.int64), np.empty(1, np.int64)
    for i in range(count):
        while out[i] >= n:
            single[0] = out[i]
            _permute(single, left_size, right_size, to_left, to_right, l1, r1, out[i : i + 1])
    for i in range(count):
        out[i] = ticks[out[i]]


@numba.njit(cache=True, nogil=True)
def _permute(
    values: np.ndarray,
    left_size: int,
    right_size: int,
    to_left: np.ndarray,
    to_right: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the values (n,) in their new order into `out` (n,)."""
    # Round by round over all values: no value waits for its own previous look-up, and one table stays in
    # cache.
    for i in range(len(values)):
        left[i] = values[i] // right_size
        right[i] = values[i] - left[i] * right_size
    for r in range(len(to_left)):
        for i in range(len(values)):
            total = left[i] + to_left[r, right[i]]
            left[i] = total - left_size * (total >= left_size)
        for i in range(len(values)):
            total = right[i] + to_right[r, left[i]]
            right[i] = total - right_size * (total >= right_size)
    for i in range(len(values)):
        out[i] = left[i] * right_size + right[i]
