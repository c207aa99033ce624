"""A random order of a range of numbers, known at any place without being stored."""

from __future__ import annotations

import numpy as np

_ROUNDS = 4


class Permutation:
    """A random permutation of 0 .. n-1 that can be evaluated anywhere without being stored.

    A Feistel network on the digits (left, right) of a number in base about sqrt(n), whose round functions are
    tables of random numbers (Luby & Rackoff 1988; mixed radix and cycle walking as in Black & Rogaway 2002).
    The tables lie in `memory` (size(n),) int64, which a generator fills where one is given.
    """

    def __init__(self, n: int, memory: np.ndarray, rng: np.random.Generator | None = None) -> None:
        self.n = n
        self._left, self._right = _sides(n)
        to_left, to_right = np.split(memory, [_ROUNDS * self._right])
        self._to_left = to_left.reshape(_ROUNDS, self._right)
        self._to_right = to_right.reshape(_ROUNDS, self._left)
        if rng is not None:
            self._to_left[:] = rng.integers(self._left, size=self._to_left.shape)
            self._to_right[:] = rng.integers(self._right, size=self._to_right.shape)

    @staticmethod
    def size(n: int) -> int:
        """How many int64 numbers decide a permutation of n."""
        return _ROUNDS * sum(_sides(n))

    @property
    def tables(self) -> tuple[int, int, np.ndarray, np.ndarray]:
        """(values of the left digit, of the right digit, round functions to the left, to the right)."""
        return self._left, self._right, self._to_left, self._to_right

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Images (int64) of `positions` (int64 in 0 .. n-1)."""
        out = self._once(positions)
        while (outside := np.flatnonzero(out >= self.n)).size:
            out[outside] = self._once(out[outside])
        return out

    def _once(self, values: np.ndarray) -> np.ndarray:
        left, right = np.divmod(values, self._right)
        sum_, wrapped = np.empty_like(left), np.empty_like(left)
        for to_left, to_right in zip(self._to_left, self._to_right, strict=True):
            _add_modulo(left, to_left, right, self._left, sum_, wrapped)
            _add_modulo(right, to_right, left, self._right, sum_, wrapped)
        left *= self._right
        left += right
        return left


def _sides(n: int) -> tuple[int, int]:
    """How many values the left and the right digit of a number below n have."""
    right = max(1, int(np.ceil(np.sqrt(n))))
    return max(1, -(-n // right)), right


def _add_modulo(
    digit: np.ndarray,
    table: np.ndarray,
    other: np.ndarray,
    modulus: int,
    sum_: np.ndarray,
    wrapped: np.ndarray,
) -> None:
    """digit = (digit + table[other]) mod modulus, in place; the last two arguments are room to work in."""
    np.take(table, other, out=sum_, mode="clip")
    sum_ += digit
    # As unsigned numbers, a sum below the modulus wraps to a huge one: the minimum undoes that without a
    # branch.
    np.subtract(sum_, modulus, out=wrapped)
    np.minimum(sum_.view(np.uint64), wrapped.view(np.uint64), out=digit.view(np.uint64))
