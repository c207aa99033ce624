import numpy as np
import pytest
from scipy.optimize import minimize

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel
from kdbias.sphere.equilibrium.levelling import levelled
from kdbias.sphere.equilibrium.solution import least_possible
from kdbias.sphere.equilibrium.solve import solve
from tests import reference

CONSTRAINTS = {
    "none": {},
    "floor": {"min_ess": 0.6},
    "cap": {"cap": 1.7},
    "both": {"min_ess": 0.7, "cap": 1.6},
}


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def gram(x: np.ndarray, t: float) -> np.ndarray:
    y = x.astype(np.float64)
    return np.exp(-2 * t * (1 - np.clip(y @ y.T, -1, 1)))


def crowded(n: int = 40, d: int = 4, seed: int = 0) -> np.ndarray:
    """Most samples in one crowd, the others all over the sphere."""
    rng = np.random.default_rng(seed)
    crowd = np.eye(d)[0] + 0.3 * rng.normal(size=(3 * n // 4, d))
    return unit(np.concatenate([crowd, rng.normal(size=(n - len(crowd), d))]))


def independent_optimum(kernel: np.ndarray, min_ess: float | None = None, cap: float | None = None) -> float:
    """Least p'Kp by a general-purpose solver."""
    n = len(kernel)
    constraints = [{"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)}]
    if min_ess:
        constraints.append(
            {"type": "ineq", "fun": lambda p: 1 / (min_ess * n) - p @ p, "jac": lambda p: -2 * p}
        )
    found = minimize(
        lambda p: p @ kernel @ p,
        np.full(n, 1 / n),
        jac=lambda p: 2 * kernel @ p,
        bounds=[(0, cap / n if cap else 1)] * n,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    # 8: at the optimum the line search meets rounding; the comparison below tells whether it was there.
    assert found.status in (0, 8), found.message
    return float(found.fun)


@pytest.mark.parametrize("t", [0.5, 3.0])
@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_gap_bounds_the_error_against_an_independent_solver(kind, t):
    x = crowded()
    best = independent_optimum(gram(x, t), **CONSTRAINTS[kind])
    for iterations in (1, 5, 20, 2000):
        result = solve(x, t, max_iterations=iterations, tolerance=1e-5, **CONSTRAINTS[kind])
        assert result.energy - best <= result.gap + 2e-8
        assert result.energy >= best - 1e-7
    assert result.certified
    assert result.energy == pytest.approx(best, abs=2e-5 * (result.start_energy - best) + 2e-7)


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_result_meets_the_optimality_conditions(kind):
    x = crowded(80, 6)
    result = solve(x, 2.0, tolerance=1e-7, **CONSTRAINTS[kind])
    n, p = len(x), result.p
    cap = CONSTRAINTS[kind].get("cap", n) / n
    level = gram(x, 2.0) @ p + result.lam * p
    free = (p > 1e-4 / n) & (p < cap * (1 - 1e-4))
    middle = np.median(level[free])
    assert free.sum() >= 5
    assert level[free] == pytest.approx(middle, rel=2e-3)
    assert (level[p <= 1e-4 / n] >= middle * (1 - 2e-3)).all()
    assert (level[p >= cap * (1 - 1e-4)] <= middle * (1 + 2e-3)).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert result.potentials == pytest.approx(gram(x, 2.0) @ p, rel=1e-5)


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_cap_and_floor_are_respected(kind):
    x = crowded(60, 5, seed=3)
    for iterations in (1, 3, 500):
        result = solve(x, 1.0, max_iterations=iterations, **CONSTRAINTS[kind])
        n, p = len(x), result.p
        assert (p >= 0).all()
        assert p.max() <= CONSTRAINTS[kind].get("cap", n) / n * (1 + 1e-9)
        assert 1 / (p @ p) >= CONSTRAINTS[kind].get("min_ess", 0) * n * (1 - 1e-9)
        assert result.ess == pytest.approx(1 / (p @ p) / n)


def test_a_floor_that_binds_is_reached_and_priced():
    x = crowded(60, 5, seed=3)
    free = solve(x, 1.0)
    assert free.ess < 0.5
    assert free.lam == 0
    floor = solve(x, 1.0, min_ess=0.8, tolerance=1e-6)
    assert floor.ess == pytest.approx(0.8, rel=1e-9)
    # The same point minimises the penalised energy.
    kernel = gram(x, 1.0) + floor.lam * np.eye(60)
    best = independent_optimum(kernel)
    assert floor.p @ kernel @ floor.p == pytest.approx(best, rel=1e-5)


def test_orthogonal_samples_stay_uniform():
    result = solve(np.eye(12, dtype=np.float32), 1.0)
    assert result.p == pytest.approx(np.full(12, 1 / 12))
    assert result.energy == pytest.approx(1 / 12 + 11 / 12 * np.exp(-2))
    assert result.certified


def test_two_tight_clusters_get_half_the_mass_each():
    rng = np.random.default_rng(0)
    a, b = np.eye(6)[0], np.eye(6)[1]
    x = unit(np.concatenate([a + 1e-3 * rng.normal(size=(70, 6)), b + 1e-3 * rng.normal(size=(10, 6))]))
    result = solve(x, 2.0, min_ess=0.05)
    assert result.p[:70].sum() == pytest.approx(0.5, abs=1e-3)
    # A cluster of one point each: 1/2 and 1/2, so E = (1 + exp(-2t)) / 2.
    assert result.energy == pytest.approx((1 + np.exp(-4)) / 2, rel=1e-3)


def test_a_single_sample_and_a_point_mass():
    one = solve(np.eye(3, dtype=np.float32)[:1], 2.0, min_ess=0.5)
    assert (one.p, one.energy, one.gap) == ([1.0], 1.0, 0.0)
    same = solve(np.ones((4, 1), dtype=np.float32), 2.0, duplicates=np.zeros(4, dtype=int), min_ess=0.5)
    assert same.p == pytest.approx(np.full(4, 0.25))
    assert same.distinct == 1
    assert same.ess == 1


def test_duplicates_collapse_into_one_sample():
    x = crowded(30, 5)
    first = np.r_[np.arange(30), np.zeros(5, dtype=int), np.full(3, 7)]
    repeated = x[first]
    for options in CONSTRAINTS.values():
        plain = solve(x, 1.0, tolerance=1e-6, **options)
        copied = solve(repeated, 1.0, tolerance=1e-6, duplicates=first, **options)
        assert copied.distinct == 30
        assert copied.energy == pytest.approx(plain.energy, rel=1e-5)
        assert copied.ess == pytest.approx(plain.ess, rel=1e-2)
        assert np.ptp(copied.p[[0, *range(30, 35)]]) < 1e-15
        shares = np.bincount(first, weights=copied.p)
        assert shares == pytest.approx(plain.p, abs=5e-3 * plain.p.max())
        assert copied.start_energy == pytest.approx(gram(repeated, 1.0).mean(), rel=1e-5)


def test_order_rotation_and_threads_change_nothing():
    x = crowded(70, 6)
    base = solve(x, 1.5, min_ess=0.7, tolerance=1e-6)
    order = np.random.default_rng(1).permutation(70)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    for y, p in (
        (x[order], base.p[order]),
        (unit(x @ rotation), base.p),
    ):
        again = solve(y, 1.5, min_ess=0.7, tolerance=1e-6, threads=1)
        assert again.energy == pytest.approx(base.energy, rel=1e-6)
        assert again.p == pytest.approx(p, abs=2e-3 * p.max())


@pytest.mark.parametrize("kind", CONSTRAINTS)
@pytest.mark.parametrize("t", [0.2, 5.0, 50.0])
def test_never_worse_than_natural_sampling(kind, t):
    for seed in range(3):
        for iterations in (0, 1, 2, 7):
            result = solve(crowded(25, 3, seed), t, max_iterations=iterations, **CONSTRAINTS[kind])
            assert result.energy <= result.start_energy * (1 + 1e-6)


def test_a_case_cut_short_says_so_and_keeps_its_gap():
    x = crowded(200, 3)
    cut = solve(x, 0.3, max_iterations=3, tolerance=1e-6)
    assert not cut.certified
    assert cut.proven
    assert cut.reason == "stopped after 3 iterations"
    full = solve(x, 0.3, tolerance=1e-4)
    assert full.reason == "met the tolerance"
    assert cut.energy - full.energy <= cut.gap
    timed = solve(x, 0.3, max_seconds=0.0)
    assert timed.reason == "stopped after 0 s"


def test_kept_half_kept_and_recomputed_kernels_agree():
    x = crowded(150, 8)
    results = [
        solve(TiledKernel(x, 2.0, kept=kept, tile=64), min_ess=0.5) for kept in (np.float32, np.float16, None)
    ]
    for result in results:
        assert result.certified
        assert result.energy - results[0].energy <= result.gap + 1e-9


class Coarse:
    """A kernel matrix whose quick products are rough."""

    definite = True
    description = "test"

    def __init__(self, values: np.ndarray) -> None:
        self.n, self.values, self.rough = len(values), values, np.round(values * 16) / 16

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        return (self.values if exact else self.rough) @ p


def test_certificate_is_as_good_as_its_exact_products():
    kernel = gram(crowded(60), 3.0)
    best = solve(crowded(60), 3.0, tolerance=1e-7)
    result = solve(Coarse(kernel), tolerance=1e-5)
    assert result.certified
    assert result.energy == pytest.approx(result.p @ kernel @ result.p)
    assert result.energy - best.energy <= result.gap + 1e-8


def test_warm_start_saves_iterations():
    x = crowded(300, 4)
    cold = solve(x, 0.5, min_ess=0.5, tolerance=1e-4)
    warm = solve(x, 0.5, min_ess=0.5, tolerance=1e-4, start=cold.p)
    assert warm.iterations == 0 < cold.iterations
    assert warm.energy == pytest.approx(cold.energy, rel=1e-5)


def test_bad_input_is_refused():
    x = crowded(10)
    with pytest.raises(KdbiasError, match="bandwidth t > 0"):
        solve(x)
    with pytest.raises(KdbiasError, match="min_ess 2 is not a share"):
        solve(x, 1.0, min_ess=2)
    with pytest.raises(KdbiasError, match=r"cap 0\.5 leaves no distribution"):
        solve(x, 1.0, cap=0.5)
    with pytest.raises(KdbiasError, match="kernel has 10 rows, the data 9 distinct"):
        solve(TiledKernel(x, 1.0), duplicates=np.r_[np.arange(9), 0])


@pytest.mark.parametrize("t", [0.5, 3.0])
def test_no_distribution_is_below_the_bound_of_any(t):
    x = crowded(30)
    kernel = gram(x, t)
    best, largest = independent_optimum(kernel), kernel.sum(axis=1).max()
    good = solve(x, t, tolerance=1e-6).p
    rng, spoiled = np.random.default_rng(0), good.copy()
    spoiled[np.argmax(good)] *= 0.5  # one sample sees too little
    for p in (np.full(30, 1 / 30), good, spoiled / spoiled.sum(), *rng.dirichlet(np.ones(30), size=50)):
        field = kernel @ p
        bound = least_possible(field, p @ field, largest)
        assert bound <= best * (1 + 1e-6)
        assert bound >= 2 * field.min() - p @ field - 1e-12
    field = kernel @ (spoiled / spoiled.sum())
    energy = spoiled @ field / spoiled.sum()
    assert energy - least_possible(field, energy, largest) < 1.5 * (energy - field.min())


def test_levelled_inverse_density_is_nearly_the_best_after_few_products() -> None:
    x = reference.clustered_sphere(900, 16, 12)
    kernel, seen = TiledKernel(x, 4.0, threads=1), []
    p = levelled(kernel, reference.natural(len(x)), 9e-3, lambda *now: seen.append(now))
    assert p.min() > 0
    assert p.sum() == pytest.approx(1, abs=1e-12)
    best = solve(kernel, tolerance=1e-4).energy
    natural, energy = reference.energy(x, 4.0), reference.energy(x, 4.0, p)
    assert best * (1 - 1e-6) <= energy <= best + 9e-3 * (natural - energy)
    assert energy == pytest.approx(seen[-1][1], rel=1e-5)
    assert len(seen) < 25
