"""P x K batches: their shape, their expectation, and that no identity comes twice in one."""

import numpy as np
import pyarrow as pa
import pytest
from torch.utils.data import DataLoader

from kdbias.errors import KdbiasError
from kdbias.sampler.identity_sampler import IdentitySampler

RNG = np.random.default_rng(0)
LABELS = [f"p{c:02d}" for c in range(40) for _ in range(int(RNG.integers(2, 30)))]
WEIGHTS = RNG.lognormal(sigma=0.6, size=len(LABELS))


def sampler(**options: object) -> IdentitySampler:
    return IdentitySampler(WEIGHTS, pa.array(LABELS), **{"identities": 8, "instances": 4, **options})


def test_every_batch_has_p_identities_and_k_images_of_each() -> None:
    labels = np.array(LABELS)
    batches = list(sampler(seed=1))
    assert len(batches) == len(LABELS) // 32
    for batch in batches:
        names = labels[batch].reshape(8, 4)
        assert (names == names[:, :1]).all()
        assert len(set(names[:, 0])) == 8


def test_images_are_drawn_in_proportion_to_their_weights() -> None:
    drawn = sampler(seed=2)
    epochs = 600
    counts = sum(np.bincount(drawn.order(e).ravel(), minlength=len(LABELS)) for e in range(epochs)) / epochs
    expected = WEIGHTS * drawn.num_draws / WEIGHTS.sum()
    assert abs(counts - expected).max() < 0.25
    assert np.corrcoef(counts, expected)[0, 1] > 0.998
    assert counts.sum() == drawn.num_draws


def test_identities_are_visited_floor_or_ceil_of_their_share() -> None:
    drawn = sampler(seed=3)
    codes = np.unique(LABELS, return_inverse=True)[1]
    expected = np.bincount(codes, WEIGHTS) * drawn.num_batches * 8 / WEIGHTS.sum()
    for epoch in range(20):
        visits = np.bincount(codes[drawn.order(epoch)[:, :, 0].ravel()], minlength=40)
        assert (np.floor(expected) <= visits).all()
        assert (visits <= np.ceil(expected)).all()


def test_identities_meet_as_in_random_dealing() -> None:
    labels = np.repeat(np.arange(100), 16)  # four visits to each identity an epoch, among eight a batch
    drawn = IdentitySampler(np.ones(1600), labels, identities=8, instances=4, seed=1)
    batches = labels[drawn.order(0)[:, :, 0]]
    assert len({frozenset(batch) for batch in batches.tolist()}) == drawn.num_batches
    together = np.zeros((100, 100), bool)
    for batch in batches:
        assert len(set(batch)) == 8
        together[np.ix_(batch, batch)] = True
    # Of the 28 others in its four batches an identity meets 99 (1 - (1 - 7/99)^4) = 25.2 different ones.
    assert together.sum(1).mean() - 1 == pytest.approx(25.2, abs=1.0)


def test_identities_that_alternate_in_the_file_do_not_give_one_sided_epochs() -> None:
    labels = np.repeat(np.arange(100), 6)  # one and a half visits each: half of them are due another one
    drawn = IdentitySampler(np.ones(600), labels, identities=10, instances=4, seed=1)
    even = []
    for epoch in range(30):
        visits = np.bincount(labels[drawn.order(epoch)[:, :, 0].ravel()], minlength=100)
        even.append((visits[::2] == 2).sum())
    assert 15 < min(even) < max(even) < 35
    assert len(set(even)) > 3


def test_images_of_an_identity_meet_in_every_visit_anew() -> None:
    labels = np.repeat(np.arange(8), 16)
    drawn = IdentitySampler(np.ones(128), labels, identities=4, instances=4, seed=1)
    visits = [frozenset(v) for e in range(20) for v in drawn.order(e).reshape(-1, 4).tolist() if 0 in v]
    assert len(visits) == 20
    assert len(set(visits)) > 15


def test_an_image_repeats_within_a_visit_only_where_it_must() -> None:
    labels = ["a"] * 10 + ["b"] * 10 + ["c"] * 2 + ["d"] * 10
    drawn = IdentitySampler(np.ones(32), labels, identities=2, instances=4, num_samples=400)
    for batch in drawn.order(0):
        for rows in batch:
            assert len(set(rows)) == (2 if labels[rows[0]] == "c" else 4)


def test_a_dominant_identity_comes_once_a_batch_and_the_rest_shares_what_is_left() -> None:
    labels, weights = ["big"] * 10 + ["a", "b", "c", "d"], np.r_[np.full(10, 100.0), 1.0, 1.0, 1.0, 1.0]
    drawn = IdentitySampler(weights, labels, identities=3, instances=1, num_samples=300)
    names = np.array(labels)[drawn.order(0)[:, :, 0]]
    assert ((names == "big").sum(1) == 1).all()
    assert all(abs((names == other).sum() - 50) <= 1 for other in "abcd")


def test_ranks_share_the_identities_of_each_batch() -> None:
    whole = sampler(seed=4).order(0)
    shares = [list(sampler(seed=4, rank=r, world_size=2)) for r in range(2)]
    for batch, left, right in zip(whole, *shares, strict=True):
        assert batch[0::2].ravel().tolist() == left
        assert batch[1::2].ravel().tolist() == right


def test_a_state_continues_the_epoch() -> None:
    whole = list(sampler(seed=5))
    first = sampler(seed=5)
    stream = iter(first)
    begun = [next(stream) for _ in range(3)]
    second = sampler(seed=5)
    second.load_state_dict(first.state_dict())
    assert begun + list(second) == whole
    assert list(second) == list(map(list, sampler(seed=5).order(1).reshape(-1, 32)))


def test_zero_weights_and_missing_labels_are_never_drawn() -> None:
    labels = pa.array(["a", "a", None, "b", "b", "c"])
    drawn = IdentitySampler(np.array([1, 0, 5, 1, 1, 1.0]), labels, identities=2, instances=2)
    assert not {1, 2} & {row for e in range(50) for row in drawn.order(e).ravel()}


def test_a_loader_takes_it_as_batch_sampler() -> None:
    batches = [b.tolist() for b in DataLoader(range(len(LABELS)), batch_sampler=sampler(seed=6))]
    assert batches == list(sampler(seed=6))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"identities": 41}, "41 identities x 4 images cannot be drawn from 40"),
        ({"identities": 0}, "cannot be drawn"),
        ({"identities": True}, "identities is True, should be a whole number"),
        ({"instances": 1.5}, "instances is 1.5, should be a whole number"),
        ({"num_samples": 80.5}, "num_samples is 80.5, should be a whole number"),
        ({"seed": -1}, "seed is -1, should be at least 0"),
        ({"rank": 0, "world_size": 3}, "cannot be shared by 3 ranks"),
    ],
)
def test_impossible_batches_are_refused(options: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        sampler(**options)
