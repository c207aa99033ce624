"""A cheap stand-in for a kernel matrix that is too large to keep: near pairs, and moments of all others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth
from kdbias.sphere.vectors import second_moment

_SAMPLED_ROWS = 256
_SAMPLED_COLUMNS = 1 << 16  # that the sampled rows are seen with
_MOST_NEAR = 128  # near pairs a row, on average; beyond it the sparse part would be the dearer one
_BYTES_A_PAIR = 24  # while the sparse matrix is put together
_MOST_DIRECTIONS = 128
_SMALLEST = 1e-30  # kernel values that no sum would notice
_ROUNDING = 1e-6  # of a cosine, hence 2t times that of a kernel value
_CHUNK = 1 << 15
_FITTED = 1 << 20  # pairs that are fitted at a time

Rows = np.ndarray | slice
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(pairs,) int32 rows i < j, and float64 what their kernel has beyond the quadratic."""


@dataclass(frozen=True)
class FarPart:
    """What tells near pairs from others, and what the kernel of those others is taken for.

    Attributes:
        radius: least kernel value of a near pair.
        quadratic: constant, linear and square term, of the cosine.
    """

    radius: float
    quadratic: tuple[float, ...]

    def values(self, x: np.ndarray, reduced: np.ndarray, i: Rows, j: Rows) -> np.ndarray:
        """(pairs,) float64 quadratic of pairs of rows i and j.

        Args:
            x: (n, d) float32 unit rows.
            reduced: (n, r) float32, in the directions of the square term; ``x`` itself where these are all.
        """
        cosines = np.einsum("ij,ij->i", x[i], x[j])
        others = cosines if reduced is x else np.einsum("ij,ij->i", reduced[i], reduced[j])
        return np.asarray(self.quadratic) @ features(cosines, others)

    def beyond(self, x: np.ndarray, reduced: np.ndarray, i: np.ndarray, j: np.ndarray, k: Any) -> np.ndarray:
        """(pairs,) float64 what kernel values k have beyond the quadratic; arguments as of `values`."""
        rest = np.array(k, dtype=np.float64)
        for start in range(0, len(i), _CHUNK):
            some = slice(start, start + _CHUNK)
            rest[some] -= self.values(x, reduced, i[some], j[some])
        return rest


class Dear(Protocol):
    """A kernel matrix whose products are dear, as `NearKernel` stands in for it.

    Attributes:
        n: rows.
        t: bandwidth, or several whose kernels are averaged.
        x: (n, d) float32 unit rows, in memory or mapped.
    """

    n: int
    t: Bandwidth
    x: np.ndarray

    def between(self, rows: Rows, columns: Rows) -> np.ndarray:
        """(r, c) float32 kernel of some rows with others."""

    def lay(
        self, name: str, shape: tuple[int, ...], chunks: Iterable[tuple[slice, np.ndarray]]
    ) -> np.ndarray:
        """A float32 array made of chunks of its rows, where the vectors are, too."""

    def remember(self, name: str, find: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What ``find`` gives, or gave a run that was killed."""

    def near_pairs(self, far: FarPart, reduced: np.ndarray) -> Pairs:
        """The pairs at or above its radius, ascending by row, in one pass over all pairs."""


class NearKernel:
    """A stand-in that is symmetric and linear in p.

    Pairs nearer than a radius keep their value in a sparse matrix. All others take a quadratic of the cosine,
    whose product with p needs only moments of p: sum p, sum p x and sum p x x' (the latter in the r leading
    principal directions). A product costs O(n d + n r^2 + pairs) instead of O(n^2 d).

    Args:
        exact: the kernel that it stands in for; one pass over its tiles finds the near pairs.
        memory: bytes for the near pairs.
        seed: of the rows on which radius and quadratic are fitted.
    """

    definite = False

    def __init__(self, exact: Dear, memory: int, seed: int = 0) -> None:
        self.n, self._x = exact.n, exact.x
        self._reduced = self._x
        if self._x.shape[1] > _MOST_DIRECTIONS:
            self._reduced = exact.lay("reduced", (self.n, _MOST_DIRECTIONS), _reduced(self._x))
        fit = partial(self._fit, exact, pairs_a_row(self.n, memory), np.random.default_rng(seed))
        radius, *quadratic = exact.remember("far", fit)["far"].tolist()
        self.far = FarPart(radius, tuple(quadratic))
        i, j, rest = exact.near_pairs(self.far, self._reduced)
        self._near = _sparse(i, j, rest, self.n)
        self._diagonal = np.empty(self.n)
        for start in range(0, self.n, _CHUNK):
            some = slice(start, start + _CHUNK)
            self._diagonal[some] = 1 - self.far.values(self._x, self._reduced, some, some)
        self.description = (
            f"{2 * self._near.nnz / self.n:,.0f} near pairs a sample + moments in "
            f"{self._reduced.shape[1]} directions"
        )

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `KernelMatrix.apply`, float64; the same whether ``exact`` or not."""
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
        constant, linear, square = self.far.quadratic
        for k, weights in enumerate(columns.astype(np.float32).T):
            result[:, k] += constant * columns[:, k].sum() + linear * (self._x @ (self._x.T @ weights))
            moment = second_moment(self._reduced, weights).astype(np.float32)
            for start in range(0, self.n, _CHUNK):
                some = self._reduced[start : start + _CHUNK]
                result[start : start + _CHUNK, k] += square * np.einsum("ij,ij->i", some @ moment, some)
        return result

    def _fit(self, exact: Dear, per_row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A radius that leaves ``per_row`` near pairs a row, and the quadratic of all others.

        Both by some rows; of many samples, these are seen with some columns, too.
        """
        n, finest = self.n, float(np.max(exact.t))
        rows = rng.choice(n, min(_SAMPLED_ROWS, n), replace=False)
        columns: Rows = slice(None)
        stands = rows  # of the rows among the columns
        if n > _SAMPLED_COLUMNS:
            others = np.setdiff1d(np.sort(rng.choice(n, _SAMPLED_COLUMNS, replace=False)), rows)
            columns, stands = np.concatenate([rows, others]), np.arange(len(rows))
        values = exact.between(rows, columns)
        values[np.arange(len(rows)), stands] = 0  # pairs of different samples
        quantile = float(np.quantile(values, max(0.0, 1 - per_row / n)))
        # Just past it, by more than rounding: there may be any number of pairs at the very same value.
        radius = max(quantile * (1 + _ROUNDING * (1 + 2 * finest)), _SMALLEST)
        x, reduced = self._x[columns], self._reduced[columns]
        normal, right = np.zeros((3, 3)), np.zeros(3)
        for some in np.array_split(np.arange(len(rows)), -(-values.size // _FITTED)):
            far = values[some] < radius
            far[np.arange(len(some)), stands[some]] = False
            cosines = (self._x[rows[some]] @ x.T)[far]
            of_reduced = cosines
            if self._reduced is not self._x:
                of_reduced = (self._reduced[rows[some]] @ reduced.T)[far]
            terms = features(cosines, of_reduced)
            normal += terms @ terms.T
            right += terms @ values[some][far]
        constant, linear, square = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
        return {"far": np.array([radius, constant, linear, square])}


def pairs_a_row(n: int, memory: int) -> int:
    """Near pairs that each of n rows may have on average within so many bytes."""
    return min(_MOST_NEAR, max(1, memory // (_BYTES_A_PAIR * n)), n)


def features(cosines: np.ndarray, reduced: np.ndarray) -> np.ndarray:
    """(3, pairs) float64: 1, the cosine, and the square of that in the leading directions."""
    wide = np.asarray(reduced, dtype=np.float64)
    return np.stack([np.ones(len(wide)), np.asarray(cosines, dtype=np.float64), wide * wide])


def _sparse(i: np.ndarray, j: np.ndarray, values: np.ndarray, n: int) -> Any:
    """Pairs as a sparse (n, n) matrix."""
    from scipy.sparse import coo_array

    return coo_array((values, (i, j)), shape=(n, n)).tocsr()


def _reduced(x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Chunks of (n, 128) float32 x in orthonormal directions that hold most of its second moment."""
    _, vectors = np.linalg.eigh(second_moment(x) / len(x))
    directions = np.ascontiguousarray(vectors[:, -_MOST_DIRECTIONS:], dtype=np.float32)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, x[rows] @ directions
