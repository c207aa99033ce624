"""Which shares chance explains: against SciPy's exact test, and by drawing samples of one law."""

import numpy as np
import pytest
from scipy.stats import fisher_exact

from kdbias.targets.shares import comparable, share_rows


def found(known, n, wanted, size):
    return {row["value"]: row["balance"] for row in share_rows(known, n, wanted, size)}


@pytest.mark.parametrize("m", [20, 39, 300])
def test_the_test_is_fishers_at_a_level_for_all_values(m):
    for ours, theirs in ((30, 3), (100, 8), (700, 9), (40, 0), (15, 6), (600, m)):
        known, wanted = {"a": ours / 1000, "b": 1 - ours / 1000}, {"a": theirs / m, "b": 1 - theirs / m}
        p = fisher_exact([[ours, 1000 - ours], [theirs, m - theirs]]).pvalue
        balance = found(known, 1000, wanted, m)["a"]
        if p < 2e-4:
            assert balance == ("short" if ours / 1000 < theirs / m else "over-full")
        if p > 2e-3:
            assert balance is None


@pytest.mark.parametrize("values", [2, 12, 60])
def test_samples_of_one_law_are_hardly_ever_off(values):
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.full(values, 0.5))
    names, off = [f"v{i}" for i in range(values)], 0
    for _ in range(300):
        ours, theirs = (dict(zip(names, rng.multinomial(n, law) / n, strict=True)) for n in (2000, 39))
        off += any(found(ours, 2000, theirs, 39).values())
    assert off <= 3  # one column in a thousand


def test_a_rare_camera_seen_thrice_in_a_small_reference_is_an_accident():
    assert found({"left": 0.99, "right": 0.01}, 2000, {"left": 36 / 39, "right": 3 / 39}, 39)["right"] is None
    assert found({"left": 0.99, "right": 0.01}, 2000, {"left": 19 / 39, "right": 20 / 39}, 39) == {
        "left": "over-full",
        "right": "short",
    }


def test_what_is_known_exactly_is_held_to_it():
    rows = share_rows({"a": 0.5, "b": 0.3, None: 0.2}, 10, {"a": 0.5, "b": 0.5}, None)
    assert [(row["value"], row["balance"]) for row in rows] == [
        ("a", None),
        ("b", "short"),
        (None, "over-full"),
    ]


def test_names_are_no_groups():
    assert comparable({"a": 1.0}, {"a": 0.5, "b": 0.5})
    assert not comparable({"a": 0.5, None: 0.5}, {"b": 0.5, None: 0.5})
    assert not comparable({"a": 1.0}, None)
    many = {f"v{i}": 1 / 1001 for i in range(1001)}
    assert not comparable(many, many)
