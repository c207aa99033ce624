"""Where a stand-in is off, told from exact sums at a few rows: far cheaper than a product with the kernel.

A stand-in is off where it was off before: about crowds whose pairs it knows by a smooth curve alone. So what
it is off by for one vector is, over all rows, nearly a linear combination of what it was off by for others,
and of fields. Some hundred rows are enough to find the factors.
"""

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix
from kdbias.sphere.equilibrium.near_kernel import Dear

_ROWS = 512  # half of them are fitted, half judge the fit
_COLUMNS = 1 << 13  # that they are seen with at a time
_FIRST, _LAST = 3, 6  # terms that are kept: constant and product with 1, and those of three vectors
_LEFT = 0.5  # of the variance of what the stand-in is off by: a fit that leaves more says little


class Soundings:
    """What is known of a stand-in's errors. An estimate: nothing is proven by it.

    Args:
        exact: the kernel that the stand-in stands for.
        stand_in: of as many rows.
        sums: (n,) float64, the exact product with 1.
        seed: of the rows.
    """

    def __init__(self, exact: Dear, stand_in: KernelMatrix, sums: np.ndarray, seed: int = 0) -> None:
        self._exact, self._stand_in = exact, stand_in
        rows = np.random.default_rng(seed).choice(exact.n, min(_ROWS, exact.n), replace=False)
        self._rows = np.sort(rows)
        self._terms: list[np.ndarray] = [np.ones(exact.n)]
        self.learn(np.ones(exact.n), sums)

    def learn(self, v: np.ndarray, field: np.ndarray) -> None:
        """Take in v (n,) and its exact field, up to a constant."""
        told = self._stand_in.apply(v)
        self._terms += [_standard(told), _standard(field - told)]
        del self._terms[_FIRST:-_LAST]

    def field(self, v: np.ndarray) -> np.ndarray | None:
        """(n,) float64, the exact field of v (n,) up to a constant, as it is likely to be.

        None: what the stand-in is off by does not follow from what it was off by before.
        """
        told = self._stand_in.apply(v)
        off = self._at_rows(v) - told[self._rows]
        terms = np.stack([*self._terms, _standard(told)], axis=1)
        factors = np.linalg.lstsq(terms[self._rows[::2]], off[::2], rcond=1e-8)[0]
        likely = terms @ factors
        judged = off[1::2]
        rest = judged - likely[self._rows[1::2]]
        return told + likely if np.var(rest) < _LEFT * np.var(judged) else None

    def _at_rows(self, v: np.ndarray) -> np.ndarray:
        found = np.zeros(len(self._rows))
        for start in range(0, self._exact.n, _COLUMNS):
            some = slice(start, start + _COLUMNS)
            found += self._exact.between(self._rows, some) @ v[some]
        return found


def _standard(values: np.ndarray) -> np.ndarray:
    """(n,) values about 0, at a standard deviation of 1; all 0 where they are one value."""
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
