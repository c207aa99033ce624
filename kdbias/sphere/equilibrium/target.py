"""What sampled data are compared with: a distribution on the sphere, as the kernel sees it from the data.

The squared discrepancy of sampling p from a target T is MMD^2(p, T) = p'Kp - 2 p'k + c with the kernel means
k_i = E K(x_i, y) and c = E K(y, y') for y, y' ~ T independent (Gretton, Borgwardt, Rasch, Schoelkopf &
Smola, "A kernel two-sample test", JMLR 2012). Targets: the uniform sphere (k is constant), a reference
sample, or the data themselves under other masses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, likeness
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.null import log_null
from kdbias.sphere.vectors import require_unit_rows
from kdbias.sphere.workers import Workspace, over_rows

_ROWS = 1024

Codes = tuple[np.ndarray, np.ndarray]
"""Values of one column as integers: those of the data and those of the reference."""


@dataclass(frozen=True)
class Target:
    """A target as the kernel sees it.

    Attributes:
        mean: (n,) float64, k_i = E K(x_i, y) for each row of the data.
        constant: c = E K(y, y'), pairs of a reference sample with itself included.
        distinct_mean: the same over pairs of different reference samples, or of different clusters: unbiased
            for what the reference was drawn from. Equal to ``constant`` where the target is known exactly.
        size: effective number of independent reference samples, or of clusters of such as depend on each
            other, 1 / (sum of their squared masses); None: known exactly.
        cluster_mean: mean K within a cluster, pairs of a sample with itself included; 1 where each is alone.
    """

    mean: np.ndarray
    constant: float
    distinct_mean: float
    size: float | None
    cluster_mean: float = 1.0

    @property
    def noise(self) -> float:
        """E MMD^2 of such a reference from what it was drawn from: (1 - mean off-diagonal K) / size.

        With clusters, drawn whole: (mean K within a cluster - mean K between clusters) / size.
        """
        return 0.0 if self.size is None else max(self.cluster_mean - self.distinct_mean, 0.0) / self.size

    def discrepancy(self, p: np.ndarray, field: np.ndarray) -> float:
        """MMD^2(p, T) of masses p (n,) from their field K p (n,); never below zero but for rounding."""
        return float(p @ field) - 2 * float(p @ self.mean) + self.constant

    def unbiased_discrepancy(self, p: np.ndarray, field: np.ndarray) -> float | None:
        """The same without pairs of a sample with itself on either side; None for a point mass.

        It may be negative: an estimate, without bias, of the discrepancy of what both samples stand for.
        """
        square = float(p @ p)
        if square >= 1:
            return None
        pairs = (float(p @ field) - square) / (1 - square)
        return pairs - 2 * float(p @ self.mean) + self.distinct_mean

    def witness(self, field: np.ndarray) -> np.ndarray:
        """(n,) (K p)_i - k_i: above zero where p has more than the target (over-full), below where less."""
        return field - self.mean


def sphere_target(n: int, d: int, t: Bandwidth) -> Target:
    """The uniform sphere of R^d: its kernel mean is the same everywhere, exp(`log_null`)."""
    value = math.exp(log_null(d, t))
    return Target(np.full(n, value), value, value, None)


def reference_target(
    x: np.ndarray,
    reference: np.ndarray,
    t: Bandwidth,
    masses: np.ndarray | None = None,
    *,
    codes: Codes | None = None,
    clusters: np.ndarray | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    means: Callable[..., np.ndarray] | None = None,
) -> Target:
    """A reference sample as the target; n m d multiply-adds, in blocks.

    Args:
        x: (n, d) float32 unit rows, the data.
        reference: (m, d) float32 unit rows, m >= 2.
        t: bandwidth, or several whose kernels are averaged.
        masses: (m,) >= 0 with sum 1, how much each reference sample counts; default alike.
        codes: (n,) and (m,) values of a column that is compared together with the vectors.
        clusters: (m,) int, 0 ... C - 1, which reference samples depend on each other; default each is alone.
        progress: called with the number of data rows done after each block.
        means: what computes kernel means; default `kernel_means`.

    Raises:
        KdbiasError: rows that are no unit vectors, dimensions that differ, masses that are none, or a
            reference that is a single sample or a single cluster.
    """
    require_same_sphere(x, reference)
    m = len(reference)
    q = np.full(m, 1 / m) if masses is None else checked_masses(masses, m)
    within, square = float(q @ q), 1 / effective_size(m, q, clusters)
    if square > 1 - 1e-9:
        what = "sample" if clusters is None else "cluster"
        raise KdbiasError(f"a reference of one {what} says nothing about a distribution; give some hundreds")
    own = None if codes is None else (codes[1], codes[1])
    means = means or kernel_means
    mean = means(x, reference, q, t, threads, progress, codes)
    constant = float(q @ means(reference, reference, q, t, threads, codes=own))
    if clusters is not None:
        within = _within(reference, q, t, clusters, codes)
    return Target(mean, constant, (constant - within) / (1 - square), 1 / square, within / square)


def effective_size(m: int, masses: np.ndarray | None, clusters: np.ndarray | None) -> float:
    """As many independent samples say as much: 1 / sum of squared masses, of clusters where there are such.

    Args:
        m, masses, clusters: as of `reference_target`.
    """
    q = np.full(m, 1 / m) if masses is None else masses
    of = q if clusters is None else np.bincount(clusters, weights=q)
    return 1 / float(of @ of)


def _within(
    reference: np.ndarray, q: np.ndarray, t: Bandwidth, clusters: np.ndarray, codes: Codes | None
) -> float:
    """Sum of q_i q_j K_ij over pairs of one cluster, each sample with itself included."""
    order = np.argsort(clusters, kind="stable")
    total = 0.0
    for rows in np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1):
        own = None if codes is None else (codes[1][rows], codes[1][rows])
        total += float(q[rows] @ kernel_means(reference[rows], reference[rows], q[rows], t, 1, codes=own))
    return total


def require_same_sphere(x: np.ndarray, reference: np.ndarray) -> None:
    """Refuse data (n, d) and a reference (m, d) that are not both float32 unit rows of the same d.

    Raises:
        KdbiasError: they are not.
    """
    require_unit_rows(x)
    require_unit_rows(reference)
    if x.shape[1] != reference.shape[1]:
        raise KdbiasError(
            f"the data have {x.shape[1]} dimensions, the reference {reference.shape[1]}: both must be "
            "embedded by the same teacher"
        )


def masses_target(field: np.ndarray, q: np.ndarray) -> Target:
    """The data themselves under masses q (n,) from the field K q (n,): an even share of groups, say."""
    square, constant = float(q @ q), float(q @ field)
    distinct = (constant - square) / (1 - square) if square < 1 else constant
    return Target(field, constant, distinct, 1 / square)


def kernel_means(
    x: np.ndarray,
    y: np.ndarray,
    q: np.ndarray,
    t: Bandwidth,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    codes: Codes | None = None,
    total: int | None = None,
) -> np.ndarray:
    """(n,) or (n, s) float64 sum_j q_j K(x_i, y_j), block by block.

    Args:
        x: (n, d) float32 unit rows.
        y: (m, d) float32 unit rows.
        q: (m,) float64, or (m, s): several at once.
        codes: (n,) and (m,) values of a column that is compared together with the vectors.
        total: samples of the whole, where these m are some of them.
    """
    result, total = np.zeros((len(x), *q.shape[1:])), total or len(y)
    scaled = (q * total).astype(np.float32)  # of order one
    kernels = Kernels(t if isinstance(t, tuple) else (t,))
    shares = kernels.factors / (total * len(kernels.factors))

    def block(rows: slice, workspace: Workspace) -> None:
        sums = np.zeros((rows.stop - rows.start, *q.shape[1:]))
        for start in range(0, len(y), _ROWS):
            some = slice(start, start + _ROWS)
            cosines = workspace.array("tile", (rows.stop - rows.start, len(y[some])))
            np.minimum(np.matmul(x[rows], y[some].T, out=cosines), 1, out=cosines)
            for i, tile in kernels.each(
                cosines, workspace
            ):  # sums instead of the mean kernel: less memory moved
                like = tile if codes is None else tile * likeness(codes[0][rows], codes[1][some])
                sums += (like @ scaled[some]) * shares[i]
        result[rows] = sums
        if progress is not None:
            progress(rows.stop - rows.start)

    over_rows(len(x), block, threads, _ROWS)
    return result


def balanced_masses(codes: np.ndarray, shares: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
    """(n,) masses under which each value of a column has its share, divided evenly among its samples.

    Args:
        codes: (n,) int, the value of each sample, 0 ... C - 1; -1 has none and gets no mass.
        shares: (C,) >= 0, normalised here; default alike.

    Raises:
        KdbiasError: fewer than two values, or shares that are none.
    """
    sizes = np.bincount(codes[codes >= 0])
    if np.count_nonzero(sizes) < 2:
        raise KdbiasError("a column with one value cannot be balanced; it needs two or more")
    wanted = np.ones(len(sizes)) if shares is None else np.asarray(shares, dtype=np.float64)
    if wanted.shape != sizes.shape or not np.isfinite(wanted).all() or (wanted < 0).any() or not wanted.any():
        raise KdbiasError(f"{len(sizes)} shares >= 0 are needed, not all of them 0, got {wanted.tolist()}")
    if (wanted[sizes == 0] > 0).any():
        raise KdbiasError("a value without samples cannot have a share")
    each = np.divide(wanted / wanted.sum(), sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    return np.where(codes >= 0, each[codes], 0.0)


def checked_masses(masses: np.ndarray, n: int) -> np.ndarray:
    """(n,) float64 masses as probabilities, refused where they are none."""
    q = np.asarray(masses, dtype=np.float64)
    if q.shape != (n,) or not np.isfinite(q).all() or (q < 0).any() or not q.any():
        raise KdbiasError(
            f"{n:,} weights >= 0, not all of them 0, are needed for the {n:,} reference samples"
        )
    return q / q.sum()
