"""The sampler: slices of one global draw, state that survives anything, weights by id."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from kdbias.errors import KdbiasError
from kdbias.sampler.manifest_sampler import ManifestSampler
from kdbias.tables.weight_manifest import write_manifest

WEIGHTS = np.random.default_rng(0).lognormal(size=103)


def test_it_is_a_weighted_random_sampler_that_a_loader_takes() -> None:
    sampler = ManifestSampler(WEIGHTS, seed=3)
    assert isinstance(sampler, WeightedRandomSampler)
    data = TensorDataset(torch.arange(103))
    batches = [b[0] for b in DataLoader(data, batch_size=10, sampler=sampler)]
    assert torch.cat(batches).tolist() == list(ManifestSampler(WEIGHTS, seed=3))
    assert len(sampler) == 103


def test_the_order_does_not_depend_on_the_workers() -> None:
    data = TensorDataset(torch.arange(103))
    orders = []
    for workers in (0, 2):
        loader = DataLoader(
            data, batch_size=10, sampler=ManifestSampler(WEIGHTS, seed=3), num_workers=workers
        )
        orders.append(torch.cat([b[0] for b in loader]).tolist())
    assert orders[0] == orders[1]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("mode", ["systematic", "iid"])
def test_ranks_share_one_global_draw(world: int, mode: str) -> None:
    whole = list(ManifestSampler(WEIGHTS, seed=5, mode=mode))
    shares = [
        list(ManifestSampler(WEIGHTS, seed=5, mode=mode, rank=r, world_size=world, drop_last=False))
        for r in range(world)
    ]
    merged = [None] * len(whole)
    for rank, share in enumerate(shares):
        merged[rank::world] = share
    assert merged == whole
    equal = [ManifestSampler(WEIGHTS, seed=5, mode=mode, rank=r, world_size=world) for r in range(world)]
    assert [list(s) for s in equal] == [share[: 103 // world] for share in shares]
    assert {len(s) for s in equal} == {103 // world}


def test_resuming_at_every_position_equals_the_uninterrupted_draw() -> None:
    reference = ManifestSampler(WEIGHTS[:23], seed=1)
    uninterrupted = [*reference, *reference]  # two passes: epochs 0 and 1
    for taken in range(24):
        first = ManifestSampler(WEIGHTS[:23], seed=1)
        stream = iter(first)
        begun = [next(stream) for _ in range(taken)]
        second = ManifestSampler(WEIGHTS[:23], seed=1)
        second.load_state_dict(first.state_dict())
        second.set_epoch(second.epoch)  # trainers do; it must not rewind
        rest = [*second, *second] if taken < 23 else [*second]
        assert begun + rest == uninterrupted


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_drops_the_last_draws_leaves_a_state_at_the_next_epoch(workers: int) -> None:
    sampler = ManifestSampler(WEIGHTS, seed=1)
    loader = DataLoader(
        torch.arange(103), batch_size=10, sampler=sampler, drop_last=True, num_workers=workers
    )
    assert sum(len(batch) for batch in loader) == 100
    resumed = ManifestSampler(WEIGHTS, seed=1)
    resumed.load_state_dict(sampler.state_dict())
    assert (resumed.epoch, resumed.position) == (1, 0)


@pytest.mark.parametrize(("before", "after"), [(4, 3), (1, 5), (3, 1)])
def test_a_resumed_epoch_may_have_another_world_size(before: int, after: int) -> None:
    whole = list(ManifestSampler(WEIGHTS, seed=2))
    samplers = _ranks(before)
    streams = [iter(s) for s in samplers]
    taken = [next(stream) for _ in range(6) for stream in streams]
    states = [s.state_dict() for s in samplers]
    assert all(s == states[0] for s in states)

    resumed = _ranks(after)
    for sampler in resumed:
        sampler.load_state_dict(states[0])
    shares = [list(s) for s in resumed]
    rest = [index for group in zip(*shares, strict=True) for index in group]
    assert taken + rest == whole[: len(taken) + len(rest)]
    assert 103 - len(taken) - len(rest) < after


def _ranks(world: int) -> list[ManifestSampler]:
    return [ManifestSampler(WEIGHTS, seed=2, rank=r, world_size=world) for r in range(world)]


def test_blocks_are_the_same_draw_and_count_in_the_state() -> None:
    sampler, other = ManifestSampler(WEIGHTS, seed=4), ManifestSampler(WEIGHTS, seed=4)
    blocks = sampler.blocks(20)
    first = next(blocks)
    assert sampler.state_dict()["position"] == 20
    assert np.concatenate([first, *blocks]).tolist() == list(other)
    assert sampler.state_dict(position=40)["position"] == 40


def test_each_pass_is_the_next_epoch_and_set_epoch_chooses_one() -> None:
    sampler = ManifestSampler(WEIGHTS, seed=6)
    passes = [list(sampler) for _ in range(3)]
    assert sampler.epoch == 2
    assert passes[0] != passes[1] != passes[2]
    sampler.set_epoch(1)
    assert list(sampler) == passes[1]
    stream = iter(sampler)
    next(stream)  # abandoned
    assert next(iter(sampler)) == ManifestSampler(WEIGHTS, seed=6).order(3).at(np.array([0]))[0]


def test_a_state_of_another_draw_is_refused_by_key() -> None:
    state = ManifestSampler(WEIGHTS, seed=1).state_dict()
    for other, key in (
        (ManifestSampler(WEIGHTS, seed=2), "seed: 1 -> 2"),
        (ManifestSampler(WEIGHTS * [2, *np.ones(102)], seed=1), "weights"),
        (ManifestSampler(WEIGHTS, seed=1, mode="iid"), "mode"),
        (ManifestSampler(WEIGHTS, 50, seed=1), "num_draws"),
    ):
        with pytest.raises(KdbiasError, match=key):
            other.load_state_dict(state)


def test_a_manifest_is_joined_by_id(tmp_path: Path) -> None:
    manifest = tmp_path / "w.parquet"
    write_manifest(manifest, pa.array(["c", "a", "d"]), None, {}, np.zeros(3), np.array([2.0, 1.0, 0.0]), {})
    sampler = ManifestSampler.from_manifest(manifest, ["a", "b", "c", "d"], seed=1)
    assert len(sampler) == 3
    draws = np.array([list(sampler) for _ in range(200)])
    assert (np.sum(draws == 2, axis=1) == 2).all()
    assert (np.sum(draws == 0, axis=1) == 1).all()
    with pytest.raises(KdbiasError, match="1 of the 3 ids"):
        ManifestSampler.from_manifest(manifest, ["a", "b", "c"])


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Series, pd.Index, pa.array, lambda v: np.array(v, object)]
)
def test_ids_come_in_any_sequence(tmp_path: Path, kind: Callable[[list[str]], Any]) -> None:
    ids = ["a", "b", "c"]
    manifest = tmp_path / "w.csv"
    manifest.write_text("sample_id,weight\nc,3\na,1\n")
    assert ManifestSampler.from_manifest(manifest, kind(ids)).weights.tolist() == [0.5, 0, 1.5]


@pytest.mark.parametrize("mode", ["systematic", "iid"])
@pytest.mark.parametrize("weight", [5e-324, 1e308])
def test_weights_whose_sums_leave_the_range_of_numbers_are_drawn(mode: str, weight: float) -> None:
    drawn = list(ManifestSampler(np.full(10, weight), seed=1, mode=mode))
    assert drawn == list(ManifestSampler(np.ones(10), seed=1, mode=mode))


def test_what_was_drawn_is_counted() -> None:
    uniform = ManifestSampler(np.ones(1000))
    assert uniform.drawn(0) == {"unique_fraction": 1.0, "ess_fraction": 1.0}
    assert uniform.drawn(0, 250) == {"unique_fraction": 0.25, "ess_fraction": 0.25}
    iid = ManifestSampler(np.ones(10_000), mode="iid").drawn(0)
    assert iid["unique_fraction"] == pytest.approx(1 - np.exp(-1), abs=0.02)
    assert iid["ess_fraction"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": [1.0, -1.0]}, "negative"),
        ({"weights": [1.0, float("nan")]}, "not finite"),
        ({"weights": [0.0, 0.0]}, "zero"),
        ({"weights": [1.0], "seed": -1}, "seed is -1, should be at least 0"),
        ({"weights": [1.0], "seed": True}, "seed is True, should be a whole number"),
        ({"weights": [1.0], "num_samples": True}, "num_samples is True, should be a whole number"),
        ({"weights": [1.0], "num_samples": 2.5}, "num_samples is 2.5, should be a whole number"),
        ({"weights": [1.0], "mode": "x"}, "mode 'x'"),
        ({"weights": [1.0], "rank": 1}, "both or neither"),
        ({"weights": [1.0, 1.0], "rank": 2, "world_size": 2}, "rank 2"),
        ({"weights": [1.0, 1.0], "rank": False, "world_size": 2}, "rank is False"),
        ({"weights": [1.0], "rank": 0, "world_size": 2}, "cannot be shared"),
    ],
)
def test_impossible_draws_are_refused(arguments: dict, words: str) -> None:
    arguments = {**arguments, "weights": np.array(arguments["weights"])}
    with pytest.raises(KdbiasError, match=words):
        ManifestSampler(**arguments)


def write_ids(tmp_path, ids):
    """A manifest of these ids with weights 1, 2, ..."""
    file = tmp_path / "w.csv"
    pd.DataFrame({"sample_id": ids, "weight": range(1, len(ids) + 1)}).to_csv(file, index=False)
    return file


@pytest.mark.parametrize(
    ("ids", "have"),
    [
        (["cat/1.jpg", "dog/1.jpg"], ["/d/pets/dog/1.jpg", "/d/pets/cat/1.jpg", "/d/pets/cat/2.jpg"]),
        (["cat/1.jpg", "dog/1.jpg"], ["./pets/dog/1.jpg", "./pets/cat/1.jpg", "./pets/cat/2.jpg"]),
        (["/d/pets/cat/1.jpg", "/d/pets/dog/1.jpg"], ["dog/1.jpg", "cat/1.jpg", "cat/2.jpg"]),
        (["1.jpg", "2.jpg"], ["/2.jpg", "/1.jpg", "/3.jpg"]),
        (["kätzchen/1.jpg", "ö.jpg"], ["/d/ü/ö.jpg", "/d/ü/kätzchen/1.jpg", "/d/ü/x"]),
        (["a", "b"], ["b", "a", "x/a"]),
    ],
)
def test_paths_are_matched_below_the_one_folder_that_fits(tmp_path, ids, have, capsys):
    sampler = ManifestSampler.from_manifest(write_ids(tmp_path, ids), have)
    assert sampler.weights.tolist() == pytest.approx([4 / 3, 2 / 3, 0])
    assert ("are compared without the folder" in capsys.readouterr().err) == (ids != ["a", "b"])


def test_a_folder_that_is_one_of_several_is_to_be_named(tmp_path):
    manifest = write_ids(tmp_path, ["cat/1.jpg"])
    have = ["/d/cat/1.jpg", "/d/copy/cat/1.jpg"]
    with pytest.raises(KdbiasError, match="below '/d' and '/d/copy', too: say which is meant with root="):
        ManifestSampler.from_manifest(manifest, have)
    for root, expected in {"/d": [1, 0], "/d/": [1, 0], "/d/copy": [0, 1]}.items():
        assert ManifestSampler.from_manifest(manifest, have, root=root).weights.tolist() == expected
    with pytest.raises(KdbiasError, match=r"hold a file 'cat/1.jpg': say with root="):
        ManifestSampler.from_manifest(manifest, [f"/{i}/cat/1.jpg" for i in range(20)])


def test_ids_that_do_not_match_are_shown_with_both_sides_and_the_likely_folder(tmp_path):
    manifest = write_ids(tmp_path, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"])
    have = ["/d/pets/cat/1.jpg", "/d/pets/dog/1.jpg"]
    told = "1 of the 3 ids.*'cat/2.jpg'.*like 'cat/1.jpg'; 2 are there: .* subset=True leaves"
    with pytest.raises(KdbiasError, match=told):
        ManifestSampler.from_manifest(manifest, have)
    with pytest.raises(KdbiasError, match=r"1 of the 3 ids.*the data set below /d/pets"):
        ManifestSampler.from_manifest(manifest, have, root="/d/pets")
    with pytest.raises(KdbiasError, match=r"3 of the 3 ids.*'cat/1.jpg', the data set's like 'x'; are they"):
        ManifestSampler.from_manifest(manifest, ["x", "y"])


def test_what_is_left_of_paths_may_not_repeat(tmp_path):
    with pytest.raises(KdbiasError, match="more than once"):
        ManifestSampler.from_manifest(write_ids(tmp_path, ["a"]), ["/d/a", "a"], root="/d")
