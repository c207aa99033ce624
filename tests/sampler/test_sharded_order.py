"""Draws shard by shard: each sample as often as without shards, few shards at a time, resumable anywhere."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.sampler import ManifestSampler, epochs, machine_memory
from kdbias.sampler.sharded_order import BUFFER, Shards

RNG = np.random.default_rng(0)
WEIGHTS = np.where(RNG.random(5003) < 0.2, 0.0, RNG.lognormal(size=5003))
NUMBERS = np.sort(RNG.integers(0, 60, 5003))  # 60 shards, one after another
MIXED = RNG.permutation(NUMBERS)


def ranks(world: int, numbers: np.ndarray = NUMBERS, **options: object) -> list[ManifestSampler]:
    options = {"seed": 5, "shards": numbers, "drop_last": False, **options}
    return [ManifestSampler(WEIGHTS, rank=rank, world_size=world, **options) for rank in range(world)]


def counts(rows: list[int] | np.ndarray) -> list[int]:
    return np.bincount(rows, minlength=len(WEIGHTS)).tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 8, 70])
@pytest.mark.parametrize("mode", ["systematic", "iid"])
@pytest.mark.parametrize(
    "numbers", [NUMBERS, MIXED, NUMBERS // 20, np.arange(5003) // 25, np.zeros(5003, int)]
)
def test_every_sample_is_drawn_as_often_as_without_shards(world: int, mode: str, numbers: np.ndarray) -> None:
    whole = ManifestSampler(WEIGHTS, seed=5, mode=mode, rank=0, world_size=1)
    samplers = ranks(world, numbers, mode=mode)
    for epoch in range(2):
        shares = [list(sampler) for sampler in samplers]
        drawn = list(itertools.chain(*shares))
        assert counts(drawn) == counts(list(whole))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert samplers[0].drawn(epoch) == whole.drawn(epoch)
        positions = np.arange(len(drawn))
        order = samplers[0].order().at(positions)
        assert [order[rank::world].tolist() for rank in range(world)] == shares
    equal = ranks(world, numbers, mode=mode, drop_last=True)
    assert {len(list(sampler)) for sampler in equal} == {5003 // world}


@pytest.mark.parametrize("numbers", [NUMBERS, MIXED])
@pytest.mark.parametrize("world", [1, 3])
def test_a_process_has_few_shards_at_hand_and_opens_each_once(numbers: np.ndarray, world: int) -> None:
    seen: list[set[int]] = []
    for sampler in ranks(world, numbers):
        drawn = numbers[list(sampler)]
        first = {shard: np.flatnonzero(drawn == shard)[0] for shard in set(drawn.tolist())}
        last = {shard: np.flatnonzero(drawn == shard)[-1] for shard in first}
        at_once = [sum(first[s] <= i <= last[s] for s in first) for i in range(len(drawn))]
        assert max(at_once) == BUFFER
        assert np.mean(at_once) > 0.9 * BUFFER  # all of them are drawn from, all the time
        in_window = [len(set(drawn[i : i + 100].tolist())) for i in range(0, len(drawn) - 100, 50)]
        assert min(in_window) >= BUFFER // 2
        seen.append(set(first))
        assert sampler.neighbourhood == pytest.approx(5003 * BUFFER / 60, rel=0.1)
    shared = sum(map(len, seen)) - len(set().union(*seen))
    assert shared <= world - 1  # the shards at the cuts
    assert ManifestSampler(WEIGHTS, rank=0, world_size=1).neighbourhood == 5003


def test_the_order_is_a_function_of_weights_seed_epoch_and_processes() -> None:
    def drawn(world: int, seed: int, epoch: int, numbers: np.ndarray = NUMBERS) -> tuple[int, ...]:
        sampler = ranks(world, numbers, seed=seed)[0]
        sampler.set_epoch(epoch)
        return tuple(sampler)

    cases = [(w, s, e) for w in (1, 2) for s in (1, 2) for e in (0, 1)]
    assert len({drawn(*case) for case in cases}) == len(cases)
    assert all(drawn(*case) == drawn(*case) for case in cases)
    assert drawn(2, 1, 0) == drawn(2, 1, 0, NUMBERS * 7 + 3)  # what they are called does not count
    state = ranks(1)[0].state_dict()
    ranks(1, (NUMBERS * 7 + 3).astype(np.uint16))[0].load_state_dict(state)


@pytest.mark.parametrize("taken", [0, 1, 130, 800, 1667])
def test_an_epoch_goes_on_in_the_middle(taken: int) -> None:
    whole = [[*sampler, *sampler] for sampler in ranks(3)]
    first = ranks(3)
    begun = [list(itertools.islice(sampler, taken)) for sampler in first]
    states = [sampler.state_dict() for sampler in first]
    assert states[0] == states[1] == states[2]
    second = ranks(3)
    for sampler in second:
        sampler.load_state_dict(states[0])
    rest = [[*sampler, *sampler] for sampler in second]
    assert [a + b for a, b in zip(begun, rest, strict=True)] == whole


@pytest.mark.parametrize(("worlds", "taken"), [((3, 2), [500]), ((2, 5, 1, 4), [900, 300, 700])])
def test_other_numbers_of_processes_draw_what_is_left(worlds: tuple[int, ...], taken: list[int]) -> None:
    state, drawn = None, []
    for world, some in itertools.zip_longest(worlds, taken):
        samplers = ranks(world)
        if state is not None:
            for sampler in samplers:
                sampler.load_state_dict(state)
        drawn += itertools.chain(*(itertools.islice(sampler, some) for sampler in samplers))
        state = samplers[0].state_dict()
        made = np.array(counts(drawn))
        assert samplers[-1].drawn(0, len(drawn)) == {
            "unique_fraction": np.count_nonzero(made) / np.count_nonzero(WEIGHTS),
            "ess_fraction": pytest.approx(
                made.sum() ** 2 / (made**2).sum() / np.count_nonzero(WEIGHTS), rel=1e-12
            ),
        }
    assert counts(drawn) == counts(list(ManifestSampler(WEIGHTS, seed=5, rank=0, world_size=1)))
    assert [len(s) for s in ranks(worlds[0])] == [len(list(s)) for s in ranks(worlds[0])]


def test_the_state_of_an_order_without_shards_is_refused_and_the_other_way_about() -> None:
    plain, sharded = ManifestSampler(WEIGHTS, seed=5), ManifestSampler(WEIGHTS, seed=5, shards=NUMBERS)
    for one, other in itertools.permutations((plain, sharded)):
        with pytest.raises(KdbiasError, match=r"belongs to another draw \(shards: "):
            one.load_state_dict(other.state_dict())
    with pytest.raises(KdbiasError, match=r"another draw .*shards"):
        sharded.load_state_dict(ManifestSampler(WEIGHTS, seed=5, shards=MIXED).state_dict())


def test_counts_are_kept_once_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [list(sampler) for sampler in ranks(2)]
    monkeypatch.setattr(machine_memory, "_SHARED", str(tmp_path))
    monkeypatch.setattr(epochs, "_SHARED_FROM", 1)
    samplers = ranks(2)
    assert [list(sampler) for sampler in samplers] == expected
    assert len(list(tmp_path.iterdir())) == 2  # weights and counts
    del samplers, expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [[0, 1], np.zeros((2, 2), int), [0.5] * 4, ["a"] * 4])
def test_shards_that_are_no_numbers_or_too_few_are_refused(numbers: object) -> None:
    with pytest.raises(KdbiasError, match="one whole number for each of 4 weights"):
        ManifestSampler(np.ones(4), shards=numbers)


def test_rows_know_their_shard() -> None:
    for numbers in (NUMBERS, MIXED):
        shards = Shards(numbers, len(numbers))
        _, expected = np.unique(numbers, return_inverse=True)
        assert np.array_equal(shards.of(np.arange(len(numbers))), expected)
        assert [shards.rows(s).tolist() for s in range(len(shards))] == [
            np.flatnonzero(expected == s).tolist() for s in range(len(shards))
        ]
