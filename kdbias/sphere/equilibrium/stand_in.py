"""A cheap stand-in for a kernel matrix that is too large to keep: near pairs exactly, far pairs by moments.

Pairs nearer than a radius keep their value in a sparse matrix. All others take a quadratic of the cosine,
whose product with p needs only moments of p: sum p, sum p x and sum p x x' (the latter in the r leading
principal directions). A product costs O(n d + n r^2 + pairs) instead of O(n^2 d).

It replaces no exact result: `refinement` asks it for steps and the exact kernel for the truth.
"""

from functools import cached_property
from typing import Any

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel
from kdbias.sphere.vectors import second_moment

_SAMPLED_ROWS = 256
_MOST_NEAR = 512  # near pairs a row, on average; beyond it the sparse part would be the dearer one
_BYTES_A_PAIR = 24  # while the sparse matrix is put together
_MOST_DIRECTIONS = 128
_SMALLEST = 1e-30  # kernel values that no sum would notice
_ROUNDING = 1e-6  # of a cosine, hence 2t times that of a kernel value
_CHUNK = 1 << 15


class NearKernel:
    """Sparse near pairs + a quadratic in the cosine for the far ones; symmetric and linear in p.

    Args:
        exact: the kernel that it stands in for; one pass over its tiles finds the near pairs.
        memory: bytes for the near pairs.
        seed: of the rows on which radius and quadratic are fitted.
    """

    definite = False

    def __init__(self, exact: TiledKernel, memory: int, seed: int = 0) -> None:
        self.n, finest = exact.n, float(np.max(exact.t))
        self._x = exact.x
        rows = np.random.default_rng(seed).choice(self.n, min(_SAMPLED_ROWS, self.n), replace=False)
        values = exact.rows(rows)
        values[np.arange(len(rows)), rows] = 0  # pairs of different samples
        per_row = min(_MOST_NEAR, max(1, memory // (_BYTES_A_PAIR * self.n)), self.n)
        quantile = float(np.quantile(values, max(0.0, 1 - per_row / self.n)))
        # Just past it, by more than rounding: there may be any number of pairs at the very same value.
        self.radius = max(quantile * (1 + _ROUNDING * (1 + 2 * finest)), _SMALLEST)
        self._reduced = self._x @ _leading_directions(self._x)
        self.quadratic = self._fit(values, rows)
        self._near, self._diagonal = self._collect(exact)
        self.description = (
            f"{2 * self._near.nnz / self.n:,.0f} near pairs a sample + moments in "
            f"{self._reduced.shape[1]} directions"
        )

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        columns = p[:, None] if p.ndim == 1 else p
        mean = columns.mean(axis=0)
        result = self._product(columns - mean) + self._row_sums[:, None] * mean
        return result[:, 0] if p.ndim == 1 else result

    @cached_property
    def _row_sums(self) -> np.ndarray:
        """(n,) product with 1, so that rounding later acts on the deviation from uniform weights alone."""
        return self._product(np.ones((self.n, 1)))[:, 0]

    def _product(self, columns: np.ndarray) -> np.ndarray:
        result = self._near @ columns + self._near.T @ columns + self._diagonal[:, None] * columns
        constant, linear, square = self.quadratic
        for k, weights in enumerate(columns.astype(np.float32).T):
            result[:, k] += constant * columns[:, k].sum() + linear * (self._x @ (self._x.T @ weights))
            moment = second_moment(self._reduced, weights).astype(np.float32)
            for start in range(0, self.n, _CHUNK):
                some = self._reduced[start : start + _CHUNK]
                result[start : start + _CHUNK, k] += square * np.einsum("ij,ij->i", some @ moment, some)
        return result

    def _fit(self, values: np.ndarray, rows: np.ndarray) -> tuple[float, float, float]:
        """Least-squares quadratic (constant, linear, square) of the kernel on the sampled far pairs."""
        normal, right = np.zeros((3, 3)), np.zeros(3)
        for row, kernel in zip(rows, values, strict=True):
            far = kernel < self.radius
            far[row] = False
            features = self._features(self._x[far] @ self._x[row], self._reduced[far] @ self._reduced[row])
            normal += features @ features.T
            right += features @ kernel[far]
        constant, linear, square = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
        return float(constant), float(linear), float(square)

    @staticmethod
    def _features(cosines: np.ndarray, reduced: np.ndarray) -> np.ndarray:
        wide = np.asarray(reduced, dtype=np.float64)
        return np.stack([np.ones(len(wide)), np.asarray(cosines, dtype=np.float64), wide * wide])

    def _collect(self, exact: TiledKernel) -> tuple[Any, np.ndarray]:
        """Near pairs i < j as a sparse matrix of (kernel - quadratic), and the same on the diagonal (n,)."""
        from scipy.sparse import coo_array

        found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

        def near(block: tuple[int, int], values: np.ndarray) -> None:
            mask = values >= self.radius
            if block[0] == block[1]:
                mask = np.triu(mask, 1)
            i, j = np.nonzero(mask)
            found[block] = ((i + block[0]).astype(np.int32), (j + block[1]).astype(np.int32), values[i, j])

        exact.scan(near)
        ordered = [found[block] for block in sorted(found)]  # the same whatever thread came first
        i, j, values = (np.concatenate(parts) for parts in zip(*ordered, strict=True))
        values = values.astype(np.float64)
        for start in range(0, len(i), _CHUNK):
            some = slice(start, start + _CHUNK)
            values[some] -= self._far(i[some], j[some])
        every = np.arange(self.n)
        diagonal = np.concatenate([1 - self._far(b, b) for b in np.array_split(every, -(-self.n // _CHUNK))])
        return coo_array((values, (i, j)), shape=(self.n, self.n)).tocsr(), diagonal

    def _far(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        cosines = np.einsum("ij,ij->i", self._x[i], self._x[j])
        reduced = np.einsum("ij,ij->i", self._reduced[i], self._reduced[j])
        return np.asarray(self.quadratic) @ self._features(cosines, reduced)


def _leading_directions(x: np.ndarray) -> np.ndarray:
    """(d, r) float32 orthonormal directions that hold most of the second moment of x, r <= 128."""
    d = x.shape[1]
    if d <= _MOST_DIRECTIONS:
        return np.eye(d, dtype=np.float32)
    _, vectors = np.linalg.eigh(second_moment(x) / len(x))
    return np.ascontiguousarray(vectors[:, -_MOST_DIRECTIONS:], dtype=np.float32)
