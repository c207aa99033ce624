"""The obvious float64 O(n^2) mathematics that everything fast is held to. Small n only; no kdbias imports."""

import math

import numpy as np


def unit_rows(x: np.ndarray) -> np.ndarray:
    """(n, d) float64 rows of length one."""
    wide = np.asarray(x, dtype=np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def random_sphere(n: int, d: int, seed: int = 0) -> np.ndarray:
    """(n, d) float32 points drawn uniformly on the unit sphere."""
    return unit_rows(np.random.default_rng(seed).standard_normal((n, d))).astype(np.float32)


def clustered_sphere(n: int, d: int, clusters: int, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """(n, d) float32 points around random centres; cluster sizes fall off like 1/rank (a long tail)."""
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, clusters + 1)
    member = rng.choice(clusters, size=n, p=shares / shares.sum())
    centres = unit_rows(rng.standard_normal((clusters, d)))
    return unit_rows(centres[member] + spread * unit_rows(rng.standard_normal((n, d)))).astype(np.float32)


def cosines(x: np.ndarray) -> np.ndarray:
    """(n, n) cosines of the rows, clamped to [-1, 1]; the diagonal is exactly 1."""
    rows = unit_rows(x)
    gram = np.clip(rows @ rows.T, -1.0, 1.0)
    np.fill_diagonal(gram, 1.0)
    return gram


def kernel(x: np.ndarray, t: float) -> np.ndarray:
    """(n, n) K_ij = exp(-t |x_i - x_j|^2) = exp(-2 t (1 - cos))."""
    return np.exp(-2.0 * t * (1.0 - cosines(x)))


def probabilities(weights: np.ndarray) -> np.ndarray:
    wide = np.asarray(weights, dtype=np.float64)
    return wide / wide.sum()


def natural(n: int) -> np.ndarray:
    return np.full(n, 1.0 / n)


def potentials(x: np.ndarray, t: float, p: np.ndarray | None = None) -> np.ndarray:
    """(n,) rho_i = sum_j p_j K_ij, self included."""
    return kernel(x, t) @ (natural(len(x)) if p is None else p)


def energy(x: np.ndarray, t: float, p: np.ndarray | None = None) -> float:
    """sum_ij p_i p_j K_ij, self-pairs included."""
    p = natural(len(x)) if p is None else p
    return float(p @ kernel(x, t) @ p)


def uniformity(x: np.ndarray, t: float, p: np.ndarray | None = None) -> float:
    """log of the mean of K over pairs of different samples, weighted by p_i p_j."""
    p = natural(len(x)) if p is None else p
    pairs = np.outer(p, p)
    np.fill_diagonal(pairs, 0.0)
    return math.log((pairs * kernel(x, t)).sum() / pairs.sum())


def effective_distinct(x: np.ndarray, t: float, p: np.ndarray | None = None) -> float:
    return 1.0 / energy(x, t, p)


def ess(p: np.ndarray) -> float:
    """Kish's effective sample size, between 1 and n."""
    return float(p.sum() ** 2 / (p @ p))


def neighbors(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) ids and cosines of the nearest others, descending; equal cosines by smaller id."""
    gram = cosines(x)
    n = len(gram)
    ids = np.empty((n, k), dtype=np.int64)
    for i in range(n):
        others = np.delete(np.arange(n), i)
        ids[i] = others[np.lexsort((others, -gram[i, others]))][:k]
    return ids, np.take_along_axis(gram, ids, axis=1)


def log_null(d: int, t: float) -> float:
    """log E exp(-t |x-y|^2) for independent uniform x, y on the sphere, by quadrature over the cosine."""
    nodes, weights = np.polynomial.legendre.leggauss(400)  # the angle's law is proportional to sin^(d-2)
    theta = (nodes + 1.0) * math.pi / 2.0
    log_measure = (d - 2) * np.log(np.sin(theta)) + np.log(weights)
    log_values = log_measure - 2.0 * t * (1.0 - np.cos(theta))
    return float(np.logaddexp.reduce(log_values) - np.logaddexp.reduce(log_measure))


def vendi_score(x: np.ndarray, p: np.ndarray | None = None) -> float:
    """exp of the entropy of the eigenvalues of the p-weighted linear kernel."""
    rows = unit_rows(x)
    p = natural(len(x)) if p is None else p
    values = np.linalg.eigvalsh(np.sqrt(np.outer(p, p)) * (rows @ rows.T))
    values = values[values > 1e-14]
    return float(np.exp(-(values * np.log(values)).sum()))
