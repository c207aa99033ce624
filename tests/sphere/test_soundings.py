"""What a few rows tell of a stand-in's errors."""

import numpy as np
import pytest

from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import NearKernel
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.soundings import Soundings

N = 1500


@pytest.fixture(scope="module")
def kernel() -> TiledKernel:
    """Of a crowd and as large a scatter."""
    x = np.random.default_rng(3).normal(size=(N, 24))
    x[: N // 2, 0] += 4
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return TiledKernel(x.astype(np.float32), LADDER, kept=None, memory=24 * N * 4)


class Off:
    """A stand-in that is off by a tenth of the field, and by noise of so many of its standard deviations."""

    definite, description = False, "test"

    def __init__(self, exact: TiledKernel, noise: float) -> None:
        self.n, self._exact, self._noise = exact.n, exact, noise
        self._rng = np.random.default_rng(1)

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        field = 0.9 * self._exact.apply(p, exact=True)
        return field + self._noise * field.std() * self._rng.normal(size=self.n)


def masses() -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(N)) - 1 / N


def test_a_field_is_told_from_some_rows_up_to_a_constant(kernel) -> None:
    v, exact = masses(), kernel.apply(masses(), exact=True)
    found = Soundings(kernel, Off(kernel, 0), kernel.row_sums).field(v)
    assert found is not None
    assert found - found.mean() == pytest.approx(exact - exact.mean(), abs=1e-3 * exact.std())


def test_nothing_is_told_where_errors_follow_from_nothing(kernel) -> None:
    assert Soundings(kernel, Off(kernel, 0.5), kernel.row_sums).field(masses()) is None


def test_it_is_nearer_than_the_stand_in_for_a_sampling_of_crowds(kernel) -> None:
    stand_in = NearKernel(kernel, kernel.memory)
    v = 1 / kernel.row_sums
    v = v / v.sum() - 1 / N
    exact = kernel.apply(v, exact=True)
    found = Soundings(kernel, stand_in, kernel.row_sums).field(v)
    assert found is not None
    assert np.std(found - exact) < 0.3 * np.std(stand_in.apply(v) - exact)


def test_what_was_learned_is_bounded_and_the_proof_is_of_the_exact_kernel(kernel) -> None:
    soundings = Soundings(kernel, Off(kernel, 0), kernel.row_sums)
    for _ in range(5):
        soundings.learn(masses(), kernel.apply(masses(), exact=True))
    assert len(soundings._terms) == 9
    found = solve(kernel, min_ess=0.5)
    exact = kernel.apply(found.p, exact=True)
    assert found.certified
    assert found.potentials == pytest.approx(exact, rel=1e-9)
    assert found.energy == pytest.approx(float(found.p @ exact), rel=1e-12)
    assert found.products <= 2
