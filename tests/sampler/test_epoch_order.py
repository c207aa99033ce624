"""The order of an epoch: exact counts, fair draws, and a permutation that is one."""

import sys

import numpy as np
import pytest
from scipy.stats import chi2

import kdbias.sampler
from kdbias.errors import KdbiasError
from kdbias.sampler import epoch_order
from kdbias.sampler.epoch_order import EpochOrder
from kdbias.sampler.permutation import Permutation
from kdbias.tables import fingerprints


def permutation(n: int, seed: int) -> Permutation:
    return Permutation(n, np.empty(Permutation.size(n), np.int64), np.random.default_rng(seed))


def whole(order: EpochOrder) -> np.ndarray:
    return np.concatenate(list(order.blocks()))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 16384, 16385, 100_003])
def test_permutation_hits_every_number_once(n: int) -> None:
    images = permutation(n, n)(np.arange(n))
    assert np.array_equal(np.sort(images), np.arange(n))


def test_permutation_spreads_every_start_over_all_places() -> None:
    n, runs = 10, 20_000
    table = np.zeros((n, n))
    for seed in range(runs):
        table[np.arange(n), permutation(n, seed)(np.arange(n))] += 1
    statistic = ((table - runs / n) ** 2 / (runs / n)).sum()
    assert statistic < chi2.ppf(1 - 1e-6, (n - 1) ** 2)


def test_permutation_separates_neighbours_and_leaves_no_trend() -> None:
    n = 100_000
    images = permutation(n, 5)(np.arange(n))
    steps = np.diff(images) % n
    observed = np.histogram(steps, bins=100, range=(0, n))[0]
    assert ((observed - n / 100) ** 2 / (n / 100)).sum() < chi2.ppf(1 - 1e-6, 99)
    for lag in (1, 2, 3, 317, 1000):
        correlation = np.corrcoef(images[:-lag], images[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(n)


@pytest.mark.parametrize("draws", [1, 50, 999, 1000, 2500])
@pytest.mark.parametrize("kind", ["lognormal", "extreme", "many zeros", "thirds", "tiny"])
def test_systematic_counts_are_floor_or_ceil_of_the_expectation(kind: str, draws: int) -> None:
    rng = np.random.default_rng(3)
    weights = {
        "lognormal": rng.lognormal(size=1000),
        "extreme": np.r_[1e9, np.full(999, 1e-3)],
        "many zeros": np.where(rng.random(1000) < 0.9, 0.0, rng.random(1000)),
        "thirds": np.full(1000, 1 / 3),
        "tiny": np.full(1000, 1e-300),
    }[kind]
    expected = weights * (draws / weights.sum())
    for epoch in range(5):
        counts = EpochOrder(weights, draws, seed=1, epoch=epoch).counts(1000)
        assert counts.sum() == draws
        assert (counts >= np.floor(expected - 1e-6)).all()
        assert (counts <= np.ceil(expected - 1e-6)).all()


def test_systematic_draws_have_the_right_mean_over_epochs() -> None:
    rng = np.random.default_rng(0)
    weights, epochs = rng.gamma(0.5, size=200), 4000
    total = sum(EpochOrder(weights, 200, seed=9, epoch=e).counts(200) for e in range(epochs))
    expected = weights * 200 / weights.sum()
    fraction = expected % 1
    error = np.sqrt(np.maximum(fraction * (1 - fraction), 1e-12) / epochs)
    assert (np.abs(total / epochs - expected) < 5 * error + 1e-9).all()


def test_equal_weights_give_one_shuffled_pass() -> None:
    for weight in (1.0, 0.3, 1e-7):
        rows = whole(EpochOrder(np.full(70_000, weight), 70_000, seed=2))
        assert np.array_equal(np.sort(rows), np.arange(70_000))
        assert not np.array_equal(rows, np.arange(70_000))


def test_iid_draws_pass_a_chi_square_test_at_a_million() -> None:
    weights = np.random.default_rng(4).lognormal(size=10_000)
    draws = 1_000_000
    counts = EpochOrder(weights, draws, mode="iid", seed=8).counts(len(weights))
    expected = weights * draws / weights.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chi2.ppf(1e-6, len(weights) - 1) < statistic < chi2.ppf(1 - 1e-6, len(weights) - 1)


def test_successive_iid_draws_are_independent() -> None:
    rows = whole(EpochOrder(np.array([1.0, 2.0, 3.0, 4.0]), 400_000, mode="iid", seed=1))
    pairs = np.bincount(4 * rows[:-1] + rows[1:], minlength=16).reshape(4, 4)
    p = np.array([1, 2, 3, 4]) / 10
    expected = 399_999 * np.outer(p, p)
    # 9 degrees of freedom for independence given the margins, 15 at most.
    assert ((pairs - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 15)


@pytest.mark.parametrize("mode", ["systematic", "iid"])
def test_zero_weights_are_never_drawn(mode: str) -> None:
    rng = np.random.default_rng(1)
    weights = np.where(rng.random(20_000) < 0.5, 0.0, rng.random(20_000))
    weights[-3:] = 0.0
    weights[:3] = 0.0
    for epoch in range(10):
        counts = EpochOrder(weights, 50_000, mode=mode, seed=0, epoch=epoch).counts(20_000)
        assert counts[weights == 0].sum() == 0
        assert counts.sum() == 50_000


@pytest.mark.parametrize("mode", ["systematic", "iid"])
def test_the_order_is_a_function_of_seed_and_epoch_alone(mode: str) -> None:
    weights = np.random.default_rng(0).random(500)

    def order(seed: int, epoch: int) -> list[int]:
        return whole(EpochOrder(weights, 500, mode=mode, seed=seed, epoch=epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    distinct = [order(s, e) for s in range(3) for e in range(3)]
    assert len({tuple(o) for o in distinct}) == 9


@pytest.mark.parametrize(
    ("mode", "digest"),
    [("systematic", "5183e9baa6107e227194730de418c218"), ("iid", "888f154bda78cc12106c4c806c5a2140")],
)
def test_the_order_is_that_of_earlier_versions(mode: str, digest: str) -> None:
    # Checkpoints hold a position in it. An intended change raises `epochs._FORM`.
    weights = np.random.default_rng(0).random(10_007)
    assert fingerprints.of_arrays(whole(EpochOrder(weights, 9001, mode=mode, seed=3, epoch=2))) == digest


def test_any_position_can_be_asked_for_alone() -> None:
    order = EpochOrder(np.random.default_rng(0).random(300), 1000, seed=4)
    rows = whole(order)
    positions = np.random.default_rng(1).permutation(1000)
    assert np.array_equal(order.at(positions), rows[positions])
    assert np.array_equal(np.concatenate(list(order.blocks(5, 900, 7, size=3))), rows[5:900:7])
    for stop in (0, 400, 700, 999, 1000, 2000):
        assert np.array_equal(order.counts(300, stop), np.bincount(rows[:stop], minlength=300))


def test_more_rows_than_multinomial_takes() -> None:
    n = 2**24 + 1
    weights = np.zeros(n)
    weights[-5:] = 1.0
    for mode in ("systematic", "iid"):
        counts = EpochOrder(weights, 1000, mode=mode).counts(n)
        assert counts[-5:].sum() == 1000
        assert (counts[-5:] > 100).all()


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(KdbiasError, match="systematic, iid"):
        EpochOrder(np.ones(3), 3, mode="multinomial")


@pytest.mark.parametrize("kind", ["lognormal", "equal", "many zeros", "heavy", "fewer draws"])
def test_compiled_loops_give_the_same_order_bit_for_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(6)
    weights = {
        "equal": np.full(40_000, 0.1),
        "many zeros": np.where(rng.random(40_000) < 0.99, 0.0, rng.random(40_000)),
        "heavy": np.r_[rng.random(39_999), 1e7],
    }.get(kind, rng.lognormal(size=40_000))
    draws = 7_001 if kind == "fewer draws" else 40_000
    orders = []
    for threshold in (1 << 62, 1):
        monkeypatch.setattr(epoch_order, "_COMPILED_FROM", threshold)
        for mode in ("systematic", "iid"):
            order = EpochOrder(weights, draws, mode=mode, seed=3, epoch=5)
            orders.append((whole(order), order.at(np.arange(draws)[::-7])))
    for plain, compiled in zip(orders[:2], orders[2:], strict=True):
        assert np.array_equal(plain[0], compiled[0])
        assert np.array_equal(plain[1], compiled[1])


@pytest.mark.parametrize("compiled_from", [1 << 62, 1])
def test_many_weights_are_mixed_stretch_by_stretch_to_the_same_order(
    compiled_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.random.default_rng(6).lognormal(size=300_007)
    monkeypatch.setattr(epoch_order, "_COMPILED_FROM", compiled_from)
    at_once = whole(EpochOrder(weights, 300_007, seed=3, epoch=5))
    monkeypatch.setattr(epoch_order, "_KEPT", 0)
    assert np.array_equal(whole(EpochOrder(weights, 300_007, seed=3, epoch=5)), at_once)
    scatter = epoch_order.Scatter(len(weights), np.random.default_rng(0))
    mixed = scatter.take(weights, 0, len(weights))
    assert epoch_order.Mixed(weights, scatter).sum() == mixed.sum()
    assert np.array_equal(np.sort(mixed), np.sort(weights))


def test_without_numba_the_order_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kdbias.sampler.compiled", None)
    monkeypatch.setattr(epoch_order, "_COMPILED_FROM", 1)
    assert EpochOrder(np.ones(100), 100).counts(100).tolist() == [1] * 100


def test_numba_that_finds_no_place_for_its_cache_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "kdbias.sampler.compiled", raising=False)
    monkeypatch.delattr(kdbias.sampler, "compiled", raising=False)

    def njit(**options):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba, "njit", njit)
    monkeypatch.setattr(epoch_order, "_COMPILED_FROM", 1)
    assert EpochOrder(np.ones(100), 100).counts(100).tolist() == [1] * 100


def test_rows_that_alternate_in_the_file_do_not_give_one_sided_epochs():
    weights = np.where(np.arange(1000) < 500, 1.5, 0.5)
    tail_even = []
    for epoch in range(40):
        counts = epoch_order.EpochOrder(weights, 1000, seed=3, epoch=epoch).counts(1000)
        assert ((counts >= np.floor(weights)) & (counts <= np.ceil(weights))).all()
        tail_even.append(counts[500::2].sum())  # of the 250 draws that the tail gets
    # A random half of 500 rows holds 125 +- 5.6 even ones; in row order it was 0 or 250.
    assert 90 < min(tail_even) < max(tail_even) < 160
    assert len(set(tail_even)) > 5
