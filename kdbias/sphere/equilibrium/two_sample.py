"""Do two samples on the sphere differ at all? The kernel two-sample test.

Under the hypothesis that both come from one distribution their labels may be permuted; the p-value is exact
at any sample size (Gretton et al., JMLR 2012, section 5; Phipson & Smyth 2010 for the + 1). Samples that
depend on each other, as images of one person do, may not: then whole clusters get random signs (the wild
bootstrap: Chwialkowski, Sejdinovic & Gretton, NIPS 2014; with a sign a cluster: Cameron, Gelbach & Miller,
Review of Economics and Statistics 2008), which is right for many clusters. So do the samples of a reference
with masses, which are no draws of one law that could change places with the data.
"""

import math
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, kernel_tile, weaken_unlike
from kdbias.sphere.equilibrium.target import Codes, checked_masses, require_same_sphere
from kdbias.sphere.potentials import probabilities

MOST = 2000
"""Samples drawn of the data: beyond it the reference's size decides the power."""
_PERMUTATIONS = 999
_AT_ONCE = 128


@dataclass(frozen=True)
class TwoSampleTest:
    """What the test found.

    Attributes:
        statistic: unbiased MMD^2 between the drawn data and the reference; may be negative. With clusters or
            masses: MMD^2 less its mean under random signs.
        null_mean, null_deviation, null_95: of the same statistic under permutation, or random signs.
        p_value: share of permutations (the observed one counted) at or above the statistic.
        effect: statistic / (1 - mean K of the pooled samples): 0 = the same, about 1 = nothing in common.
        data, reference: samples compared.
        permutations: how many.
        clusters: of the reference; None where each sample is alone.
    """

    statistic: float
    null_mean: float
    null_deviation: float
    null_95: float
    p_value: float
    effect: float
    data: int
    reference: int
    permutations: int
    clusters: int | None = None


def two_sample_test(
    x: np.ndarray,
    reference: np.ndarray,
    t: Bandwidth,
    p: np.ndarray | None = None,
    *,
    codes: Codes | None = None,
    clusters: Codes | None = None,
    masses: np.ndarray | None = None,
    seed: int = 0,
    permutations: int = _PERMUTATIONS,
    most: int = MOST,
) -> TwoSampleTest:
    """Test whether data, as sampled by p, and a reference differ in distribution.

    Args:
        x: (n, d) float32 unit rows; at most ``most`` are drawn, by p and without replacement.
        reference: (m, d) float32 unit rows; at most ``most`` are used.
        t: bandwidth, or several whose kernels are averaged.
        p: (n,) sampling probabilities; default alike. Draws without replacement follow p only where the drawn
            number is small beside the ESS, so that no more than half of the ESS is drawn where p is uneven.
        codes: (n,) and (m,) values of a column that is compared together with the vectors.
        clusters: (n,) and (m,) which samples depend on each other; default each is alone.
        masses: (m,) >= 0, how much each reference sample counts; default alike.
        seed: of draws and permutations.

    Raises:
        KdbiasError: rows that are no unit vectors, dimensions that differ, p that are no probabilities, or
            fewer than two samples, or clusters, on a side.
    """
    require_same_sphere(x, reference)
    p = None if p is None else probabilities(len(x), p)[0]
    rng = np.random.default_rng(seed)
    count = min(len(x), most)
    if p is not None and np.ptp(p) > 0:
        count = min(count, int(0.5 / float(p @ p)))
    if min(count, len(reference)) < 2:
        raise KdbiasError("a two-sample test needs two samples or more on each side")
    drawn = np.sort(rng.choice(len(x), count, replace=False, p=p))
    counting = np.arange(len(reference)) if masses is None else np.flatnonzero(masses)
    others = np.sort(rng.choice(counting, min(len(counting), most), replace=False))
    pooled = np.ascontiguousarray(np.concatenate([x[drawn], reference[others]]), dtype=np.float32)
    kernel = kernel_tile(pooled, pooled, t)
    if codes is not None:
        both = np.concatenate([codes[0][drawn], codes[1][others]])
        weaken_unlike(kernel, both, both)
    m = len(others)
    if clusters is not None or masses is not None:
        of_data, of_reference = (
            (drawn, others) if clusters is None else (clusters[0][drawn], clusters[1][others])
        )
        even = np.full(count, 1 / count)
        q = np.full(m, 1 / m) if masses is None else checked_masses(masses[others], m)
        signs = [_signs(rng, of, own, permutations) for of, own in ((of_data, even), (of_reference, q))]
        statistic, null = _wild(kernel, even, q, *signs)
        known = None if clusters is None else len(np.unique(of_reference))
        return _found(kernel, statistic, null, count, m, known)
    np.fill_diagonal(kernel, 0)
    observed = np.r_[np.full(count, 1 / count), np.full(m, -1 / m)][None, :]
    orders = np.stack([np.arange(count + m), *(rng.permutation(count + m) for _ in range(permutations))])
    values = np.concatenate(
        [
            _statistics(kernel, observed[0][orders[i : i + _AT_ONCE]], count, m)
            for i in range(0, len(orders), _AT_ONCE)
        ]
    )
    return _found(kernel, float(values[0]), values[1:], count, m, None)


def _found(
    kernel: np.ndarray, statistic: float, null: np.ndarray, n: int, m: int, clusters: int | None
) -> TwoSampleTest:
    """What a statistic and its draws (b,) under the hypothesis say; K's diagonal is ignored."""
    share = (1 + np.count_nonzero(null >= statistic - 1e-12)) / (1 + len(null))
    pairs = float(kernel.sum(dtype=np.float64)) - float(np.trace(kernel, dtype=np.float64))
    spread = 1 - pairs / ((n + m) * (n + m - 1))
    return TwoSampleTest(
        statistic,
        float(null.mean()),
        float(null.std(ddof=1)),
        float(np.quantile(null, 0.95)),
        float(share),
        statistic / spread if spread > 0 else 0.0,
        n,
        m,
        len(null),
        clusters,
    )


def _signs(rng: np.random.Generator, clusters: np.ndarray, masses: np.ndarray, draws: int) -> np.ndarray:
    """(draws, n) float32 masses (n,) under random signs, one a cluster, less their mean's own share.

    Raises:
        KdbiasError: a single cluster.
    """
    _, codes = np.unique(clusters, return_inverse=True)
    square = float(np.square(np.bincount(codes, weights=masses)).sum())  # 1 / clusters where they are alike
    if square > 1 - 1e-9:
        raise KdbiasError("a two-sample test of clusters needs two or more that count, on each side")
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), size=(draws, int(codes.max()) + 1))[:, codes]
    own = masses.astype(np.float32)
    return own * (signs - (signs @ own)[:, None]) / np.float32(math.sqrt(1 - square))


def _wild(
    kernel: np.ndarray, p: np.ndarray, q: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[float, np.ndarray]:
    """MMD^2 of masses p (n,) and q (m,) less its mean under random signs, and its draws (b,) likewise.

    A draw is the squared norm of the signed sum of features, each less the mean of its own side: ``first``
    (b, n) and ``second`` (b, m) of `_signs`.
    """
    both = np.concatenate([p, -q])
    observed = float(both @ (kernel @ both))
    signed = np.concatenate([first, second], axis=1)
    draws = np.einsum("bi,bi->b", signed @ kernel, signed, dtype=np.float64)
    return float(observed - draws.mean()), draws - draws.mean()


def _statistics(kernel: np.ndarray, signs: np.ndarray, n: int, m: int) -> np.ndarray:
    """(b,) unbiased MMD^2 for rows of signed masses, 1/n and -1/m; K without its diagonal."""
    first = np.where(signs > 0, signs, 0).astype(np.float32)
    second = np.where(signs < 0, -signs, 0).astype(np.float32)
    of_first, of_second = first @ kernel, second @ kernel
    within = np.einsum("bi,bi->b", of_first, first, dtype=np.float64) * n / (n - 1)
    beyond = np.einsum("bi,bi->b", of_second, second, dtype=np.float64) * m / (m - 1)
    return within + beyond - 2 * np.einsum("bi,bi->b", of_first, second, dtype=np.float64)
