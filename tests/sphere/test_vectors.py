"""The small sums over vectors, against the obvious ones."""

import numpy as np
import pandas as pd
import pytest

from kdbias.sphere.vectors import label_sums, rank_correlation, row_digests, second_moment
from tests import reference


def test_sums_over_more_rows_than_one_piece() -> None:
    x = reference.random_sphere(20_000, 3)
    codes = np.random.default_rng(1).integers(-1, 4, 20_000)
    expected = np.stack([x[codes == c].sum(axis=0, dtype=np.float64) for c in range(4)])
    np.testing.assert_allclose(label_sums(x, codes, 4), expected, rtol=1e-9)


def test_sums_of_some_rows_and_of_labels_that_nobody_has() -> None:
    x = reference.random_sphere(50, 3)
    rows, codes = np.array([40, 3, 7, 3, 9]), np.array([2, 0, 2, -1, 0])
    expected = [x[3].astype(float) + x[9], np.zeros(3), x[40].astype(float) + x[7], np.zeros(3)]
    np.testing.assert_allclose(label_sums(x, codes, 4, rows), expected, rtol=1e-12)
    assert not label_sums(x, np.full(50, -1), 2).any()


def test_second_moments() -> None:
    x = reference.random_sphere(9000, 4)
    p = np.random.default_rng(0).random(9000)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(second_moment(x), wide.T @ wide, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(second_moment(x, p), (wide * p[:, None]).T @ wide, rtol=1e-5, atol=1e-2)


def test_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 20, 200)
    b = a + rng.integers(0, 10, 200)
    ranks = [pd.Series(values).rank() for values in (a, b)]
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation([1, 1], [2, 3]) is None


def test_digests_tell_rows_apart_but_not_the_signs_of_zeros() -> None:
    x = np.float32([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]])
    digests = row_digests(x)
    assert (digests[0] == digests[1]).all()
    assert (digests[0] != digests[2]).any()
