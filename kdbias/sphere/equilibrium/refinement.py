"""The equilibrium where products with the exact kernel are dear: a few of them instead of some fifty.

Each round takes the exact field g = K p, solves the problem whose kernel is a cheap stand-in S but whose
field at p is g, and searches the line to its solution with the exact kernel (a quadratic, known from two
fields). This is Newton's method with an approximate Hessian: where S is off by a percent, a round leaves
about a percent of the error. The gap is taken from exact fields alone, so the certificate is as good as with
all of K in memory. Where S is too crude (few dimensions, a wide kernel), rounds stall; `equilibrium.solve`
then goes on by itself from the point that was reached.
"""

from functools import cached_property
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.sphere.equilibrium.descent import descend
from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix, Matching, TiledKernel, offset_of
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, GapShare, Groups, Point, wanted_gap
from kdbias.sphere.equilibrium.stop import Stop
from kdbias.sphere.vectors import second_moment
from kdbias.wording import counted

_MOST_ROUNDS = 25
_STEP_TOLERANCE = 0.2  # of the wanted gap: how well a round solves its stand-in problem
_FIRST_DAMPING = 0.1
_SHORT, _LONG = 0.5, 0.9  # shares of a step
_PATIENCE = 3  # rounds in which the gap must halve
STALLED = "the stand-in kernel leads no further"
_SAMPLED_ROWS = 256
_MOST_NEAR = 128  # near pairs a row, on average; beyond it the sparse part would be the dearer one
_BYTES_A_PAIR = 24  # while the sparse matrix is put together
_MOST_DIRECTIONS = 128
_SMALLEST = 1e-30  # kernel values that no sum would notice
_ROUNDING = 1e-6  # of a cosine, hence 2t times that of a kernel value
_CHUNK = 1 << 15
_FITTED = 1 << 20  # pairs that are fitted at a time


class _Anchored:
    """The stand-in S with its field moved to the exact one at an anchor, and damping towards that anchor.

    On distributions (sum p = 1) its energy is p'Sp + 2 c'p + damping |p - anchor|^2 up to a constant.
    """

    definite = False
    description = "stand-in kernel"

    def __init__(self, inner: KernelMatrix, anchor: np.ndarray, field: np.ndarray, damping: float) -> None:
        self.n, self._inner, self._damping = inner.n, inner, damping
        self._offset = field - inner.apply(anchor) - damping * anchor

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `KernelMatrix.apply`; the same whether ``exact`` or not."""
        offset = self._offset if p.ndim == 1 else self._offset[:, None]
        return self._inner.apply(p) + self._damping * p + offset * p.sum(axis=0) + self._offset @ p


def _stand_in(kernel: TiledKernel) -> KernelMatrix:
    """The kernel's stand-in, made at the first call and kept with it.

    It serves a `Matching` as well: what that adds to the energy is linear, and the anchor carries it.
    """
    if kernel.stand_in is None:
        kernel.stand_in = NearKernel(kernel, kernel.memory)
    return kernel.stand_in


def refine(
    kernel: TiledKernel | Matching,
    feasible: FeasibleSet,
    groups: Groups,
    effort: Effort,
    start: np.ndarray | None = None,
    stop: Stop | None = None,
) -> Equilibrium:
    """What `descent.descend` gives, with few exact products; arguments as there."""
    tiled = kernel.inner if isinstance(kernel, Matching) else kernel
    assert isinstance(tiled, TiledKernel)
    in_time, offset, natural = effort.spent is None, offset_of(kernel), groups.natural
    n, stand_in, distinct = kernel.n, _stand_in(tiled), Groups.of(None, kernel.n)

    def field_of(p: np.ndarray) -> np.ndarray:
        effort.products += bool(np.ptp(p) > 0)  # that of uniform masses is known from the first pass
        return kernel.apply(p, exact=True)

    largest = None if tiled is not kernel else tiled.largest
    start_energy, even = float(natural @ field_of(natural)), np.full(n, 1 / n)
    even_field = field_of(even)
    if stop is not None:
        stop.begins(float(even @ even_field))
    begin = even if start is None else feasible.project(start)
    point = Point.at(begin, field_of(begin), feasible, largest)
    damping, reason, gaps = 0.0, "met the tolerance", [point.gap]
    for rounds in range(_MOST_ROUNDS + 1):
        effort.report(point)
        good = point.gap <= wanted_gap(effort.tolerance, start_energy, point.energy, offset)
        moved = None if stop is None else stop.moved(point, feasible, good)
        if moved is not None:
            feasible, point = moved, point.within(moved, even_field)
            gaps = [point.gap]
        elif good and (stop is None or stop.settled(point, feasible)):
            break
        left = effort.seconds_left
        # The first round is made, though it begins or ends late: without it there is nothing to show.
        late = rounds > 0 and left is not None and left < tiled.seconds
        over = effort.spent if rounds or not in_time else None
        if rounds == _MOST_ROUNDS or over or late:
            spent = effort.spent or f"stopped after {counted(effort.iterations, 'iteration')}"
            if late and not effort.spent:
                spent = f"stopped with {left:,.0f} s left, too few for another exact product"
            reason = f"{spent} and {counted(effort.products, 'exact product')}"
            break
        tolerance = _STEP_TOLERANCE * effort.tolerance
        with progress.bar(100, "%", f"round {rounds + 1} with a stand-in") as bar:
            inner = Effort(
                tolerance,
                effort.max_iterations - effort.iterations,
                None if left is None else max(left - tiled.seconds, tiled.seconds / 4),
                GapShare(bar, tolerance),
            )
            anchored = _Anchored(stand_in, point.p, point.field, damping)
            step = descend(anchored, feasible, distinct, inner, start=point.p)
        effort.iterations += step.iterations
        move, bend = step.p - point.p, field_of(step.p) - point.field
        share = _best_share(float(move @ point.field), float(move @ bend))
        point = Point.at(point.p + share * move, point.field + share * bend, feasible, largest)
        # How far the exact kernel lets the stand-in's step go says how far to trust the next one.
        if share < _SHORT:
            damping = max(4 * damping, _FIRST_DAMPING)
        elif share > _LONG:
            damping /= 4
        gaps.append(point.gap)
        if len(gaps) > _PATIENCE and point.gap > gaps[-1 - _PATIENCE] / 2:
            reason = STALLED
            break
    return Equilibrium.at(
        point,
        feasible,
        groups,
        effort,
        start_energy=start_energy,
        proven=True,
        reason=reason,
        offset=offset,
    )


def _best_share(slope: float, curvature: float) -> float:
    """The share s of a step that minimises 2 s slope + s^2 curvature, from 0 to 1.

    A stand-in may lead uphill; only what lies between two feasible points is sure to be feasible.
    """
    if curvature > 0:
        return min(max(-slope / curvature, 0.0), 1.0)
    return 1.0 if 2 * slope + curvature < 0 else 0.0


class NearKernel:
    """A cheap stand-in for a kernel matrix that is too large to keep; symmetric and linear in p.

    Pairs nearer than a radius keep their value in a sparse matrix. All others take a quadratic of the cosine,
    whose product with p needs only moments of p: sum p, sum p x and sum p x x' (the latter in the r leading
    principal directions). A product costs O(n d + n r^2 + pairs) instead of O(n^2 d).

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
        self._reduced = self._x
        if self._x.shape[1] > _MOST_DIRECTIONS:
            self._reduced = self._x @ _leading_directions(self._x)
        self.quadratic = self._fit(values, rows)
        self._near, self._diagonal = self._collect(exact)
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
        for some in np.array_split(np.arange(len(rows)), -(-len(rows) * self.n // _FITTED)):
            far = values[some] < self.radius
            far[np.arange(len(some)), rows[some]] = False
            cosines = (self._x[rows[some]] @ self._x.T)[far]
            reduced = cosines
            if self._reduced is not self._x:
                reduced = (self._reduced[rows[some]] @ self._reduced.T)[far]
            features = self._features(cosines, reduced)
            normal += features @ features.T
            right += features @ values[some][far]
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
            flat = np.flatnonzero(mask)
            i, j = (part.astype(np.int32) for part in np.divmod(flat, values.shape[1]))
            found[block] = (i + np.int32(block[0]), j + np.int32(block[1]), values.reshape(-1)[flat])

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
        reduced = cosines
        if self._reduced is not self._x:
            reduced = np.einsum("ij,ij->i", self._reduced[i], self._reduced[j])
        return np.asarray(self.quadratic) @ self._features(cosines, reduced)


def _leading_directions(x: np.ndarray) -> np.ndarray:
    """(d, 128) float32 orthonormal directions that hold most of the second moment of x."""
    _, vectors = np.linalg.eigh(second_moment(x) / len(x))
    return np.ascontiguousarray(vectors[:, -_MOST_DIRECTIONS:], dtype=np.float32)
