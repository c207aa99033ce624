"""Far sums: exact moments, unbiased over landmarks, with the error they state."""

import tracemalloc

import numpy as np
import pytest

from kdbias.sphere.cells.far import FIT, GAUSS, Far, Landmarks, Moments, far_sums
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.workers import Workspace
from tests import reference

T = [1.0, 2.0, 6.0, 40.0]


def weights(n: int) -> np.ndarray:
    return np.stack([reference.natural(n), reference.probabilities(np.random.default_rng(4).random(n) ** 2)])


def test_moments_of_shards_add_up() -> None:
    x = reference.clustered_sphere(500, 12, 7)
    p = weights(500)
    whole = Moments.of(x, p, threads=2)
    shards = Moments.of(x[:180], p[:, :180]) + Moments.of(x[180:], p[:, 180:])
    for name in ("mass", "first", "second"):
        np.testing.assert_allclose(getattr(shards, name), getattr(whole, name), rtol=1e-5, atol=1e-8)


def test_moments_of_many_rows_take_the_memory_of_a_few() -> None:
    x = reference.random_sphere(100_000, 48)
    p = reference.natural(len(x))[None]
    peaks = []
    for n in (20_000, 100_000):
        tracemalloc.start()
        Moments.of(x[:n], p[:, :n], threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.01 * peaks[0]


def test_moments_along_rows_are_sums_over_all_samples() -> None:
    x = reference.clustered_sphere(300, 12, 7)
    p = weights(300)
    first, second = Moments.of(x, p).along(x[:20])
    cosines = x[:20].astype(np.float64) @ x.T.astype(np.float64)
    for i in range(2):
        np.testing.assert_allclose(first[i], cosines @ p[i], atol=1e-6)
        np.testing.assert_allclose(second[i], cosines**2 @ p[i], atol=1e-6)


def estimate(x: np.ndarray, p: np.ndarray, is_far: np.ndarray, rows: np.ndarray, chosen: np.ndarray) -> Far:
    cosines = np.clip(x[rows].astype(np.float64) @ x.T.astype(np.float64), -1, 1)
    parts = [np.stack([(is_far * cosines**power) @ q for q in p]) for power in range(3)]
    marks = Landmarks(
        chosen, x[chosen], (p[:, chosen] * len(x)).astype(np.float32), np.zeros(len(chosen)), len(x)
    )
    return far_sums(
        cosines[:, chosen].astype(np.float32),
        is_far[:, chosen],
        *parts,
        p[:, rows],
        marks,
        Kernels(T),
        Workspace(),
    )


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, weightings, rows, which samples are far from which row, and the exact far sums (m, T, r)."""
    x = reference.clustered_sphere(900, 24, 15)
    p = weights(900)
    rows = np.arange(0, 900, 30)
    gram = reference.cosines(x)[rows]
    is_far = gram < 0.4
    exact = np.stack([[(np.exp(-2 * t * (1 - gram)) * is_far) @ q for t in T] for q in p])
    return x, p, rows, is_far, exact


def test_all_samples_as_landmarks_give_the_exact_sum(case) -> None:
    x, p, rows, is_far, exact = case
    far = estimate(x, p, is_far, rows, np.random.default_rng(0).permutation(900))
    np.testing.assert_allclose(far.models[FIT], exact, rtol=2e-4)
    np.testing.assert_allclose(far.energy, np.einsum("mtr,mr->mt", exact, p[:, rows]), rtol=1e-4)
    np.testing.assert_allclose(far.errors, 0, atol=1e-12)


def test_unbiased_and_honest_about_its_error(case) -> None:
    """Over many draws of landmarks the mean is the exact sum, and its spread what the errors say."""
    x, p, rows, is_far, exact = case
    rng = np.random.default_rng(7)
    draws = [estimate(x, p, is_far, rows, rng.choice(900, 150, replace=False)) for _ in range(150)]
    expected = np.einsum("mtr,mr->mt", exact, p[:, rows])
    energies = np.stack([d.energy for d in draws])
    stated = np.sqrt(np.stack([(d.by_landmark**2).sum(axis=2) for d in draws]) / 150 / 147)
    z = (energies.mean(axis=0) - expected) / (energies.std(axis=0) / np.sqrt(len(draws)))
    assert np.abs(z).max() < 4
    ratio = energies.std(axis=0) / np.sqrt((stated**2).mean(axis=0))
    assert ((ratio > 0.8) & (ratio < 1.25))[:, :3].all()  # at t=40 single pairs carry the far sum
    covered = np.abs(energies - expected) <= 1.96 * stated
    assert covered[:, :, :3].mean() > 0.9


def test_both_models_are_close_where_their_assumptions_hold(case) -> None:
    x, p, rows, is_far, exact = case
    far = estimate(x, p, is_far, rows, np.random.default_rng(1).choice(900, 300, replace=False))
    for model in (FIT, GAUSS):
        error = np.abs(far.models[model] / exact - 1)[:, :2]  # t = 1 and 2
        assert error.mean() < 0.02
    plain = exact.mean(axis=(2, 0))  # a constant for everyone: what the moments add
    assert np.abs(far.models[FIT] / exact - 1)[:, 1].mean() < np.abs(plain[1] / exact - 1)[:, 1].mean() / 5


def test_gauss_is_exact_for_gaussian_cosines() -> None:
    x = reference.random_sphere(4000, 400)
    p = reference.natural(4000)[None]
    rows = np.arange(20)
    is_far = reference.cosines(x)[rows] < 0.9
    far = estimate(x, p, is_far, rows, np.arange(500, 800))
    exact = np.stack([(reference.kernel(x, t)[rows] * is_far).mean(axis=1) for t in T[:3]])
    np.testing.assert_allclose(far.models[GAUSS, 0, :3], exact, rtol=5e-3)


def test_no_far_samples_is_zero() -> None:
    x = reference.random_sphere(50, 6)
    far = estimate(x, reference.natural(50)[None], np.zeros((5, 50), dtype=bool), np.arange(5), np.arange(20))
    assert not far.models.any()
    assert not far.errors.any()
    assert not far.energy.any()
