"""Exact and near duplicates."""

import tracemalloc

import numpy as np

from kdbias.sphere import duplicates
from kdbias.sphere.duplicates import RadiusCounts, first_with_same_vector
from kdbias.sphere.tiles import traverse
from tests import reference


def test_first_of_each_group_of_equal_rows() -> None:
    x = reference.random_sphere(6, 4)[[0, 1, 0, 2, 1, 0]]
    np.testing.assert_array_equal(first_with_same_vector(x), [0, 1, 0, 3, 1, 0])


def test_sign_of_zero_is_ignored() -> None:
    np.testing.assert_array_equal(
        first_with_same_vector(np.float32([[0.0, 1], [-0.0, 1], [0.0, -1]])), [0, 0, 2]
    )


def test_copies_are_found_a_bucket_at_a_time(monkeypatch):
    x = np.random.default_rng(0).integers(0, 2, (500, 7)).astype(np.float32)
    expected = first_with_same_vector(x)
    assert len(np.unique(expected)) == len(np.unique(x, axis=0))
    monkeypatch.setattr(duplicates, "BUCKET_ROWS", 60)
    np.testing.assert_array_equal(first_with_same_vector(x), expected)


def test_many_rows_are_compared_without_a_copy_of_them() -> None:
    x = reference.random_sphere(20_000, 256)
    x[[9000, 19_999]] = x[[3, 9001]]  # further apart than a block
    tracemalloc.start()
    first = first_with_same_vector(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes * 0.6
    expected = np.arange(len(x))
    expected[[9000, 19_999]] = [3, 9001]
    np.testing.assert_array_equal(first, expected)


def test_radius_counts_against_reference() -> None:
    x = reference.clustered_sphere(300, 8, 6, spread=0.4)
    x[7:12] = x[7]
    for cosine in (0.999, 0.7, 0.0):
        counts = RadiusCounts(300, cosine)
        traverse(x, [counts], tile=50, threads=2)
        gram = reference.cosines(x)
        assert abs(gram - cosine).min() > 1e-6 or cosine == 0.0  # no pair so close that rounding decides
        np.testing.assert_array_equal(counts.counts, (gram >= cosine).sum(axis=1) - 1)
