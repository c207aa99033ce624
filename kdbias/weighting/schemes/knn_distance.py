"""Weights from the distance to the nearest neighbours."""

import numpy as np

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement.files import NEIGHBORS, read_neighbors
from kdbias.sphere.neighbors import Neighbors
from kdbias.sphere.tiles import traverse
from kdbias.sphere.vectors import distances
from kdbias.tables.joins import align
from kdbias.weighting.case import Case, Scheme

LIMIT = 10.0
DEFAULT_K = 64


def knn_distance(case: Case, *, exponent: float = 1.0) -> Scheme:
    """w = (distance / median distance)^exponent, kept within [1/10, 10] of the median.

    The distance is the mean over the k nearest neighbours: those that ``uniformity --keep-neighbors`` kept
    (fewer where an approximate search missed some; a sample without any counts as the median), else found
    anew from the embeddings. The limits matter: the exact inverse density is the power of the
    intrinsic dimension, and unlimited it spends the epoch on a few outliers.
    """
    if not (np.isfinite(exponent) and exponent >= 0):
        raise KdbiasError(f"exponent {exponent:g} must be a number >= 0")
    cosines, source = neighbour_cosines(case)
    found = cosines >= -1
    total, count = distances(cosines).sum(axis=1, where=found), found.sum(axis=1)
    distance = np.divide(total, count, out=np.full(case.m, np.nan), where=count > 0)
    values, limited = relative_power(distance, exponent, str(case.where), "neighbours")
    return Scheme(values, {"k": cosines.shape[1], "neighbors": source, "limited": limited})


def neighbour_cosines(case: Case) -> tuple[np.ndarray, str]:
    """Cosines (m, k) of each distinct sample to its k nearest others, -2 if missing, and their source."""
    if case.m < 2:
        raise KdbiasError(
            f"{case.where} has one distinct sample, which has no neighbours; use method natural"
        )
    k = min((case.density.provenance.get("config") or {}).get("k") or DEFAULT_K, case.m - 1)
    folder = case.where.parent
    if (folder / NEIGHBORS).exists() and case.m == case.n:
        ids, _, cosines = read_neighbors(folder)
        rows = align(case.density.ids, ids, str(case.where), str(folder / NEIGHBORS))
        return cosines[rows], "kept"
    found = Neighbors(case.m, k)
    x = case.vectors
    with progress.bar(case.m**2 / 1e6, "Mpairs", "neighbours") as bar:
        traverse(x, [found], threads=case.threads, progress=lambda pairs: bar.update(pairs / 1e6))
    return found.cosines, "found anew"


def relative_power(values: np.ndarray, exponent: float, where: str, what: str) -> tuple[np.ndarray, int]:
    """(values / median)^exponent within [1/LIMIT, LIMIT], and how many met a limit; NaN counts as the median.

    Raises:
        KdbiasError: no finite value.
    """
    known = np.isfinite(values)
    if not known.any():
        raise KdbiasError(f"{where} has no {what} (n = {len(values):,}); choose another method")
    positive = values[known & (values > 0)]
    middle = float(np.median(values[known])) or (float(np.median(positive)) if len(positive) else 1.0)
    ratio = np.where(known, values, middle) / middle
    powered = np.zeros_like(ratio)
    np.power(ratio, exponent, out=powered, where=ratio > 0)
    if exponent == 0:
        powered[:] = 1
    return np.clip(powered, 1 / LIMIT, LIMIT), int(((powered < 1 / LIMIT) | (powered > LIMIT)).sum())
