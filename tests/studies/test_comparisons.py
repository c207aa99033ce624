"""The arithmetic of a study, against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from kdbias.studies.comparisons import CaseRows, budgets_of, correlate, regrets_of
from kdbias.studies.results import Row
from kdbias.studies.runs import flat_metrics
from kdbias.studies.settings import Judge
from kdbias.studies.statistics import paired_difference, rank_correlation, regrets


def test_paired_intervals_are_scipys():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, 10), rng.normal(0, 1, 10)
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)), lower_is_better=False)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx((ours - theirs).mean())
    assert found.seeds == 10


def test_pairs_are_those_of_the_same_seed():
    found = paired_difference({1: 5.0, 2: 6.0, 3: 99.0}, {2: 4.0, 1: 4.0, 7: -99.0}, lower_is_better=False)
    assert (found.value, found.seeds) == (1.5, 2)
    assert paired_difference({1: 1.0}, {2: 1.0}, lower_is_better=False) is None
    single = paired_difference({1: 3.0}, {1: 1.0}, lower_is_better=False)
    assert (single.value, single.better) == (2.0, 0)
    assert np.isnan([single.low, single.high]).all()
    assert single.write(1) == "+2.0"


@pytest.mark.parametrize(("lower_is_better", "better"), [(False, 1), (True, -1)])
def test_which_side_is_better(lower_is_better, better):
    found = paired_difference({0: 2.0, 1: 2.1, 2: 2.2}, {0: 1.0, 1: 1.1, 2: 1.1}, lower_is_better)
    assert found.better == better
    undecided = paired_difference({0: 2.0, 1: 0.0, 2: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, lower_is_better)
    assert undecided.better == 0


def test_two_seeds_are_too_few_to_tell():
    found = paired_difference({0: 2.0, 1: 2.1}, {0: 1.0, 1: 1.1 - 1e-9}, lower_is_better=False)
    assert found.low > 0
    assert (found.better, found.mark) == (0, "")


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(1)
    measure = rng.normal(size=8)
    gains = [measure[i] + rng.normal(0, 1, 5) for i in range(8)]
    found = rank_correlation([(measure, gains)], repeats=200)
    assert found.value == pytest.approx(stats.spearmanr(measure, [g.mean() for g in gains]).statistic)
    assert found.low < found.value < found.high
    assert rank_correlation([(measure[:2], gains[:2])]) is None
    assert rank_correlation([([1.0, 1.0, 1.0], [[1.0], [2.0], [3.0]])]) is None
    perfect = rank_correlation([([1, 2, 3], [[1.0], [4.0], [9.0]])] * 2, repeats=50)
    assert (perfect.value, perfect.cases, perfect.arms) == (pytest.approx(1), 2, 6)


@pytest.mark.parametrize(("arms", "rho", "least"), [(4, 0.95, 0.9), (6, 0.8, 0.9), (8, 0.0, 0.95)])
def test_rank_correlation_intervals_hold_the_truth(arms, rho, least):
    rng = np.random.default_rng(0)
    true = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's of a normal pair whose Pearson's is rho
    held = 0
    for trial in range(40):
        measure = rng.normal(size=arms)
        gains = rho * measure[:, None] + np.sqrt(3 * (1 - rho**2)) * rng.normal(size=(arms, 3))
        found = rank_correlation([(measure, list(gains))], repeats=100, seed=trial)
        held += found.low <= true <= found.high
    assert held / 40 >= least


def row(arm: str, seed: int, accuracy: float, distance: float, distinct: float, **more: object) -> Row:
    facts = {"effective_distinct": distinct, "sampling": "systematic", "method": arm, **more}
    metrics = {"a.accuracy": accuracy, "a.distance": distance}
    return Row(
        "screen", "d", "b", arm, seed, False, facts, metrics, {"a.accuracy": False, "a.distance": True}
    )


def worked_case() -> CaseRows:
    rows = [
        row("natural", 0, 0.80, 0.5, 10),
        row("natural", 1, 0.90, 0.3, 10),
        row("even", 0, 0.85, 0.4, 30),
        row("even", 1, 0.94, 0.2, 30),
        row("odd", 0, 0.70, 0.5, 20),
        row("odd", 1, 0.80, 0.4, 20),
        row("iid", 0, 0.99, 0.1, 10, sampling="iid"),
    ]
    return CaseRows("screen", "d/b", tuple(rows), ("a.accuracy",))


def test_gains_are_shares_of_the_error_removed():
    case = worked_case()
    found = case.compare("even", "a.accuracy")
    assert found.mean == pytest.approx(0.895)
    assert found.difference.value == pytest.approx(0.045)
    assert found.gain.value == pytest.approx(0.045 / 0.15)  # natural's mean error is 15 %
    assert found.gains_by_seed == pytest.approx((0.05 / 0.15, 0.04 / 0.15))
    assert found.gain.low < found.gain.value < found.gain.high
    nearer = case.compare("even", "a.distance")
    assert nearer.gain.value == pytest.approx(0.1 / 0.4)
    assert nearer.difference.value == pytest.approx(-0.1)
    assert case.compare("natural", "a.accuracy").gain.value == 0
    assert case.compare("even", "b.accuracy") is None


def test_regrets_are_shares_of_naturals_error():
    cases = {
        "tail": {"natural": {0: 0.5, 1: 0.3}, "even": {0: 0.2, 1: 0.2}, "labels": {0: 0.1, 1: 0.1, 9: 5.0}},
        "control": {"natural": {0: 0.2, 1: 0.2}, "even": {0: 0.3, 1: 0.2}, "labels": {0: 0.4}},
    }
    found = {regret.arm: regret for regret in regrets(cases, "natural")}
    assert list(found) == ["labels", "even", "natural"]  # least worst regret first
    by_case = {arm: {case: e.value for case, e in regret.by_case.items()} for arm, regret in found.items()}
    assert by_case["natural"] == pytest.approx({"tail": 0.3 / 0.4, "control": 0})
    assert by_case["even"] == pytest.approx({"tail": 0.1 / 0.4, "control": 0.05 / 0.2})
    assert by_case["labels"] == pytest.approx({"tail": 0})  # in the control it lacks a seed
    assert found["natural"].worst.value == pytest.approx(0.75)
    assert [regret.everywhere for regret in found.values()] == [False, True, True]
    # two seeds: the first alone, both, or the second alone: (.5-.1)/.5, .3/.4, (.3-.1)/.3
    assert (found["natural"].worst.low, found["natural"].worst.high) == pytest.approx((2 / 3, 0.8))
    once = regrets({"a": {"natural": {0: 0.4}, "even": {0: 0.2}}}, "natural")
    assert [regret.worst.write(1) for regret in once] == ["+0.0", "+0.5"]


def test_regret_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(40):
        errors = {"natural": rng.normal(1, 0.05, 10), "even": rng.normal(0.8, 0.05, 10)}
        case = {arm: dict(enumerate(values)) for arm, values in errors.items()}
        (natural,) = (r for r in regrets({"a": case}, "natural", 200, seed=trial) if r.arm == "natural")
        held += natural.worst.low <= 0.2 <= natural.worst.high
    assert held / 40 >= 0.8


def test_regret_is_by_the_first_metric_of_arms_with_a_teacher():
    found = {regret.arm: regret.by_case["d/b"].value for regret in regrets_of([worked_case()])}
    assert found == pytest.approx({"even": 0, "natural": 0.3, "odd": 0.145 / 0.15})  # iid lacks a seed


def test_the_correlation_is_over_arms_of_one_sampler():
    found = correlate([worked_case()], "effective_distinct")
    assert found.arms == 3  # iid is left out
    assert found.value == pytest.approx(stats.spearmanr([10, 30, 20], [0, 0.045, -0.1]).statistic)


def test_compute_is_counted_in_steps_of_natural():
    cases = []
    for steps, natural, even in ((100, 0.6, 0.7), (400, 0.8, 0.85), (1600, 0.9, 0.9)):
        rows = [
            row("natural", 0, natural, 0.5, 10, steps=steps, draw="x"),
            row("even", 0, even, 0.5, 30, steps=steps, draw="x"),
            row("unjudged", 0, 0, 0.5, 30, steps=steps, draw="x"),
        ]
        del rows[-1].metrics["a.accuracy"]  # no judge gave it
        cases.append(CaseRows("screen", f"d/{steps}", tuple(rows), ("a.accuracy",)))
    other = [row("natural", 0, 0.5, 0.5, 10, steps=100, draw="y")]
    cases.append(CaseRows("screen", "d/other", tuple(other), ("a.accuracy",)))
    (budget,) = budgets_of(cases[::-1])
    assert budget.arms == ["natural", "even"]
    assert budget.equivalent_steps("even", 0) == pytest.approx(200)  # half-way in log steps
    assert budget.equivalent_steps("even", 1) == pytest.approx(800)
    assert budget.equivalent_steps("even", 2) == pytest.approx(1600)


def test_metrics_of_an_evaluation_by_name():
    document = {
        "protocol": "fidelity",
        "metrics": {
            "cosine": {"value": 0.5},
            "distance": {"value": 1.0},
            "squared_distance": {"value": None},
        },
        "groups": {"race": {"x": {"metrics": {"distance": {"value": 0.9}}}}},
        "spread": {"race": {"distance": {"min": 0.9, "max": 1.2, "gap": 0.3, "std": 0.1}}},
    }
    found = flat_metrics(Judge(name="fidelity", protocol="fidelity"), document)
    assert found == {
        "fidelity.cosine": {"value": 0.5, "lower_is_better": False},
        "fidelity.distance": {"value": 1.0, "lower_is_better": True},
        "fidelity.distance[race=x]": {"value": 0.9, "lower_is_better": True},
        "fidelity.distance[race:worst]": {"value": 1.2, "lower_is_better": True},
        "fidelity.distance[race:gap]": {"value": 0.3, "lower_is_better": True},
        "fidelity.distance[race:std]": {"value": 0.1, "lower_is_better": True},
    }
