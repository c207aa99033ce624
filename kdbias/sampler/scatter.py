"""Rows in an order in which neighbours are strangers, for systematic resampling.

Systematic resampling takes every so-many-th unit of the cumulative weights, so rows that lie next to each
other are never drawn together, and a file in which cameras, flips or labels alternate gives one-sided epochs.
Mixing the rows first removes that: each block of rows is put in the order of one random table, turned by a
random amount of its own. Blocks stay where they are, so that everything happens in cache.
"""

import numpy as np

_BLOCK = 1 << 12


class Scatter:
    """A random order of n rows, other for each generator; memory O(n / 4096)."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n = n
        table = rng.permutation(_BLOCK)
        self._table = np.concatenate([table, table])
        self._turns = rng.integers(_BLOCK, size=n // _BLOCK)
        self._rest = rng.permutation(n % _BLOCK)

    def _block(self, number: int) -> np.ndarray:
        if number == len(self._turns):
            return self._rest
        turn = self._turns[number]
        return self._table[turn : turn + _BLOCK]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """A new array with the values (n,) of rows in their mixed order."""
        mixed = np.empty_like(values)
        for number, start in enumerate(range(0, self._n, _BLOCK)):
            part = slice(start, start + _BLOCK)
            np.take(values[part], self._block(number), out=mixed[part], mode="clip")
        return mixed

    def restore(self, places: np.ndarray) -> None:
        """Replace ascending places in the mixed order by the rows that stand there."""
        starts = np.arange(0, self._n, _BLOCK)
        ends = np.searchsorted(places, np.append(starts[1:], self._n))
        begin = 0
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            places[begin:end] = start + self._block(number)[places[begin:end] - start]
            begin = end
