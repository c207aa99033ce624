"""Weights from how far a sample lies from its own class."""

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.measurement.density import hardness
from kdbias.weighting.case import Case, Scheme
from kdbias.weighting.schemes.knn_distance import relative_power


def hard(case: Case, *, exponent: float = 1.0) -> Scheme:
    """w = (hardness / median hardness)^exponent, kept within [1/10, 10].

    Hardness is 1 - cosine to the mean of the other samples of the label.

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
