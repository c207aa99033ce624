"""Weights from how far a sample lies from its own class."""

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.schemes.case import Case, Scheme
from kdbias.schemes.knn_distance import relative_power


def hard(case: Case, *, exponent: float = 1.0) -> Scheme:
    """w = (hardness / median hardness)^exponent, kept within [1/10, 10]; hardness by `hardness`.

    A sample without a label, or alone in its class, counts as of median hardness.
    """
    if not (np.isfinite(exponent) and exponent >= 0):
        raise KdbiasError(f"exponent {exponent:g} must be a number >= 0")
    codes, _ = case.labels("hard")
    values = hardness(case.vectors, codes)
    if not np.isfinite(values).any():
        raise KdbiasError(
            f"method hard needs a class of two samples or more; each label in {case.where} is on one sample"
        )
    weights, limited = relative_power(values, exponent, str(case.where), "hardness")
    unknown = int(np.isnan(values).sum())
    return Scheme(weights, {"exponent": exponent, "limited": limited, "without_hardness": unknown})


def hardness(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """1 - cosine of each sample to the mean direction of the others of its label, in [0, 2].

    Args:
        x: (m, d) unit rows.
        codes: (m,) label codes, -1 for none.

    Returns:
        (m,) float64; NaN where a label has one sample, or none is given.
    """
    labelled = np.flatnonzero(codes >= 0)
    result = np.full(len(x), np.nan)
    order = labelled[np.argsort(codes[labelled], kind="stable")]
    if not len(order):
        return result
    sorted_codes = codes[order]
    starts = np.flatnonzero(np.r_[True, sorted_codes[1:] != sorted_codes[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        if stop - start < 2:
            continue
        rows = order[start:stop]
        members = x[rows].astype(np.float64)
        others = members.sum(axis=0) - members
        length = np.linalg.norm(others, axis=1)
        cosine = np.einsum("ij,ij->i", members, others) / np.where(length > 0, length, 1)
        result[rows] = np.where(length > 0, 1 - np.clip(cosine, -1, 1), np.nan)
    return result
