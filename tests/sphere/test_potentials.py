"""Kernel sums against float64 and closed forms."""

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sphere import kernels
from kdbias.sphere.potentials import Potentials
from kdbias.sphere.tiles import traverse
from tests import reference

BANDWIDTHS = [0.5, 2.0, 4.0, 5.0, 10.0, 20.0, 45.0, 100.0]


def measured(
    x: np.ndarray, bandwidths: list[float], weights=None, tile: int = 64, threads: int = 2
) -> Potentials:
    result = Potentials(len(x), bandwidths, weights)
    traverse(x, [result], tile=tile, threads=threads)
    return result


def test_against_reference_for_several_bandwidths_and_weightings() -> None:
    x = reference.clustered_sphere(300, 24, 12)
    x[10:20] = x[10]
    rng = np.random.default_rng(3)
    skewed = reference.probabilities(rng.random(300) ** 8)
    p = np.stack([reference.natural(300), skewed])
    result = measured(x, BANDWIDTHS, p)
    for m, weights in enumerate(p):
        for index, t in enumerate(BANDWIDTHS):
            expected = reference.potentials(x, t, weights)
            np.testing.assert_allclose(result.potentials[m, index], expected, rtol=4e-6 + 5e-7 * t)


def test_both_exponentials_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = reference.clustered_sphere(120, 16, 5)
    for choice in [(np.exp2, np.log(2)), (np.exp, 1.0)]:
        monkeypatch.setattr(kernels, "fastest_exponential", lambda choice=choice: choice)
        np.testing.assert_allclose(
            measured(x, [5.0]).potentials[0, 0], reference.potentials(x, 5.0), rtol=5e-6
        )


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        ({"exp2": {"ff": {"current": "AVX512_SKX"}}}, np.exp2),
        ({"exp2": {"ff": {"current": "baseline(SSE SSE2)"}}}, np.exp),
        ({}, np.exp),
    ],
)
def test_exponential_is_chosen_by_the_build_not_by_a_clock(monkeypatch, targets, chosen) -> None:
    monkeypatch.setattr("numpy.lib.introspect.opt_func_info", lambda **what: targets)
    assert kernels.fastest_exponential.__wrapped__()[0] is chosen


def test_tile_and_threads_are_irrelevant() -> None:
    x = reference.clustered_sphere(257, 16, 9)
    expected = measured(x, [2.0, 8.0], tile=257, threads=1).potentials
    for tile, threads in [(31, 1), (64, 4), (1024, 2)]:
        np.testing.assert_allclose(
            measured(x, [2.0, 8.0], None, tile, threads).potentials, expected, rtol=2e-6
        )


def test_orthonormal_basis_keeps_its_pairs_at_any_bandwidth() -> None:
    n = 16
    result = measured(np.eye(n, dtype=np.float32), [2.0, 40.0, 100.0])
    for index, t in enumerate((2.0, 40.0, 100.0)):
        # 1/n for itself plus (n-1)/n exp(-2t); the pair part must survive beside a 1/n that dwarfs it.
        np.testing.assert_allclose(result.without_self[0, index], (n - 1) / n * np.exp(-2 * t), rtol=1e-5)
        np.testing.assert_allclose(
            result.potentials[0, index], 1 / n + (n - 1) / n * np.exp(-2 * t), rtol=1e-6
        )


def test_antipodal_pair_and_single_sample() -> None:
    pair = np.float32([[1, 0], [-1, 0]])
    np.testing.assert_allclose(measured(pair, [5.0]).without_self[0, 0], np.exp(-20) / 2, rtol=1e-5)
    single = measured(pair[:1], [5.0])
    assert single.potentials[0, 0] == [1.0]
    assert single.without_self[0, 0] == [0.0]


def test_doubled_bandwidths_are_squared_not_exponentiated() -> None:
    chains = kernels.chains_of_doublings([5.0, 2.0, 10.0, 4.0, 20.0, 64.0])
    assert sum(not step.squares for chain in chains for step in chain) == 3  # 2-4, 5-10-20, and 64 on its own


def test_refuses_bad_bandwidths_and_weights() -> None:
    for bandwidths in ([], [0.0], [float("nan")]):
        with pytest.raises(KdbiasError):
            Potentials(3, bandwidths)
    for weights in ([0.5, 0.4, 0.0], [1.5, -0.5, 0.0], [1.0, 0.0]):
        with pytest.raises(KdbiasError):
            Potentials(3, [2.0], np.array(weights))
