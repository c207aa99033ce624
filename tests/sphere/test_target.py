"""Discrepancy from a target: against the obvious float64 sums, closed forms and an independent solver."""

import numpy as np
import pytest
from scipy.optimize import minimize

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.entropy import solve_entropy
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, Matching, TiledKernel, kernel_matrix
from kdbias.sphere.equilibrium.matching import match
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import balanced_masses, masses_target, reference_target, sphere_target
from kdbias.sphere.equilibrium.two_sample import two_sample_test
from tests import reference

LADDERS = {"one": 3.0, "ladder": LADDER, "no doublings": (0.7, 3.0, 5.0), "fine": (40.0, 2.0)}


def kernel_of(x: np.ndarray, y: np.ndarray, t) -> np.ndarray:
    """(n, m) float64 mean kernel."""
    cosines = np.clip(reference.unit_rows(x) @ reference.unit_rows(y).T, -1, 1)
    return np.mean([np.exp(-2 * one * (1 - cosines)) for one in np.atleast_1d(t)], axis=0)


def shifted(n: int = 90, m: int = 40, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Data with one crowd, and a reference without it."""
    x = reference.clustered_sphere(n, d, 4, 0.6, seed)
    return x, reference.random_sphere(m, d, seed + 1)


def masses(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(n))


@pytest.mark.parametrize("t", LADDERS.values(), ids=LADDERS)
@pytest.mark.parametrize("kept", [np.float32, np.float16, None])
def test_a_ladder_is_the_mean_of_its_kernels(t, kept):
    x, _ = shifted()
    p = masses(len(x))
    found = TiledKernel(x, t, kept=kept, tile=32).apply(p, exact=True)
    assert found == pytest.approx(kernel_of(x, x, t) @ p, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("t", LADDERS.values(), ids=LADDERS)
def test_a_reference_gives_the_discrepancy_of_the_textbook(t, weighted):
    x, y = shifted()
    q = masses(len(y), 3) if weighted else np.full(len(y), 1 / len(y))
    p = masses(len(x), 4)
    target = reference_target(x, y, t, q if weighted else None, threads=2)
    kxx, kxy, kyy = kernel_of(x, x, t), kernel_of(x, y, t), kernel_of(y, y, t)
    field = kxx @ p
    assert target.mean == pytest.approx(kxy @ q, rel=1e-5)
    assert target.discrepancy(p, field) == pytest.approx(
        p @ kxx @ p - 2 * p @ kxy @ q + q @ kyy @ q, abs=1e-6
    )
    off_x, off_y = np.outer(p, p), np.outer(q, q)
    np.fill_diagonal(off_x, 0)
    np.fill_diagonal(off_y, 0)
    unbiased = (off_x * kxx).sum() / off_x.sum() - 2 * p @ kxy @ q + (off_y * kyy).sum() / off_y.sum()
    assert target.unbiased_discrepancy(p, field) == pytest.approx(unbiased, abs=1e-6)
    assert target.size == pytest.approx(reference.ess(q))
    assert target.noise == pytest.approx((1 - (off_y * kyy).sum() / off_y.sum()) * (q @ q), rel=1e-5)
    assert target.witness(field) == pytest.approx(field - kxy @ q, abs=1e-6)


def test_data_are_at_no_distance_from_themselves():
    x, _ = shifted()
    natural = reference.natural(len(x))
    target = reference_target(x, x, LADDER)
    assert target.discrepancy(natural, kernel_of(x, x, LADDER) @ natural) == pytest.approx(0, abs=1e-7)
    found = match(kernel_matrix(x, LADDER), target, min_ess=0.5)
    assert found.bound == "natural"
    assert found.p == pytest.approx(natural)


def test_the_noise_is_what_a_reference_of_the_same_law_is_off_by():
    x = reference.clustered_sphere(2000, 5, 6, 0.6, 0)
    natural = reference.natural(len(x))
    field = kernel_matrix(x, LADDER).apply(natural)
    rng = np.random.default_rng(0)
    found = [reference_target(x, x[rng.choice(len(x), 50)], LADDER) for _ in range(60)]
    mean = np.mean([target.discrepancy(natural, field) for target in found])
    assert mean == pytest.approx(np.mean([target.noise for target in found]), rel=0.15)


def test_towards_the_sphere_the_least_discrepancy_is_the_equilibrium():
    x, _ = shifted()
    kernel, target = kernel_matrix(x, 2.0), sphere_target(len(x), 6, 2.0)
    assert target.constant == pytest.approx(np.exp(reference.log_null(6, 2.0)), rel=1e-9)
    found = match(kernel, target, min_ess=0.5, tolerance=1e-6)
    equilibrium = solve(kernel, min_ess=0.5, tolerance=1e-6)
    assert found.bound == "floor"
    assert found.p == pytest.approx(equilibrium.p, abs=1e-5)
    assert found.discrepancy == pytest.approx(equilibrium.energy - target.constant, rel=1e-4)


def independent(kxx, k, constant, mu=0.0, min_ess=None, cap=None) -> tuple[float, np.ndarray]:
    """Least p'Kp - 2 p'k + c + mu sum p log p by a general-purpose solver."""
    n = len(kxx)

    def entropy(p):
        return float(np.sum(p * np.log(np.maximum(p, 1e-300))))

    rules = [{"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)}]
    if min_ess:
        rules.append({"type": "ineq", "fun": lambda p: 1 / (min_ess * n) - p @ p, "jac": lambda p: -2 * p})
    rng, starts = np.random.default_rng(0), [np.full(n, 1 / n)]
    starts += [0.9 / n + 0.1 * rng.dirichlet(np.full(n, 50.0)) for _ in range(3)]
    runs = [
        minimize(
            lambda p: p @ kxx @ p - 2 * p @ k + constant + mu * entropy(p),
            start,
            jac=lambda p: 2 * kxx @ p - 2 * k + mu * (1 + np.log(np.maximum(p, 1e-300))),
            bounds=[(0, cap / n if cap else 1)] * n,
            constraints=rules,
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 2000},
        )
        for start in starts
    ]
    found = min(runs, key=lambda run: run.fun)  # convex: a run that ends higher gave up on the way
    assert found.status in (0, 8), found.message
    return float(found.fun), found.x


@pytest.mark.parametrize("kept", [np.float32, None])
@pytest.mark.parametrize("limits", [{}, {"min_ess": 0.6}, {"cap": 1.7}, {"min_ess": 0.7, "cap": 1.6}])
def test_the_certificate_bounds_the_distance_to_an_independent_solver(limits, kept):
    x, y = shifted(50)
    target = reference_target(x, y, LADDER)
    best, _ = independent(kernel_of(x, x, LADDER), target.mean, target.constant, **limits)
    for iterations in (1, 10, 2000):
        kernel = Matching(TiledKernel(x, LADDER, kept=kept, tile=16), target.mean, target.constant)
        found = solve(kernel, max_iterations=iterations, tolerance=1e-5, **limits)
        assert found.energy - best <= found.gap + 2e-7
        assert found.energy >= best - 2e-7
    assert found.certified, found.reason
    assert found.energy == pytest.approx(best, abs=2e-5 * (found.start_energy - best) + 4e-7)


@pytest.mark.parametrize("cap", [None, 1.8])
@pytest.mark.parametrize("towards", [False, True])
def test_the_entropy_penalty_against_an_independent_solver(towards, cap):
    x, y = shifted(40)
    kernel = TiledKernel(x, LADDER, tile=16)
    target = reference_target(x, y, LADDER)
    problem = Matching(kernel, target.mean, target.constant) if towards else kernel
    found = solve_entropy(problem, min_ess=0.7, cap=cap, tolerance=1e-6)
    assert found.certified, found.reason
    assert found.ess == pytest.approx(0.7, rel=2e-3)
    assert found.p.min() > 0
    k, c = (target.mean, target.constant) if towards else (np.zeros(len(x)), 0.0)
    best, p = independent(kernel_of(x, x, LADDER), k, c, mu=found.lam, cap=cap)
    penalised = found.energy + found.lam * float(np.sum(found.p * np.log(found.p)))
    assert -1e-7 <= penalised - best <= found.gap + 2e-7
    assert found.p == pytest.approx(p, abs=2e-4)


def test_entropy_says_no_to_a_floor_of_nothing_and_to_another_kernel():
    kernel = TiledKernel(shifted()[0], 2.0)
    with pytest.raises(KdbiasError, match=r"floor on the ESS in \(0, 1\]"):
        solve_entropy(kernel, min_ess=0)
    with pytest.raises(KdbiasError, match="kernel has 90 rows, the data 89"):
        solve_entropy(kernel, min_ess=0.5, duplicates=Groups.of(np.r_[np.arange(89), 0], 90))


def test_entropy_from_a_start_above_the_cap_ends_below_it():
    kernel = TiledKernel(shifted(60)[0], LADDER)
    cold = solve_entropy(kernel, min_ess=0.8, cap=1.5, tolerance=1e-6)
    found = solve_entropy(kernel, min_ess=0.8, cap=1.5, tolerance=1e-6, start=np.eye(60)[7])
    assert found.p.max() <= 1.5 / 60 * (1 + 1e-9)
    assert found.p == pytest.approx(cold.p, abs=2e-4)
    assert found.certified


@pytest.mark.parametrize("wanted", [1.0, 0.9995])
def test_entropy_reaches_the_whole_of_the_data(wanted):
    found = solve_entropy(TiledKernel(shifted(60)[0], LADDER), min_ess=wanted)
    assert found.ess >= wanted * (1 - 1e-3)
    assert found.certified


def test_entropy_needs_no_penalty_where_the_optimum_is_above_the_floor():
    x = reference.random_sphere(40, 30)
    free, found = solve(TiledKernel(x, 2.0), tolerance=1e-7), solve_entropy(TiledKernel(x, 2.0), min_ess=0.1)
    assert found.ess > 0.5
    assert found.energy == pytest.approx(free.energy, rel=1e-4)


def test_entropy_drops_no_sample_where_a_cap_holds_the_ess():
    x, y = shifted(120)
    target = reference_target(x, y, LADDER)
    kernel = Matching(TiledKernel(x, LADDER), target.mean, target.constant)
    for cap in (2.0, 4.0, None):
        found = solve_entropy(kernel, min_ess=0.05, cap=cap)
        free = solve(kernel, min_ess=0.05, cap=cap, tolerance=1e-6)
        assert (free.p == 0).any()
        assert found.p.min() >= 1e-9 / 120
        assert found.certified
        assert "less of the penalty would change nothing" in found.reason
        assert found.energy == pytest.approx(free.energy, abs=3e-3 * (free.start_energy - free.energy))
        assert found.iterations <= 400


class Counting(TiledKernel):
    """Counts products, of which those of uniform masses cost nothing."""

    products = exact = 0

    def apply(self, p, exact=False):
        self.products += bool(np.ptp(p) > 0)
        self.exact += exact
        return super().apply(p, exact)


def test_entropy_takes_float64_for_its_proof_alone():
    kernel = Counting(shifted(90)[0], LADDER)
    found = solve_entropy(kernel, min_ess=0.7)
    assert found.certified
    assert 1 <= kernel.exact < found.products / 4
    field = kernel_of(shifted(90)[0], shifted(90)[0], LADDER) @ found.p
    assert found.potentials == pytest.approx(field, rel=1e-6)


def crowded(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Data that can be brought near a reference at the cost of much of their ESS."""
    x = np.concatenate([reference.clustered_sphere(n, 5, 5, 0.5, 0), reference.random_sphere(60, 5, 1)])
    return x, reference.random_sphere(40, 5, 2)


@pytest.mark.parametrize("kept", [np.float32, np.float16, None])
@pytest.mark.parametrize("cap", [None, 6.0])
def test_the_floor_at_the_noise_is_the_one_that_bisection_finds(kept, cap):
    x, y = crowded(200)
    target = reference_target(x, y, LADDER)
    kernel = TiledKernel(x, LADDER, kept=kept, tile=64)
    found = match(kernel, target, min_ess=0.05, cap=cap)
    shifted_kernel = Matching(TiledKernel(x, LADDER), target.mean, target.constant)
    low, high = 0.05, 1.0
    while high - low > 2e-3:
        middle = (low + high) / 2
        energy = solve(shifted_kernel, min_ess=middle, cap=cap, tolerance=1e-6).energy
        low, high = (middle, high) if energy <= target.noise else (low, middle)
    assert found.bound == "noise"
    assert found.solution.certified
    assert found.floor == pytest.approx(low, rel=0.01)
    assert found.discrepancy <= target.noise
    assert reference.ess(found.p) / len(x) >= found.floor * (1 - 1e-6)
    best = solve(shifted_kernel, min_ess=found.floor, cap=cap, tolerance=1e-6)
    assert found.discrepancy - best.energy <= found.solution.gap + 1e-7


def test_the_noise_is_found_in_one_search():
    x, y = crowded()
    target = reference_target(x, y, LADDER)
    kernel = Counting(x, LADDER)
    found = match(kernel, target, min_ess=0.05)
    assert found.bound == "noise"
    needed, kernel.products = kernel.products, 0
    match(kernel, target, min_ess=found.floor, stop=False)
    assert needed <= 1.5 * kernel.products


def test_the_entropy_penalty_goes_down_to_the_noise_too():
    x, y = crowded()
    kernel, target = kernel_matrix(x, LADDER), reference_target(x, y, LADDER)
    found = match(kernel, target, min_ess=0.05, solver=solve_entropy)
    assert found.bound == "noise"
    assert 0.98 * found.noise <= found.discrepancy <= found.noise
    assert found.floor == pytest.approx(reference.ess(found.p) / len(x))
    assert found.p.min() > 0
    assert found.floor < match(kernel, target, min_ess=0.05).floor  # which is the largest there is
    held = match(kernel, target, min_ess=found.floor + 0.1, solver=solve_entropy)
    assert held.bound == "floor"
    assert held.floor == pytest.approx(found.floor + 0.1, rel=2e-3)


def test_matching_goes_down_to_the_noise_and_no_further():
    x, y = crowded()
    kernel, target = kernel_matrix(x, LADDER), reference_target(x, y, LADDER)
    found = match(kernel, target, min_ess=0.05)
    assert found.bound == "noise"
    assert 0.9 * found.noise <= found.discrepancy <= found.noise < found.natural
    assert 0.05 < found.floor < 1
    above = solve(Matching(kernel, target.mean, target.constant), min_ess=found.floor + 0.02)
    assert above.energy > found.noise
    held = match(kernel, target, min_ess=min(found.floor + 0.1, 1.0))
    assert held.bound == "floor"
    assert held.discrepancy > found.noise
    everything = match(kernel, target, min_ess=0.05, stop=False)
    assert everything.discrepancy < found.discrepancy


def test_copies_share_one_sample_and_natural_sampling_keeps_them():
    x, y = shifted(60)
    copied = np.concatenate([x, x[:20]])
    groups = Groups.of(np.r_[np.arange(60), np.arange(20)], 80)
    target = reference_target(x, y, LADDER)
    plain = match(kernel_matrix(x, LADDER), target, min_ess=0.5, stop=False)
    found = match(kernel_matrix(x, LADDER), target, min_ess=0.5, stop=False, groups=groups)
    assert groups.collapse(found.p) == pytest.approx(plain.p, abs=1e-4)
    natural = reference.natural(80)
    assert found.natural == pytest.approx(
        reference_target(copied, y, LADDER).discrepancy(natural, kernel_of(copied, copied, LADDER) @ natural),
        rel=1e-4,
    )


def test_balanced_masses_give_each_value_its_share():
    codes = np.array([0, 0, 0, 1, -1, 2, 2])
    assert balanced_masses(codes) == pytest.approx([1 / 9] * 3 + [1 / 3, 0, 1 / 6, 1 / 6])
    assert balanced_masses(codes, [1, 3, 0]) == pytest.approx([1 / 12] * 3 + [3 / 4, 0, 0, 0])
    with pytest.raises(KdbiasError, match="one value"):
        balanced_masses(np.zeros(4, int))
    with pytest.raises(KdbiasError, match="3 shares >= 0"):
        balanced_masses(codes, [1, 2])


def test_without_a_floor_the_balanced_data_are_met_exactly():
    x, _ = shifted(60)
    q = balanced_masses(np.arange(60) % 7 // 3)
    kernel = kernel_matrix(x, 4.0)
    target = masses_target(kernel.apply(q, exact=True), q)
    found = match(kernel, target, min_ess=0.05, stop=False, tolerance=1e-9)
    assert found.discrepancy == pytest.approx(0, abs=1e-6)


def test_the_test_keeps_its_level_and_sees_a_difference():
    rng = np.random.default_rng(0)
    law = reference.clustered_sphere(900, 4, 5, 0.6, 0)
    values = []
    for seed in range(60):
        order = rng.permutation(900)
        values.append(
            two_sample_test(law[order[:80]], law[order[80:120]], LADDER, seed=seed, permutations=99).p_value
        )
    assert 0.2 < np.mean(np.array(values) <= 0.4) < 0.6  # uniform under the hypothesis
    assert np.min(values) >= 0.01
    x, y = shifted(120, 60)
    found = two_sample_test(x, y, LADDER)
    assert found.p_value == 0.001
    k, n, m = kernel_of(np.r_[x, y], np.r_[x, y], LADDER), 120, 60
    np.fill_diagonal(k, 0)
    expected = k[:n, :n].sum() / n / (n - 1) + k[n:, n:].sum() / m / (m - 1) - 2 * k[:n, n:].mean()
    assert found.statistic == pytest.approx(expected, rel=1e-4)
    assert found.effect == pytest.approx(expected / (1 - k.sum() / 180 / 179), rel=1e-4)


def persons(rng: np.random.Generator, count: int, each: int, d: int = 5) -> np.ndarray:
    """(count * each, d) float32: images near their person, persons anywhere; a person's images in a row."""
    centres = rng.normal(size=(count, 1, d))
    return reference.unit_rows((centres + 0.4 * rng.normal(size=(count, each, d))).reshape(-1, d)).astype(
        "f4"
    )


def test_clusters_make_a_reference_say_less():
    rng = np.random.default_rng(0)
    x, y = shifted(30, 3)[0], persons(rng, 20, 4, 6)
    clusters, q = np.arange(80) // 4, masses(80, 5)
    order = rng.permutation(80)
    target = reference_target(x, y[order], LADDER, q[order], clusters=clusters[order])
    k = kernel_of(y, y, LADDER)
    same = clusters[:, None] == clusters[None, :]
    between = (np.outer(q, q) * k)[~same].sum() / np.outer(q, q)[~same].sum()
    share = np.bincount(clusters, q) @ np.bincount(clusters, q)
    assert target.size == pytest.approx(1 / share)
    assert target.distinct_mean == pytest.approx(between, rel=1e-5)
    assert target.noise == pytest.approx((np.outer(q, q) * k)[same].sum() - share * between, rel=1e-4)
    alone = reference_target(x, y, LADDER, q, clusters=np.arange(80))
    assert alone.noise == pytest.approx(reference_target(x, y, LADDER, q).noise, rel=1e-6)
    with pytest.raises(KdbiasError, match="one cluster"):
        reference_target(x, y, LADDER, clusters=np.zeros(80, int))


def test_the_noise_of_clusters_is_what_other_draws_of_them_show():
    rng = np.random.default_rng(1)
    law = persons(rng, 3000, 1)
    found, noise = [], []
    for _ in range(40):
        y = persons(rng, 15, 6)
        target = reference_target(law, y, LADDER, clusters=np.arange(90) // 6)
        even = np.full(len(law), 1 / len(law))
        natural = kernel_of(law[::10], law[::10], LADDER)
        np.fill_diagonal(natural, 0)  # of the law itself, not of these samples of it
        found.append(natural.sum() / 300 / 299 - 2 * even @ target.mean + target.constant)
        noise.append(target.noise)
    assert np.mean(noise) == pytest.approx(np.mean(found), rel=0.15)


def test_the_test_of_clusters_keeps_its_level_where_that_of_single_samples_does_not():
    rng = np.random.default_rng(2)
    single, clustered = [], []
    clusters = np.arange(240) // 6, np.arange(120) // 4
    for seed in range(60):
        x, y = persons(rng, 40, 6), persons(rng, 30, 4)
        single.append(two_sample_test(x, y, LADDER, seed=seed, permutations=99).p_value)
        found = two_sample_test(x, y, LADDER, clusters=clusters, seed=seed, permutations=99)
        clustered.append(found.p_value)
    assert np.mean(np.array(single) <= 0.05) > 0.9
    assert np.mean(np.array(clustered) <= 0.05) < 0.15
    assert 0.25 < np.mean(np.array(clustered) <= 0.5) < 0.75
    assert (found.clusters, found.permutations) == (30, 99)
    assert found.null_mean == pytest.approx(0, abs=1e-9)
    elsewhere = persons(rng, 30, 4) * np.array([-1, 1, 1, 1, 1]) + np.array([1, 0, 0, 0, 0])
    far = reference.unit_rows(elsewhere).astype("f4")
    assert two_sample_test(x, far, LADDER, clusters=clusters).p_value == 0.001
    with pytest.raises(KdbiasError, match="clusters needs two or more"):
        two_sample_test(x, y, LADDER, clusters=(clusters[0], np.zeros(120, int)))


@pytest.mark.parametrize("weighted", ["alike", "unevenly"])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_test_of_a_weighted_reference_keeps_its_level_and_sees_a_difference(weighted, clustered):
    clusters = (np.arange(200), np.arange(60) // 2) if clustered else None
    values, seen = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        law = reference.random_sphere(260, 6, seed)
        masses = np.ones(60) if weighted == "alike" else np.exp(rng.normal(size=60))
        about = {"clusters": clusters, "masses": masses / masses.sum(), "seed": seed, "permutations": 99}
        values.append(two_sample_test(law[:200], law[200:], LADDER, **about).p_value)
        around = law[200:] + np.float32(0.6) * np.eye(6, dtype=np.float32)[0]
        around /= np.linalg.norm(around, axis=1, keepdims=True)
        seen.append(two_sample_test(law[:200], around, LADDER, **about).p_value)
    assert np.mean(np.array(values) <= 0.1) <= 0.25
    assert np.median(values) > 0.2
    assert np.mean(np.array(seen) <= 0.1) >= 0.8


def test_a_sample_of_no_weight_is_none_of_the_test():
    x, y = shifted()
    masses = np.r_[np.full(len(y) - 5, 1.0), np.zeros(5)]
    far = np.concatenate([y[:-5], -y[:5]])
    found = [two_sample_test(x, of, 1.0, masses=masses) for of in (y, far)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.eye(4, dtype=np.float32), np.eye(5, dtype=np.float32), "4 dimensions, the reference 5"),
        (np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:1], "reference of one sample"),
        (np.eye(4, dtype=np.float32), np.zeros((2, 4), np.float32), "not of length 1"),
        (np.full((3, 4), np.nan, np.float32), np.eye(4, dtype=np.float32), "not of length 1"),
        (np.eye(4), np.eye(4, dtype=np.float32), "float32 unit vectors are needed"),
    ],
)
def test_references_that_are_none(x, y, words):
    with pytest.raises(KdbiasError, match=words):
        reference_target(x, y, 1.0)
    with pytest.raises(KdbiasError, match="two samples or more" if len(y) == 1 else words):
        two_sample_test(x, y, 1.0)


@pytest.mark.parametrize("p", [np.full(90, 2 / 90), np.full(89, 1 / 89), np.full(90, np.nan)])
def test_probabilities_that_are_none(p):
    with pytest.raises(KdbiasError, match="probabilities"):
        two_sample_test(*shifted(), 1.0, p)


def test_reference_weights_that_are_none():
    x, y = shifted()
    for bad in (np.zeros(40), np.full(40, -1.0), np.full(39, 1.0), np.full(40, np.nan)):
        with pytest.raises(KdbiasError, match="weights >= 0"):
            reference_target(x, y, 1.0, bad)
