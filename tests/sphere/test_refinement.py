import time
from typing import Any

import numpy as np
import pytest

from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel
from kdbias.sphere.equilibrium.near_kernel import NearKernel
from kdbias.sphere.equilibrium.refinement import refine
from kdbias.sphere.equilibrium.simplex import FeasibleSet
from kdbias.sphere.equilibrium.solution import Effort, Equilibrium, Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.soundings import Soundings


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """A crowd, a smaller one, and a scatter."""
    rng = np.random.default_rng(seed)
    crowd = np.eye(d)[0] + 0.25 * rng.normal(size=(n // 2, d))
    other = np.eye(d)[1] + 0.25 * rng.normal(size=(n // 4, d))
    x = np.concatenate([crowd, other, rng.normal(size=(n - n // 2 - n // 4, d))])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def recomputed(x: np.ndarray, t: float, memory: int, tile: int = 64) -> TiledKernel:
    return TiledKernel(x, t, kept=None, tile=tile, memory=memory)


class Matrix:
    """A stand-in kernel that is any symmetric matrix."""

    definite = False
    description = "test"

    def __init__(self, values: np.ndarray) -> None:
        self.n, self.values = len(values), values

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        return self.values @ p


def refined(kernel: TiledKernel, feasible: FeasibleSet) -> Equilibrium:
    groups = Groups.of(None, kernel.n)
    return refine(kernel, feasible, groups, Effort(max_iterations=3000))


def test_stand_in_with_all_pairs_near_is_the_kernel():
    x = rows(90, 6)
    exact = recomputed(x, 3.0, 1 << 30)
    p = np.random.default_rng(0).dirichlet(np.ones(90), size=2).T
    assert NearKernel(exact, exact.memory).apply(p) == pytest.approx(TiledKernel(x, 3.0).apply(p), rel=1e-5)


@pytest.mark.parametrize("d", [6, 200])
def test_stand_in_is_linear_symmetric_and_near_the_kernel(d):
    x = rows(300, d)
    near = NearKernel(recomputed(x, 2.0, 300 * 24 * 40), 300 * 24 * 40)
    whole = near.apply(np.eye(300))
    assert whole == pytest.approx(whole.T, abs=1e-5)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 300))
    assert near.apply(2 * a - b) == pytest.approx(2 * near.apply(a) - near.apply(b), abs=1e-4)
    p = rng.dirichlet(np.ones(300))
    exact = TiledKernel(x, 2.0).apply(p)
    assert np.sqrt(np.mean((near.apply(p) - exact) ** 2)) < 0.06 * exact.mean()
    assert np.diag(whole) == pytest.approx(np.ones(300), abs=1e-4)
    share = (np.abs(whole - TiledKernel(x, 2.0).apply(np.eye(300))) < 1e-4).mean()
    assert share > 40 / 300  # the near pairs are exact


def test_stand_in_keeps_no_more_pairs_than_fit_where_values_are_tied():
    x = np.sign(np.random.default_rng(0).normal(size=(400, 16))).astype(np.float32) / 4
    memory = 400 * 24 * 10
    near = NearKernel(recomputed(x, 2.0, memory), memory)
    assert 0 < int(near.description.split()[0]) <= 10  # near pairs a sample
    assert solve(recomputed(x, 2.0, memory), tolerance=1e-4, min_ess=0.7).certified


OPTIONS: dict[str, Any] = {
    "none": {},
    "floor": {"min_ess": 0.7},
    "cap": {"cap": 1.8},
    "both": {"min_ess": 0.7, "cap": 1.6},
}


@pytest.mark.parametrize("t", [1.5, 4.0])
@pytest.mark.parametrize("kind", OPTIONS)
def test_refinement_proves_the_same_optimum_with_few_exact_products(kind, t):
    x = rows(400, 8)
    whole = solve(TiledKernel(x, t), tolerance=1e-4, **OPTIONS[kind])
    kernel = recomputed(x, t, 400 * 24 * 60)
    result = solve(kernel, tolerance=1e-4, **OPTIONS[kind])
    assert result.certified
    assert result.products <= 12
    assert result.products < whole.products / 2
    assert abs(result.energy - whole.energy) <= max(result.gap, whole.gap) + 1e-9
    n, p = 400, result.p
    assert p.sum() == pytest.approx(1)
    assert p.min() >= 0
    assert p.max() <= OPTIONS[kind].get("cap", n) / n * (1 + 1e-9)
    assert 1 / (p @ p) >= OPTIONS[kind].get("min_ess", 0) * n * (1 - 1e-9)
    assert result.potentials == pytest.approx(TiledKernel(x, t).apply(p, exact=True), rel=1e-6)
    assert (result.lam > 0) == (whole.lam > 0)


@pytest.mark.parametrize(("d", "t"), [(4, 3.0), (4, 0.6), (8, 0.7)])
def test_a_poor_stand_in_costs_products_but_no_truth(d, t):
    x = rows(120, d)
    kernel = recomputed(x, t, 1)  # one near pair a sample
    best = solve(TiledKernel(x, t), tolerance=1e-5)
    result = solve(kernel)
    assert result.certified
    assert result.energy - best.energy <= result.gap + 1e-9
    assert result.gap <= 1e-3 * (result.start_energy - result.energy)


def test_duplicates_warm_starts_and_limits_work_alike():
    x = rows(150, 5)
    first = np.r_[np.arange(150), np.zeros(20, dtype=int)]
    plain = solve(TiledKernel(x, 2.0), min_ess=0.6)
    kernel = recomputed(x, 2.0, 150 * 24 * 60)
    copied = solve(kernel, min_ess=0.6, duplicates=first)
    assert copied.distinct == 150
    assert copied.energy == pytest.approx(plain.energy, rel=2e-3)
    assert np.ptp(copied.p[[0, *range(150, 170)]]) == 0
    natural = np.bincount(first) / 170
    assert copied.start_energy == pytest.approx(natural @ TiledKernel(x, 2.0).apply(natural), rel=1e-6)
    warm = solve(kernel, min_ess=0.6, duplicates=first, start=copied.p)
    assert warm.iterations == 0
    cut = solve(kernel, max_seconds=0.0)
    assert not cut.certified
    assert cut.reason == "stopped after 0 s and 0 exact products"
    assert cut.energy <= cut.start_energy
    short = solve(recomputed(x, 0.3, 1), max_iterations=4, tolerance=1e-6)
    assert "stopped after 4 iterations" in short.reason
    seen = []
    solve(kernel, min_ess=0.6, progress=lambda *state: seen.append(state))
    assert seen[0][0] == 0
    assert seen[-1][2] <= seen[0][2]


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_stand_in_that_leads_uphill_keeps_the_answer_feasible(kind):
    x = rows(20, 3)
    feasible = FeasibleSet.of(20, **OPTIONS[kind])
    for seed in range(4):
        values = np.random.default_rng(seed).normal(size=(20, 20))
        kernel = recomputed(x, 3.0, 1)
        kernel.stand_in = Matrix(values + values.T)
        result = refined(kernel, feasible)
        assert feasible.contains(result.p)
        assert result.energy <= result.start_energy


def test_steps_that_are_too_long_are_damped():
    kernel = recomputed(rows(60, 4), 3.0, 1)
    kernel.stand_in = Matrix(np.zeros((60, 60)))  # every step goes all the way to a corner
    result = refined(kernel, FeasibleSet.of(60))
    assert result.gap < 0.5 * (result.start_energy - result.energy)


@pytest.mark.parametrize("kind", OPTIONS)
def test_soundings_that_mislead_cost_products_but_no_truth(kind, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(Soundings, "field", lambda self, v: 0.05 * rng.normal(size=len(v)))
    x = rows(400, 8)
    best = solve(TiledKernel(x, 2.0), tolerance=1e-5, **OPTIONS[kind])
    kernel = recomputed(x, 2.0, 400 * 24 * 60)
    result = solve(kernel, **OPTIONS[kind])
    assert result.certified
    assert result.energy - best.energy <= result.gap + 1e-9
    assert result.potentials == pytest.approx(TiledKernel(x, 2.0).apply(result.p, exact=True), rel=1e-6)


def test_after_the_first_no_round_begins_that_cannot_be_judged_in_time():
    kernel = recomputed(rows(120, 5), 3.0, 120 * 24 * 10)
    limits = {"tolerance": 1e-9, "max_seconds": 1e5}
    whole = solve(kernel, **limits)
    assert whole.products > 1
    kernel.apply = slowed(kernel)
    result = solve(kernel, **limits)
    assert (result.products, result.certified) == (1, False)
    assert result.iterations > 0
    assert "too few for another exact product" in result.reason
    assert result.energy < result.start_energy


def test_the_first_round_is_made_where_finding_near_pairs_took_all_the_time(monkeypatch):
    kernel = recomputed(rows(120, 5), 3.0, 120 * 24 * 10)
    scan = kernel.scan

    def slow(visit: Any) -> None:
        scan(visit)
        time.sleep(0.05)
        kernel.seconds = 40.0

    monkeypatch.setattr(kernel, "scan", slow)
    result = solve(kernel, tolerance=1e-9, max_seconds=0.02)
    assert result.products == 1
    assert result.energy < result.start_energy
    assert "1 exact product" in result.reason


def slowed(kernel: TiledKernel) -> Any:
    """Its products, which claim to take longer than is left."""
    apply = kernel.apply

    def claimed(p: np.ndarray, exact: bool = False) -> np.ndarray:
        found = apply(p, exact)
        kernel.seconds = 1e6
        return found

    return claimed
