"""Bandwidth rules, hardness and distances."""

import itertools
import math

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.measurement.density import (
    GRID,
    choose_bandwidths,
    hardness,
    label_bandwidth,
    nearest_on_grid,
    pair_distances,
    spread_bandwidth,
)
from kdbias.measurement.settings import parse_bandwidths
from tests import reference


def test_grid_is_closed_under_doubling() -> None:
    assert all(2 * t in GRID for t in GRID if t <= GRID[-1] / 2)
    assert max(b / a for a, b in itertools.pairwise(GRID)) < 1.3


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("auto", "auto"),
        (" AUTO ", "auto"),
        ("2,5,10", (2, 5, 10)),
        ("5,2,5", (5, 2)),
        (3, (3,)),
        (np.int64(3), (3,)),
        ([1.5, 4], (1.5, 4)),
    ],
)
def test_parsing(text: object, values: object) -> None:
    assert parse_bandwidths(text) == values


@pytest.mark.parametrize(
    "text", ["", "five", "2,-1", "0", "nan", "inf", [], [None], {}, object(), True, [2, True]]
)
def test_bad_bandwidths_are_refused(text: object) -> None:
    with pytest.raises(KdbiasError, match="--t"):
        parse_bandwidths(text)


def test_spread_is_that_of_the_log_potentials() -> None:
    x = reference.clustered_sphere(300, 16, 10)
    t0, spread = spread_bandwidth(x)
    expected = [np.log(reference.potentials(x, t)).std() for t in GRID]
    np.testing.assert_allclose(spread, expected, rtol=1e-4)
    assert t0 == GRID[int(np.argmax(expected))]


def test_spread_on_a_sample_comes_close_to_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import kdbias.measurement.density

    x = reference.clustered_sphere(3000, 16, 10)
    _, exact = spread_bandwidth(x)
    monkeypatch.setattr(kdbias.measurement.density, "_COLUMNS", 1500)
    t0, sampled = spread_bandwidth(x, seed=1)
    assert abs(math.log2(t0 / GRID[int(np.argmax(exact))])) < 0.5
    np.testing.assert_allclose(sampled[:8], exact[:8], rtol=0.15)
    assert spread_bandwidth(x, seed=1)[1] == sampled  # same seed, same sample


def test_data_that_prefer_no_bandwidth_get_the_default() -> None:
    assert spread_bandwidth(np.eye(2, dtype=np.float32))[0] == 2.0
    assert spread_bandwidth(np.eye(30, dtype=np.float32))[0] == 2.0


def test_label_bandwidth_by_its_definition() -> None:
    x = reference.clustered_sphere(90, 8, 4, seed=2)
    codes = np.random.default_rng(0).integers(0, 5, 90)
    x = reference.unit_rows(x + 2 * reference.random_sphere(5, 8)[codes]).astype(np.float32)
    same = (codes[:, None] == codes) & ~np.eye(90, dtype=bool)
    s = reference.cosines(x)[same].mean()
    f = (np.bincount(codes) ** 2).sum() / 90**2
    assert label_bandwidth(x, codes) == pytest.approx(math.log(1 / f) / (2 * s), rel=1e-5)


def test_label_bandwidth_ignores_unlabelled_samples() -> None:
    x = reference.unit_rows(reference.random_sphere(40, 4) + 1.0).astype(np.float32)
    codes = np.arange(40) % 3
    expected = label_bandwidth(x[:30], codes[:30])
    codes[30:] = -1
    assert expected is not None
    assert label_bandwidth(x, codes) == pytest.approx(expected, rel=1e-6)


def test_label_bandwidth_may_not_exist() -> None:
    x = reference.random_sphere(6, 4)
    assert label_bandwidth(x, np.full(6, -1)) is None
    assert label_bandwidth(x, np.zeros(6, dtype=int)) is None  # one label
    assert label_bandwidth(x, np.arange(6)) is None  # no label twice
    assert label_bandwidth(np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]]), np.array([0, 0, 1, 1])) is None


def test_automatic_sweep() -> None:
    x = reference.clustered_sphere(200, 16, 10)
    codes = np.arange(200) % 7
    chosen = choose_bandwidths(x, codes, "auto")
    t0 = chosen.rule["t0"]
    assert chosen.chosen == t0
    assert {2.0, t0 / 2, t0, 2 * t0} <= set(chosen.values)
    assert chosen.values == sorted(set(chosen.values))
    assert len(chosen.values) <= 5


def test_given_bandwidths_keep_their_first_as_the_chosen_one() -> None:
    chosen = choose_bandwidths(reference.random_sphere(10, 4), None, "10,2")
    assert chosen.values == [2, 10]
    assert chosen.chosen == 10


def test_rounding_to_the_grid() -> None:
    assert nearest_on_grid(4.6) == 5.0
    assert nearest_on_grid(1e-3) == GRID[0]
    assert nearest_on_grid(1e6) == GRID[-1]


def test_hardness_leaves_the_sample_itself_out() -> None:
    x = reference.random_sphere(12, 5)
    codes = np.array([0, 0, 0, 1, 1, 2, -1, -1, 3, 3, 3, 3])
    result = hardness(x, codes)
    for i in range(12):
        others = [j for j in range(12) if j != i and codes[j] == codes[i]]
        if codes[i] < 0 or not others:
            assert np.isnan(result[i])
        else:
            centre = x[others].astype(float).sum(axis=0)
            assert result[i] == pytest.approx(1 - x[i] @ centre / np.linalg.norm(centre), abs=1e-6)


def test_distances_resolve_what_cosines_cannot() -> None:
    x = np.float32([[1, 0], [1, 1e-5], [0, 1]])
    distances = pair_distances(x, np.array([1, 0, 0]))
    assert distances[0] == pytest.approx(1e-5, rel=1e-4)
    assert distances[2] == pytest.approx(math.sqrt(2))
