import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.weighting.hygiene import cleaned, clipped, mixed, tempered, with_ess


def share(p: np.ndarray) -> float:
    return 1 / (p @ p) / len(p)


def test_temper_is_an_exponent_and_zero_stays_zero():
    w = np.array([0.0, 1.0, 4.0])
    assert tempered(w, 0.5) == pytest.approx([0, 1 / 3, 2 / 3])
    assert tempered(w, 1.0) == pytest.approx([0, 0.2, 0.8])
    assert tempered(w, 0.0) == pytest.approx([0, 0.5, 0.5])
    assert tempered(1e-300 * w, 2.0) == pytest.approx([0, 1 / 17, 16 / 17])
    with pytest.raises(KdbiasError, match="every sample the weight 0"):
        tempered(np.zeros(3), 1.0)


@pytest.mark.parametrize("clip", [1.2, 2.0, 5.0, 40.0])
def test_clip_holds_the_final_weight_and_keeps_proportions_below(clip):
    w = np.random.default_rng(0).pareto(1.0, size=50) + 0.01
    p = clipped(w / w.sum(), clip, 50)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p.max() * 50 <= clip * (1 + 1e-12)
    free = p * 50 < clip * (1 - 1e-9)
    assert (p[free] / w[free]) == pytest.approx((p[free] / w[free])[0])
    assert (w[~free] >= w[free].max() * (1 - 1e-12)).all()


def test_clip_that_cannot_hold_names_the_mean_of_those_who_carry_weight():
    p = np.array([0.5, 0.5, 0, 0, 0, 0])
    with pytest.raises(KdbiasError, match=r"2 distinct samples of 6 .* mean of theirs is 3"):
        clipped(p, 2.0, 6)
    assert clipped(p, 3.0, 6) == pytest.approx(p)


def test_clip_may_be_exactly_the_mean_of_those_who_carry_weight():
    for n in range(2, 60):
        for positive in range(1, n):
            p = np.r_[np.arange(1.0, positive + 1), np.zeros(n - positive)]
            expected = np.r_[np.full(positive, 1 / positive), np.zeros(n - positive)]
            assert clipped(p / p.sum(), n / positive, n) == pytest.approx(expected, rel=1e-12)


def test_clip_counts_copies_as_one_sample():
    # Four distinct samples out of eight rows: each carries 2 of the 8 draws on average.
    p = np.array([0.7, 0.1, 0.1, 0.1])
    expected = [0.375, 0.625 / 3, 0.625 / 3, 0.625 / 3]
    assert clipped(p, 3.0, 8) == pytest.approx(expected)
    assert cleaned(p, 8, clip=3.0) == pytest.approx(expected)


def test_mix_puts_a_floor_under_every_weight():
    p = np.array([0.9, 0.1, 0.0, 0.0])
    assert mixed(p, 0.2) * 4 == pytest.approx([0.8 * 3.6 + 0.2, 0.8 * 0.4 + 0.2, 0.2, 0.2])


@pytest.mark.parametrize("floor", [0.3, 0.6, 0.99, 1.0])
def test_ess_floor_is_met_exactly_by_the_least_mixing(floor):
    p = np.array([0.85, 0.1, 0.05, 0, 0])
    floored = with_ess(p, floor)
    assert share(floored) == pytest.approx(floor, rel=1e-12)
    # On the line from p to uniform sampling.
    direction, moved = 0.2 - p, floored - p
    assert moved == pytest.approx(direction * (moved[0] / direction[0]))
    assert with_ess(np.full(5, 0.2), floor) == pytest.approx(np.full(5, 0.2))
    assert with_ess(p, 0.2) is p


def test_steps_come_in_their_order():
    w = np.array([100.0, 9.0, 4.0, 1.0])
    expected = with_ess(mixed(clipped(tempered(w, 0.5), 1.5, 4), 0.1), 0.95)
    assert cleaned(w, 4, temper=0.5, clip=1.5, mix=0.1, floor=0.95) == pytest.approx(expected)
    assert share(expected) == pytest.approx(0.95)
    assert cleaned(w, 4) == pytest.approx(w / w.sum())
