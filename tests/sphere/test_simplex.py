import numpy as np
import pytest
from scipy.optimize import minimize

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.simplex import FeasibleSet

SETS = {
    "simplex": {},
    "floor": {"min_ess": 0.5},
    "tight floor": {"min_ess": 0.97},
    "cap": {"cap": 2.2},
    "whole cap": {"cap": 3.0},
    "both": {"min_ess": 0.6, "cap": 1.9},
    "one point": {"min_ess": 1.0},
    "one point by cap": {"cap": 1.0},
}


def scipy_projection(feasible: FeasibleSet, v: np.ndarray) -> np.ndarray:
    """The same projection by a general solver."""
    n = len(v)
    found = minimize(
        lambda p: ((p - v) ** 2).sum(),
        np.full(n, 1 / n),
        jac=lambda p: 2 * (p - v),
        bounds=[(0, feasible.cap)] * n,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)},
            {"type": "ineq", "fun": lambda p: feasible.square - p @ p, "jac": lambda p: -2 * p},
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("kind", SETS)
def test_projection_is_the_nearest_point(kind):
    rng = np.random.default_rng(0)
    for n, scale in ((6, 0.2), (12, 1.0), (12, 0.01), (30, 5.0)):
        feasible = FeasibleSet.of(n, **SETS[kind])
        v = scale * rng.normal(size=n)
        p = feasible.project(v)
        assert feasible.contains(p, 1e-10)
        # SLSQP holds constraints to about 1e-8 only, so it may come that much nearer.
        assert ((p - v) ** 2).sum() <= ((scipy_projection(feasible, v) - v) ** 2).sum() + 1e-6
        # Nearest point of a convex set: no feasible direction leads closer to v.
        others = [feasible.project(rng.normal(size=n)) for _ in range(50)]
        assert max((v - p) @ (q - p) for q in others) <= 1e-9 * max(1.0, scale)


@pytest.mark.parametrize("kind", SETS)
def test_a_point_of_the_set_projects_to_itself(kind):
    rng = np.random.default_rng(1)
    feasible = FeasibleSet.of(20, **SETS[kind])
    p = feasible.project(rng.normal(size=20))
    assert feasible.project(p) == pytest.approx(p, abs=1e-9)
    assert feasible.project(p + 3.7) == pytest.approx(p, abs=1e-9)  # a shift changes no distance in the plane


@pytest.mark.parametrize("kind", SETS)
def test_linear_minimum_is_below_every_point_and_reached(kind):
    rng = np.random.default_rng(2)
    feasible = FeasibleSet.of(25, **SETS[kind])
    for _ in range(5):
        g = rng.normal(size=25)
        lowest, multiplier = feasible.lowest(g)
        assert multiplier >= 0
        others = [feasible.project(rng.normal(size=25)) for _ in range(50)]
        assert lowest <= min(g @ p for p in others) + 1e-10
        # Far down the slope the projection is the minimiser.
        assert g @ feasible.project(-1e6 * g) == pytest.approx(lowest, abs=1e-6)


def test_multiplier_balances_the_cost_of_free_samples():
    rng = np.random.default_rng(3)
    feasible = FeasibleSet.of(40, min_ess=0.4, cap=4.0)
    g = rng.normal(size=40)
    _, multiplier = feasible.lowest(g)
    q = feasible.project(-1e6 * g)
    level = (g + multiplier * q)[(q > 1e-9) & (q < feasible.cap - 1e-9)]
    assert np.ptp(level) < 1e-4
    assert (g[q == 0] >= level.max() - 1e-4).all()


def test_ties_and_single_samples_are_served():
    assert FeasibleSet.of(8, min_ess=0.5).lowest(np.full(8, 3.0)) == (3.0, 0.0)
    tied = np.r_[np.zeros(6), np.ones(2)]  # the six cheapest together are inside the ball
    lowest, multiplier = FeasibleSet.of(8, min_ess=0.5).lowest(tied)
    assert -1e-8 < lowest <= 0
    assert multiplier < 1e-7
    assert FeasibleSet.of(1, min_ess=0.5, cap=2.0).project(np.array([7.0])) == [1.0]


@pytest.mark.parametrize("apart", [1e-10, 1e-11, 1e-12])
def test_near_ties_raise_no_bound(apart):
    feasible = FeasibleSet.of(8, min_ess=0.5)
    g = np.r_[apart * np.arange(6), 1, 1]
    cheap = feasible.project(np.r_[-0.1 * np.arange(6), -9, -9])  # most on the cheapest
    assert feasible.contains(cheap)
    assert feasible.lowest(g)[0] <= g @ cheap


def test_ranges_are_checked():
    for options in ({"min_ess": -0.1}, {"min_ess": 1.1}, {"cap": 0.9}, {"cap": float("nan")}):
        with pytest.raises(KdbiasError, match=r"min_ess|cap"):
            FeasibleSet.of(5, **options)


@pytest.mark.parametrize(("cap", "square"), [(1.0, 1.0), (0.25, 1.0), (1.0, 0.2), (0.22, 0.21)])
def test_masses_below_the_least_go_and_limits_hold_without_them(cap, square):
    few = FeasibleSet(5, cap, square).project(np.array([0.5, 0.3, 0.2, 0.1, 0.05]))
    noise = np.array([5e-11, 1e-16, 5e-324, -0.0, 0.0])
    feasible = FeasibleSet(10, cap, square)
    clean = feasible.without_noise(np.append(few * (1 - noise.sum()), noise), np.full(10, 1e-9 / 10))
    assert clean[5:].tolist() == [0.0] * 5
    assert not np.signbit(clean).any()
    assert clean[:5] == pytest.approx(few, rel=1e-9)
    assert clean.sum() == pytest.approx(1, abs=1e-15)
    assert clean.max() <= cap * (1 + 1e-15)
    assert clean @ clean <= square * (1 + 1e-15)


def test_without_noise_nothing_changes():
    p = np.array([0.5, 0.5 - 1e-7, 1e-7, 0.0])
    assert (FeasibleSet(4).without_noise(p, np.full(4, 1e-9 / 4)) == p).all()
