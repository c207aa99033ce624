"""Weights from the sizes of the classes alone."""

from collections.abc import Callable

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.weighting.case import Case, Scheme


def class_balanced(case: Case) -> Scheme:
    """Every class the same mass: w = 1 / (size of the class). Unlabelled samples keep the mean weight."""
    return _per_class(case, "class-balanced", lambda sizes: 1 / sizes)


def effective_number(case: Case, *, beta: float = 0.99) -> Scheme:
    """w = (1 - beta) / (1 - beta^n) for a class of n samples (Cui et al., CVPR 2019).

    beta 0 leaves natural sampling, beta -> 1 balances the classes; in between, about 1 / (1 - beta) samples
    of a class count as new ones.
    """
    if not 0 <= beta < 1:
        raise KdbiasError(f"beta {beta:g} is not a share; choose 0 <= beta < 1, for example 0.99")

    def weight(sizes: np.ndarray) -> np.ndarray:
        return (1 - beta) / -np.expm1(sizes * np.log(beta)) if beta else np.ones(len(sizes))

    return _per_class(case, "effective-number", weight, beta=beta)


def _per_class(case: Case, method: str, weight: Callable[[np.ndarray], np.ndarray], **facts: float) -> Scheme:
    codes, sizes = case.labels(method)
    of_class = weight(sizes.astype(np.float64))
    labelled = codes >= 0
    values = np.ones(case.m)
    values[labelled] = of_class[codes[labelled]]
    values[labelled] *= labelled.sum() / values[labelled].sum()
    unlabelled = int((~labelled).sum())
    return Scheme(values, {"classes": len(sizes), "unlabelled": unlabelled, **facts})
