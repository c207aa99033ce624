"""The closed form against quadrature, exact arithmetic and sampling."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere.null import log_null
from tests import reference


def exact_log_null(d: int, t: int) -> float:
    """The series in 60-digit arithmetic."""
    with localcontext() as context:
        context.prec = 60
        term = total = Decimal(1)
        for k in range(4 * t + 200):
            term *= Decimal(t) ** 2 / ((Decimal(d) / 2 + k) * (k + 1))
            total += term
        return float(total.ln() - 2 * t)


@pytest.mark.parametrize("d", [1, 2, 3, 64, 512, 2048, 4096])
@pytest.mark.parametrize("t", [1, 2, 10, 100])
def test_against_exact_arithmetic(d: int, t: int) -> None:
    assert log_null(d, t) == pytest.approx(exact_log_null(d, t), abs=1e-11)


@pytest.mark.parametrize(
    ("d", "t", "value"), [(512, 2, -3.984), (512, 20, -38.442), (128, 2, -3.9375), (2, 2, -1.575)]
)
def test_known_values(d: int, t: float, value: float) -> None:
    assert log_null(d, t) == pytest.approx(value, abs=6e-4)


def test_ceiling_of_distinct_samples_at_512_dimensions() -> None:
    assert math.exp(-log_null(512, 2)) == pytest.approx(53.7, abs=0.1)


@pytest.mark.parametrize("d", [3, 16, 512])
@pytest.mark.parametrize("t", [0.5, 7.3])
def test_against_quadrature(d: int, t: float) -> None:
    assert log_null(d, t) == pytest.approx(reference.log_null(d, t), abs=1e-9)


@pytest.mark.parametrize(("d", "t"), [(2, 2.0), (8, 5.0), (64, 2.0)])
def test_against_uniform_samples(d: int, t: float) -> None:
    n = 3000
    cosines = reference.random_sphere(n, d, seed=1)[:, 0]  # by symmetry one coordinate is the law of a cosine
    values = np.exp(-2 * t * (1 - cosines.astype(np.float64)))
    error = values.std() / math.sqrt(n) / values.mean()
    assert abs(math.log(values.mean()) - log_null(d, t)) < 4 * error


def test_zero_bandwidth_and_refusals() -> None:
    assert log_null(5, 0.0) == 0.0
    for d, t in [(0, 1.0), (3, -1.0), (3, math.nan)]:
        with pytest.raises(KdbiasError):
            log_null(d, t)
