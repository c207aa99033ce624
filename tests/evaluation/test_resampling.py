"""Bootstrap: coverage of what theory knows, clusters, pairs of subjects."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.evaluation.knn import balanced_accuracy
from kdbias.evaluation.resampling import (
    ALL,
    Estimate,
    bootstrap,
    difference,
    resampled_weights,
    summarize,
    weighted_mean,
)
from kdbias.evaluation.task import are_identities


def _mean(columns, weights):
    return {"mean": weighted_mean(columns["x"], weights)}


def test_standard_error_of_a_mean_is_sigma_over_root_n():
    x = np.random.default_rng(1).normal(size=400)
    (found,) = bootstrap(_mean, {"x": x}, [ALL], resampled_weights(400, 800, seed=2))
    assert found["mean"].value == pytest.approx(x.mean())
    assert found["mean"].standard_error == pytest.approx(x.std() / 20, rel=0.1)
    assert found["mean"].low == pytest.approx(x.mean() - 1.96 * x.std() / 20, abs=0.012)
    assert found["mean"].high == pytest.approx(x.mean() + 1.96 * x.std() / 20, abs=0.012)


def test_weights_of_units_sum_to_n_and_follow_the_seed():
    first, again, other = (list(resampled_weights(50, 3, seed)) for seed in (7, 7, 8))
    assert all(weights.sum() == 50 for weights in first)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_copies_within_clusters_widen_the_interval_only_when_clustered():
    x = np.repeat(np.random.default_rng(3).normal(size=100), 9)
    clusters = np.repeat(np.arange(100), 9)
    (alone,) = bootstrap(_mean, {"x": x}, [ALL], resampled_weights(900, 500, 0))
    (together,) = bootstrap(_mean, {"x": x}, [ALL], resampled_weights(900, 500, 0, clusters))
    assert together["mean"].standard_error / alone["mean"].standard_error == pytest.approx(3, rel=0.15)


def test_a_pair_weighs_by_both_subjects():
    clusters = np.array([[0, 0], [0, 1], [1, 2], [2, 2]])
    for weights in resampled_weights(4, 20, 5, clusters):
        genuine = weights[[0, 3]]
        # three subjects are drawn three times in all
        middle = 3 - genuine.sum()
        assert weights[1] == genuine[0] * middle
        assert weights[2] == middle * genuine[1]


def test_subsets_share_the_resamples_of_the_whole():
    x = np.random.default_rng(4).normal(size=60)
    rows = np.arange(10, 40)
    whole, part = bootstrap(_mean, {"x": x}, [ALL, rows], resampled_weights(60, 200, 0))
    assert part["mean"].value == pytest.approx(x[rows].mean())
    assert part["mean"].standard_error > whole["mean"].standard_error


def test_undefined_metrics_have_no_value_and_rarely_defined_ones_no_interval():
    assert summarize(float("nan"), np.ones(10)) == Estimate(None)
    assert summarize(0.5, np.array([0.4, np.nan, np.nan])) == Estimate(0.5)
    assert summarize(0.5, np.empty(0)) == Estimate(0.5)


def test_intervals_by_subject_cover_where_intervals_by_pair_do_not():
    """Subjects differ in how easily they match; 95 % of the intervals of many test sets hold the truth."""
    rng = np.random.default_rng(0)

    def test_set(subjects):
        ease = rng.normal(size=subjects)
        genuine = np.repeat(np.arange(subjects), 4)
        others = rng.integers(subjects, size=(6 * subjects, 2))
        others = others[others[:, 0] != others[:, 1]]
        who = np.concatenate([np.stack([genuine, genuine], 1), others])
        same = np.arange(len(who)) < len(genuine)
        level = np.where(same, 2 + ease[who[:, 0]], -2 + 0.7 * ease[who].sum(1))
        return who, {"same": same, "accepted": (level + rng.normal(size=len(who)) > 0).astype(float)}

    def rates(columns, weights):
        same, accepted = columns["same"], columns["accepted"]
        return {
            "fmr": weighted_mean(accepted[~same], weights[~same]),
            "fnmr": weighted_mean(1 - accepted[same], weights[same]),
        }

    _, huge = test_set(200_000)
    truth = rates(huge, np.ones(len(huge["same"])))
    covered = {(kind, metric): [] for kind in ("subject", "pair") for metric in truth}
    for seed in range(80):
        who, columns = test_set(150)
        for kind, clusters in (("subject", who), ("pair", None)):
            resamples = resampled_weights(len(who), 150, seed, clusters)
            (found,) = bootstrap(rates, columns, [ALL], resamples)
            for metric, value in truth.items():
                covered[kind, metric].append(found[metric].low <= value <= found[metric].high)
    assert min(np.mean(covered["subject", metric]) for metric in truth) >= 0.88
    assert np.mean(covered["pair", "fmr"]) < 0.8


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("seed_deviation", [0.02, 0.05], ids=["mixed", "seeds dominate"])
def test_intervals_over_training_seeds_hold_the_truth(runs, seed_deviation):
    """Two recipes that do not differ; 95 % of the intervals of many experiments hold zero."""
    n, repeats, experiments = 150, 60, 400
    rng = np.random.default_rng(0)
    weights = np.stack(list(resampled_weights(n, repeats, seed=0))) / n
    covered = []
    for _ in range(experiments):
        hard = rng.normal(0, 0.15, n)
        sides = [
            hard + rng.normal(0, seed_deviation, (runs, 1)) + rng.normal(0, 0.15, (runs, n)) for _ in "ab"
        ]
        draws = (sides[1].mean(axis=0) - sides[0].mean(axis=0)) @ weights.T
        found, p_value = difference(sides[0].mean(axis=1), sides[1].mean(axis=1), draws)
        covered.append(found.low <= 0 <= found.high)
        assert covered[-1] == (p_value >= 0.05)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_one_run_a_side_keeps_the_percentiles_of_its_resamples():
    draws = np.random.default_rng(0).exponential(size=500)
    found, p_value = difference(np.array([1.0]), np.array([2.0]), draws)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert p_value == pytest.approx(2 / 501)


def test_runs_that_agree_to_the_last_digit_have_an_interval_of_no_width():
    same = np.array([0.5, 0.5])
    found, p_value = difference(same, same, np.zeros(100))
    assert (found.low, found.high, p_value) == (0.0, 0.0, 1.0)
    found, p_value = difference(same, same + 0.1, np.full(100, 0.1))
    assert (found.low, p_value) == (pytest.approx(0.1), pytest.approx(0))


@pytest.mark.parametrize(
    ("people", "images", "identities"), [(100, 4, True), (10, 4, False), (100, 40, False), (30, 29, True)]
)
def test_labels_are_identities_where_many_have_few_samples(people, images, identities):
    labels = pa.array(np.repeat([f"p{i}" for i in range(people)], images).tolist() + [None] * 50)
    assert are_identities(labels) is identities


def test_balanced_accuracy_of_drawn_classes_varies_as_a_mean_over_classes_does():
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    correct = (rng.random(len(classes)) < rng.random(300)[classes]).astype(float)

    def score(columns, weights):
        return {"a": balanced_accuracy(columns["correct"], columns["class"], weights, classes_drawn=True)}

    columns = {"correct": correct, "class": classes}
    (found,) = bootstrap(score, columns, [ALL], resampled_weights(len(classes), 800, 0, classes))
    accuracies = np.bincount(classes, correct) / np.bincount(classes)
    assert found["a"].value == pytest.approx(accuracies.mean())
    assert found["a"].standard_error == pytest.approx(accuracies.std() / np.sqrt(300), rel=0.1)
