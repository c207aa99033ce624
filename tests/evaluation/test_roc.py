"""ROC readings against scikit-learn and by hand."""

import numpy as np
import pytest

from kdbias.evaluation.roc import (
    area,
    equal_error_rate,
    far_name,
    roc_curve,
    tar_at_most,
    tar_at_nearest,
    tar_names,
    tars,
    without_intermediate,
)


def _scores(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.4
    scores = rng.normal(size=n) + 1.5 * same
    return (np.round(scores, 1) if ties else scores), same


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curve_and_area_equal_scikit_learn(seed, ties):
    from sklearn import metrics

    scores, same = _scores(500, seed, ties)
    far, tar, thresholds = metrics.roc_curve(same, scores, drop_intermediate=False)
    roc = roc_curve(scores, same)
    np.testing.assert_allclose(roc.far, far)
    np.testing.assert_allclose(roc.tar, tar)
    np.testing.assert_allclose(roc.thresholds, thresholds)
    assert area(roc) == pytest.approx(metrics.roc_auc_score(same, scores))
    drawn = without_intermediate(roc)
    far, tar, _ = metrics.roc_curve(same, scores)
    np.testing.assert_allclose(drawn.far, far)
    np.testing.assert_allclose(drawn.tar, tar)


def test_integer_weights_equal_repetition():
    scores, same = _scores(200, 3, ties=True)
    weights = np.random.default_rng(4).integers(0, 4, size=200)
    weighted = roc_curve(scores, same, weights.astype(float))
    repeated = roc_curve(np.repeat(scores, weights), np.repeat(same, weights))
    np.testing.assert_allclose(weighted.far, repeated.far)
    np.testing.assert_allclose(weighted.tar, repeated.tar)
    np.testing.assert_allclose(weighted.thresholds, repeated.thresholds)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_reading_equals_insightface_s_on_the_curve_of_scikit_learn(seed):
    """The published reading: the curve reversed, then the first point of smallest |FPR - x|."""
    from sklearn import metrics

    scores, same = _scores(3000, seed, ties=seed % 2 == 0)
    far, tar, _ = metrics.roc_curve(same, scores)
    far, tar = far[::-1], tar[::-1]
    drawn = without_intermediate(roc_curve(scores, same))
    for x in (1e-4, 1e-3, 1e-2, 1e-1):
        nearest = min((abs(value - x), i) for i, value in enumerate(far))[1]
        assert tar_at_nearest(drawn, x) == pytest.approx(tar[nearest])


def test_strict_and_nearest_readings_by_hand():
    # impostors at .9 .5 .3 .1; genuine at .95 .8 .6 .2: accepted in the order g i g g i i g i
    scores = np.array([0.95, 0.8, 0.6, 0.2, 0.9, 0.5, 0.3, 0.1])
    same = np.array([True] * 4 + [False] * 4)
    roc = roc_curve(scores, same)
    assert tar_at_most(roc, 0.24) == 0.25
    assert tar_at_most(roc, 0.25) == 0.75
    assert tar_at_nearest(roc, 0.24) == 0.75  # FAR .25 is nearest, although above
    assert tar_at_most(roc, 1.0) == 1.0
    # area: of the 16 pairs (genuine, impostor) all but (.8 .6 .2 against .9), (.2 against .5 .3) are in order
    assert area(roc) == pytest.approx(11 / 16)
    assert equal_error_rate(roc) == pytest.approx(0.25)


def test_an_exact_hit_is_not_lost_to_rounding():
    scores = np.concatenate([np.linspace(1, 2, 10), np.linspace(0, 1.5, 1000)])
    same = np.arange(1010) < 10
    for accepted in range(1, 300):
        roc = roc_curve(scores, same)
        far = accepted / 1000
        assert roc.far[np.searchsorted(roc.far, far * (1 + 1e-12), side="right") - 1] == pytest.approx(far)


def test_names_of_rates():
    assert [far_name(x) for x in (1e-6, 1e-3, 0.05, 0.1, 0.002)] == ["1e-6", "1e-3", "5e-2", "0.1", "2e-3"]
    assert tar_names([1e-4], "=") == ["tar@far=1e-4"]
    assert tar_names([1e-4], "<=") == ["tar@far<=1e-4"]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_quick_reading_equals_the_curve_s(seed, ties):
    scores, same = _scores(800, seed, ties)
    order = np.argsort(-scores, kind="stable")
    scores, same = scores[order], same[order]
    weights = np.random.default_rng(seed + 50).integers(0, 3, size=800).astype(float)
    fars = [1e-4, 1e-3, 3e-3, 1e-2, 0.1, 0.5, 1.0]
    roc = roc_curve(scores, same, weights)
    nearest, strict = tars(scores, same, weights, fars)
    assert strict == pytest.approx([tar_at_most(roc, far) for far in fars])
    assert nearest == pytest.approx([tar_at_nearest(roc, far) for far in fars])
