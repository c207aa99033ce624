"""Weights from the distance to the nearest neighbours."""

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.schemes.case import Case, Scheme

LIMIT = 10.0


def knn_distance(case: Case, *, exponent: float = 1.0) -> Scheme:
    """w = (distance / median distance)^exponent, kept within [1/10, 10] of the median.

    The distance is the mean over the k nearest neighbours where the density table has it, else that to the
    k-th. The limits matter: the exact inverse density is the power of the intrinsic dimension, and unlimited
    it spends the epoch on a few outliers.
    """
    if not (np.isfinite(exponent) and exponent >= 0):
        raise KdbiasError(f"exponent {exponent:g} must be a number >= 0")
    column = "mean_knn_distance" if "mean_knn_distance" in case.density.table.column_names else "knn_distance"
    distance = case.column(column)
    values, limited = relative_power(distance, exponent, str(case.where), column)
    return Scheme(values, {"column": column, "exponent": exponent, "limited": limited})


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
