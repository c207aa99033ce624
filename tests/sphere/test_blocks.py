"""A pass in blocks gives what one pass gives, however large they are and whatever is done again."""

from pathlib import Path

import numpy as np
import pytest

from kdbias.engine.here import Here
from kdbias.sphere.all_pairs import AllPairs, all_pairs
from kdbias.sphere.blocks.run import do_units, results
from kdbias.sphere.blocks.unit import PairJob
from tests import reference

TILE = 1024
BANDWIDTHS = (0.5, 4.0, 8.0, 50.0)


def in_blocks(
    folder: Path, x: np.ndarray, p: np.ndarray, rows: int, k: int = 9, near: float | None = 0.9, **more
) -> AllPairs:
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "p.npy", p)
    job = PairJob(folder, "key", "x.npy", "p.npy", len(x), rows, BANDWIDTHS, k, near, **more)
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


@pytest.mark.parametrize("n", [9 * TILE + 300, 7 * TILE, 1025, 700])
def test_blocks_of_any_size_give_the_same(tmp_path: Path, n: int) -> None:
    x, rng = copies(n), np.random.default_rng(1)
    p = np.stack([np.full(n, 1 / n), rng.dirichlet(np.full(n, 0.3))])
    whole = all_pairs(x, BANDWIDTHS, p, k=9, near=0.9)
    for tiles in (1, 2, 7):
        assert_same(in_blocks(tmp_path / str(tiles), x, p, tiles * TILE), whole)


def test_more_neighbours_than_a_block_has_rows(tmp_path: Path) -> None:
    x = copies(3 * TILE + 5)
    p = np.full((1, len(x)), 1 / len(x))
    whole = all_pairs(x, BANDWIDTHS, p, k=1500, near=-0.5)
    assert_same(in_blocks(tmp_path, x, p, TILE, k=1500, near=-0.5), whole)


def test_without_neighbours_or_counts(tmp_path: Path) -> None:
    x = copies(2 * TILE + 5)
    p = np.full((1, len(x)), 1 / len(x))
    found = in_blocks(tmp_path, x, p, TILE, k=0, near=None)
    assert (found.ids, found.cosines, found.counts) == (None, None, None)
    np.testing.assert_allclose(found.without_self, all_pairs(x, BANDWIDTHS, p).without_self, rtol=1e-12)
