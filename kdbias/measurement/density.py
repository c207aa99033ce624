"""Which bandwidths to measure at, and what else says how crowded a neighbourhood is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.measurement.settings import parse_bandwidths
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.room import filled, room
from kdbias.sphere.vectors import distances, label_sums
from kdbias.sphere.workers import Workspace
from kdbias.tables.joins import ColumnParts

# {1, 1.25, 1.6} x 2^k from 0.5 to 64, a third of an octave apart: rounding is off by 13 % at most. Doubling
# stays on the grid, and the kernel at 2t is the square of that at t: a sweep takes at most 3 exponentials.
GRID = tuple(float(f"{(1.0, 1.25, 1.6)[i % 3] * 2.0 ** (i // 3 - 1):g}") for i in range(22))

_QUERIES = 1024
_COLUMNS = 32_768
_ROWS = 1024  # that are widened to float64 at a time
_FALLBACK = 2.0  # Wang & Isola's default, where the data do not prefer any bandwidth


@dataclass(frozen=True)
class Bandwidths:
    """The bandwidths of a measurement.

    Attributes:
        values: all of them, ascending and distinct.
        chosen: the one of ``log_density``: t0 by the automatic rule, else the first that was asked for.
        rule: how they came about, JSON values only.
    """

    values: list[float]
    chosen: float
    rule: dict[str, object]


@dataclass
class Measured:
    """What was measured about the data themselves, whatever the sampling.

    Attributes:
        bandwidths: what was swept.
        natural: (T, n) float64 potentials under natural sampling.
        knn_distance: (n,) Euclidean distance to the k-th neighbour, NaN without neighbours.
        nearest: (n,) distance to the nearest different vector, NaN where unknown.
        first: (n,) position of the first sample with the same vector.
        near_duplicates: (n,) how many others at cosine >= 0.999.
        hardness: (n,) 1 - cosine to the label's leave-one-out centroid, NaN where there is none.
        log_density: (n,) by the estimator that was asked for; filled in at last.
        suspects: the columns `columns.SUSPECT`; none where it was measured before there were.
    """

    bandwidths: Bandwidths
    natural: np.ndarray
    knn_distance: np.ndarray
    nearest: np.ndarray
    first: np.ndarray
    near_duplicates: np.ndarray
    hardness: np.ndarray
    log_density: np.ndarray = field(default_factory=lambda: np.empty(0))
    suspects: Mapping[str, ColumnParts | pa.ChunkedArray] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Samples that repeat an earlier vector, and samples with a near duplicate."""
        repeats = int((self.first != np.arange(len(self.first))).sum())
        return {"exact_duplicates": repeats, "near_duplicates": int((self.near_duplicates > 0).sum())}


def choose_bandwidths(
    x: np.ndarray, codes: np.ndarray | None, t: str | float | Sequence[float] = "auto", seed: int = 0
) -> Bandwidths:
    """The bandwidths to measure at.

    ``auto`` sweeps {2, t0/2, t0, 2 t0, t*}: at t0 densities differ most (`spread_bandwidth`), at t* pairs of
    the same label weigh as much as all others (`label_bandwidth`; only with labels). Both are on `GRID`.

    Args:
        x: (n, d) float32 unit rows.
        codes: (n,) int label of each sample, -1 for none; None without labels.
        t: ``auto`` or the bandwidths themselves.
        seed: of the sample that t0 is found on.
    """
    asked = parse_bandwidths(t)
    if not isinstance(asked, str):
        return Bandwidths(sorted(asked), asked[0], {"rule": "given"})
    t0, spread = spread_bandwidth(x, seed)
    t_star = label_bandwidth(x, codes) if codes is not None else None
    values = {2.0, t0 / 2, t0, 2 * t0}
    if t_star is not None:
        values.add(nearest_on_grid(t_star))
    rule = {"rule": "auto", "t0": t0, "t_star": t_star, "grid": list(GRID), "log_density_spread": spread}
    return Bandwidths(sorted(float(f"{v:g}") for v in values), t0, rule)


def nearest_on_grid(t: float) -> float:
    """The bandwidth of `GRID` that is nearest by ratio (its ends for anything outside)."""
    return min(GRID, key=lambda g: abs(math.log(g / t)))


def spread_bandwidth(x: np.ndarray, seed: int = 0) -> tuple[float, list[float]]:
    """t0: the bandwidth of `GRID` at which the standard deviation of log rho_i over samples is largest.

    Found on at most 1,024 samples, whose potentials are averages over at most 32,768 others with the
    self-term 1/n added at its full-data size. Where no bandwidth tells samples apart (n < 3, or all alike)
    it is 2.

    Returns:
        t0, and the standard deviation at each bandwidth of the grid.
    """
    n = len(x)
    if n < 3:
        return _FALLBACK, [0.0] * len(GRID)
    rng = np.random.default_rng(seed)
    columns = np.sort(rng.choice(n, size=min(n, _COLUMNS), replace=False))
    queries = np.sort(rng.choice(len(columns), size=min(len(columns), _QUERIES), replace=False))
    among = x[columns]
    sums, kernels, workspace = np.zeros((len(GRID), len(queries))), Kernels(GRID), Workspace()
    ones = np.ones(len(columns), dtype=np.float32)
    step = 128
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        cosines = among[block] @ among.T
        np.clip(cosines, -1.0, 1.0, out=cosines)
        selves = np.arange(len(block)) * len(columns) + block
        for index, kernel in kernels.each(cosines, workspace, selves):
            sums[index, start : start + step] = kernel @ ones
    sums *= kernels.factors[:, None]
    potentials = 1 / n + (n - 1) / n * sums / (len(columns) - 1)
    spread = np.log(potentials).std(axis=1)
    best = int(spread.argmax())
    return (GRID[best] if spread[best] > 1e-6 else _FALLBACK), [float(f"{s:.6g}") for s in spread]


def label_bandwidth(x: np.ndarray, codes: np.ndarray) -> float | None:
    """t* = ln(1/f) / (2 s): there pairs of one label weigh about as much as all other pairs together.

    f is the sum of squared label shares, s the mean cosine of two different samples of one label. None where
    it does not exist: fewer than two labels, no label with two samples, or s <= 0.

    Args:
        x: (n, d) unit rows.
        codes: (n,) int label of each sample, -1 for none (left out).
    """
    labelled = np.flatnonzero(codes >= 0)
    if not len(labelled):
        return None
    sizes = np.bincount(codes[labelled]).astype(np.float64)
    f = float((sizes**2).sum() / sizes.sum() ** 2)
    pairs = float((sizes * (sizes - 1)).sum())
    if f >= 1 or pairs == 0:
        return None
    sums = label_sums(x, codes, len(sizes))
    s = (float(np.einsum("ij,ij->", sums, sums)) - len(labelled)) / pairs
    return math.log(1 / f) / (2 * s) if s > 0 else None


def hardness(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n,) float64: 1 - cosine to the mean of the *other* samples of its label; NaN where there are none."""
    result = filled(x, len(x), np.nan)
    if not (codes >= 0).any():
        return result
    count = int(codes.max()) + 1
    sums, sizes = label_sums(x, codes, count), np.bincount(codes[codes >= 0], minlength=count)
    step = 8192
    for start in range(0, len(x), step):
        rows = np.arange(start, min(len(x), start + step))
        rows = rows[(codes[rows] >= 0) & (sizes[codes[rows]] > 1)]
        own = x[rows].astype(np.float64)
        others = sums[codes[rows]] - own
        lengths = np.linalg.norm(others, axis=1)
        cosines = np.einsum("ij,ij->i", own, others) / np.where(lengths > 1e-12, lengths, np.inf)
        result[rows] = 1 - np.clip(cosines, -1, 1)
    return result


def pair_distances(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) float64 Euclidean distance of each row to the row ``others[i]``.

    Taken from the difference of the vectors: 1 - cos in float32 cannot tell distances below 5e-4 from zero.
    """
    result = room(x, len(x))
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        result[rows] = _apart(x[rows], x[others[rows]])
    return result


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(m,) float64 distances of rows (m, d)."""
    difference = one.astype(np.float64) - other
    return np.sqrt(np.einsum("ij,ij->i", difference, difference))


def log_density(
    estimator: str,
    *,
    potential: np.ndarray,
    t: float,
    knn_distance: np.ndarray,
    cosines: np.ndarray | None,
    exponent: float | None,
) -> np.ndarray:
    """(n,) log density by one of three estimators, each up to a constant of its own.

    ``potential``: log of the kernel sum over all samples. ``knn``: -exponent x log(distance to the k-th
    neighbour); the exponent of a density is the intrinsic dimension, a smaller one tempers it. ``vmf``: log
    of the mean von Mises-Fisher kernel exp(2t (cos - 1)) over the k neighbours, at most 0 (concentration 2t;
    ignores everything beyond the k-th neighbour).

    Args:
        potential: (n,) at the chosen bandwidth t.
        knn_distance: (n,) to the k-th neighbour.
        cosines: (n, k) of the neighbours, where they are at hand.
        exponent: of ``knn``.

    Raises:
        KdbiasError: an estimator that needs neighbours which are not there.
    """
    if estimator == "potential":
        return np.log(potential)
    if estimator == "vmf":
        if cosines is None:
            raise KdbiasError("--estimator vmf needs the neighbours; measure with --keep-neighbors")
        return np.log(np.exp(2 * t * (cosines.astype(np.float64) - 1)).mean(axis=1))
    if exponent is None or not np.isfinite(knn_distance).any():
        raise KdbiasError("--estimator knn needs neighbours; a single sample has none")
    smallest = knn_distance[knn_distance > 0].min(initial=1.0)  # copies of one sample are k-th neighbours
    return -exponent * np.log(np.maximum(knn_distance, 0.1 * smallest))


def intrinsic_dimension(cosines: np.ndarray) -> float | None:
    """Maximum-likelihood intrinsic dimension from neighbours' distances.

    Levina & Bickel (2004), with the inverses averaged over samples as MacKay & Ghahramani (2005) propose.
    Where the k-th neighbour is far it is still low: by some 10 % at 10 dimensions, and by more above.
    Neighbours within 1e-3 (near copies) are left out; None where too few are left.

    Args:
        cosines: (n, k) of the nearest others, descending; entries below -1 are missing.
    """
    step = max(1, len(cosines) // 20_000)
    lengths = distances(cosines[::step])
    valid = (lengths > 1e-3) & (cosines[::step] >= -1)
    last = lengths[:, -1]
    rows = valid[:, -1] & (valid.sum(axis=1) >= 4)
    if not rows.any():
        return None
    logs = np.where(valid[rows], np.log(last[rows, None] / np.where(valid[rows], lengths[rows], 1.0)), 0.0)
    terms = valid[rows].sum(axis=1) - 1  # the last one's own log is 0
    total = logs.sum()
    return float(terms.sum() / total) if total > 0 else None


def last_distance(x: np.ndarray, ids: np.ndarray | None) -> np.ndarray:
    """(n,) distance to the k-th neighbour; NaN where a sample has none (or none was found)."""
    if ids is None:
        return filled(x, len(x), np.nan)
    result = pair_distances(x, ids[:, -1])
    result[ids[:, -1] < 0] = np.nan
    return result


def nearest_different(x: np.ndarray, ids: np.ndarray | None, first: np.ndarray) -> np.ndarray:
    """(n,) distance to the nearest neighbour with another vector; NaN where all k have the same one."""
    result = filled(x, len(x), np.nan)
    if ids is None:
        return result
    for start in range(0, len(x), _ROWS):
        some = ids[start : start + _ROWS]
        different = (first[some] != first[start : start + _ROWS, None]) & (some >= 0)
        rows = np.flatnonzero(different.any(axis=1))
        result[start + rows] = _apart(x[start + rows], x[some[rows, different[rows].argmax(axis=1)]])
    return result
