"""How far a discrepancy from a reference may be off because the reference is a sample (bootstrap)."""

import math
from collections.abc import Callable

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import LADDER, kernel_tile, weaken_unlike
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.targets.opening import OpenTarget

DRAWS = 1000
_MOST = 2000  # reference samples that are drawn from again


class References:
    """References such as this one might have been, drawn from its samples with replacement (bootstrap).

    Samples that depend on each other are drawn together, a cluster at a time.

    The squared discrepancy of masses w of the reference is quadratic in w, so that all draws need the kernel
    of the reference's samples once and each sampling's field at them: with d = w - q it is off by
    2 d'(K q - K_yx p) + d'K d, less the mean of the last term, by which the discrepancy itself is biased. Of
    a large reference some samples are drawn from; the two terms fall like the root of its size and like it.
    """

    def __init__(self, opened: OpenTarget, seed: int) -> None:
        assert opened.vectors is not None
        m = len(opened.vectors)
        rng = np.random.default_rng(seed)
        q = np.full(m, 1 / m) if opened.masses is None else opened.masses
        counting = np.flatnonzero(q)  # a draw of samples without weight alone would be none
        rows = np.sort(rng.choice(counting, min(len(counting), _MOST), replace=False))
        q = q[rows] / q[rows].sum()
        self._y = opened.vectors[rows]
        self._codes = None if opened.codes is None else (opened.codes[1][rows], opened.codes[0])
        kernel = kernel_tile(self._y, self._y, LADDER, diagonal=True)
        if self._codes is not None:
            weaken_unlike(kernel, self._codes[0], self._codes[0])
        units = np.arange(len(rows))
        if opened.clusters is not None:
            units = np.unique(opened.clusters[1][rows], return_inverse=True)[1].reshape(-1)
        count = int(units.max()) + 1
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)[:, units] * q
        self._shift = (drawn / drawn.sum(axis=1, keepdims=True) - q).astype(np.float32)
        self._own = kernel @ q
        self._shrink = len(rows) / len(counting)
        square = np.einsum("bi,bi->b", self._shift @ kernel, self._shift, dtype=np.float64)
        self._square = (square - square.mean()) * self._shrink

    def seen_from(
        self, x: np.ndarray, p: np.ndarray, threads: int, means: Callable[..., np.ndarray] = kernel_means
    ) -> np.ndarray:
        """(m, draws) by how much the discrepancy of each p (m, n) over rows x is off in each draw.

        Args:
            means: as of `reference_target`.
        """
        across = means(self._y, x, np.ascontiguousarray(p.T), LADDER, threads, codes=self._codes)
        slope = (self._own[:, None] - across) * (2 * math.sqrt(self._shrink))
        return (self._shift @ slope).T + self._square
