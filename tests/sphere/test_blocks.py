"""A pass in blocks gives what one pass gives, however large they are and whatever is done again."""

from pathlib import Path

import numpy as np
import pytest

from kdbias.engine.here import Here
from kdbias.sphere.all_pairs import AllPairs, all_pairs
from kdbias.sphere.blocks.plan import BlockPlan, planned_rows, unit_bytes
from kdbias.sphere.blocks.run import do_units, results
from kdbias.sphere.blocks.unit import PairJob
from tests import reference

TILE = 1024
BANDWIDTHS = (0.5, 4.0, 8.0)


def in_blocks(
    folder: Path, x: np.ndarray, p: np.ndarray, rows: int, k: int = 9, near: float | None = 0.9, **more
) -> AllPairs:
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "p.npy", p)
    given = {"bandwidths": BANDWIDTHS, **more}
    job = PairJob(folder, "key", "x.npy", "p.npy", len(x), rows, k=k, near=near, **given)
    seen: list[int] = []
    do_units(job, Here(), seen.append)
    assert sum(seen) == len(x) ** 2
    return results(job)


def assert_same(found: AllPairs, whole: AllPairs) -> None:
    np.testing.assert_array_equal(found.ids, whole.ids)
    np.testing.assert_array_equal(found.cosines, whole.cosines)
    np.testing.assert_array_equal(found.counts, whole.counts)
    np.testing.assert_allclose(found.without_self, whole.without_self, rtol=1e-12, atol=0)


def copies(n: int, seed: int = 0) -> np.ndarray:
    """Clusters, with exact copies far apart: equal cosines, which go by the smaller position."""
    x = reference.clustered_sphere(n, 24, 40, seed)
    rng = np.random.default_rng(seed)
    x[rng.permutation(n)[: n // 5]] = x[rng.permutation(n)[: n // 5]]
    return x


@pytest.mark.parametrize("n", [7 * TILE + 300, 1025, 700])
def test_blocks_of_any_size_give_the_same(tmp_path: Path, n: int) -> None:
    x, rng = copies(n), np.random.default_rng(1)
    p = np.stack([np.full(n, 1 / n), rng.dirichlet(np.full(n, 0.3))])
    whole = all_pairs(x, BANDWIDTHS, p, k=9, near=0.9)
    for tiles in (1, 2, 7):
        assert_same(in_blocks(tmp_path / str(tiles), x, p, tiles * TILE), whole)


def test_more_neighbours_than_a_block_has_rows(tmp_path: Path) -> None:
    x = copies(2 * TILE + 5)
    p = np.full((1, len(x)), 1 / len(x))
    whole = all_pairs(x, BANDWIDTHS, p, k=1500, near=-0.5)
    assert_same(in_blocks(tmp_path, x, p, TILE, k=1500, near=-0.5), whole)


def test_a_bandwidth_beyond_float32_and_any_number_of_threads(tmp_path: Path) -> None:
    x = copies(TILE + 500)
    p = np.full((1, len(x)), 1 / len(x))
    one, two = (all_pairs(x, (3.0, 50.0), p, k=9, tile=128, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.without_self, two.without_self)  # to the bit
    found = [in_blocks(tmp_path / str(t), x, p, TILE, threads=t, bandwidths=(3.0, 50.0)) for t in (1, 2)]
    np.testing.assert_array_equal(found[0].without_self, found[1].without_self)
    whole = all_pairs(x, (3.0, 50.0), p)
    np.testing.assert_allclose(found[0].without_self, whole.without_self, rtol=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 8, 9, 30])
def test_every_pair_of_blocks_comes_once_and_the_diagonal_first(blocks: int) -> None:
    plan = BlockPlan(1024 * blocks - 5, 1024)
    waves = [list(plan.wave(number)) for number in range(plan.waves)]
    units = [unit for wave in waves for unit in wave]
    assert sorted(units) == [(i, j) for i in range(blocks) for j in range(i, blocks)]
    assert (plan.blocks, plan.units, waves[0]) == (blocks, len(units), [(i, i) for i in range(blocks)])
    assert sum(plan.pairs(i, j) for i, j in units) == plan.n**2
    for number, wave in enumerate(waves):
        for block in range(blocks):
            others = [j if i == block else i for i, j in wave if block in (i, j)]
            assert plan.met(number, block) == sorted(others)


@pytest.mark.parametrize(
    ("n", "slots", "memory"), [(10**6, 1, 4 << 30), (10**8, 64, 4 << 30), (5000, 2, 10**8)]
)
def test_planned_blocks_fit_and_leave_every_slot_eight_units(n: int, slots: int, memory: int) -> None:
    def needed(rows: int) -> int:
        return unit_bytes(rows, 64, 1, 10, 1)

    rows = planned_rows(n, slots, needed, memory)
    plan = BlockPlan(n, rows)
    assert rows % 1024 == 0
    assert needed(rows) <= memory
    assert plan.units >= 8 * slots or rows == 1024
    larger = BlockPlan(n, rows + 1024)
    assert needed(rows + 1024) > memory or larger.units < 8 * slots + 40  # no smaller than need be
    assert planned_rows(n, slots, needed, 1 << 20) == 0


@pytest.mark.parametrize(("tiles", "k"), [(1, 9), (2, 9), (1, 400)])
def test_torch_tiles_give_the_same_in_blocks(tmp_path: Path, monkeypatch, tiles: int, k: int) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("kdbias.sphere.torch_pairs.TILE", 256)
    monkeypatch.setattr("kdbias.sphere.torch_pairs.fused", lambda device, precision: False)
    x = copies(3 * 256 + 100)
    p = np.stack([np.full(len(x), 1 / len(x)), np.random.default_rng(1).dirichlet(np.full(len(x), 0.3))])
    whole = all_pairs(x, BANDWIDTHS, p, k=k, near=0.9, device="cpu:0")
    assert_same(in_blocks(tmp_path, x, p, tiles * 256, k=k, device="cpu:0"), whole)


def test_fused_kernels_give_the_same_in_blocks(tmp_path: Path, monkeypatch, interpreted) -> None:
    """By Triton's interpreter, with blocks as small as it is slow; all else is a tile's side."""
    x = copies(300)
    p = np.full((1, len(x)), 1 / len(x))
    whole = interpreted(x, BANDWIDTHS, p, k=9, near=0.9, tile=128)
    monkeypatch.setattr("kdbias.sphere.triton_tiles.TILE", 128)
    assert_same(in_blocks(tmp_path, x, p, 128, device="cpu:0"), whole)


def test_without_neighbours_or_counts(tmp_path: Path) -> None:
    x = copies(2 * TILE + 5)
    p = np.full((1, len(x)), 1 / len(x))
    found = in_blocks(tmp_path, x, p, TILE, k=0, near=None)
    assert (found.ids, found.cosines, found.counts) == (None, None, None)
    np.testing.assert_allclose(found.without_self, all_pairs(x, BANDWIDTHS, p).without_self, rtol=1e-12)
