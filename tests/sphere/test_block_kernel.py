"""Products and kernel means in blocks against those of vectors in memory."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdbias.engine.here import Here
from kdbias.errors import KdbiasError, MachineError
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.equilibrium.block_jobs import ProductJob
from kdbias.sphere.equilibrium.block_kernel import BlockKernel, block_means, needed_by
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import NearKernel
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.tables.embedding_table import write_embedding_table
from tests import reference

ROWS = 1024


def ground_in(folder: Path, key: str = "key", asked: int | None = ROWS, memory: int = 1 << 30) -> BlockFolder:
    return BlockFolder(folder / "pairs", key, Here(), memory, 2, asked)


def kernel_of(
    ground: BlockFolder, x: np.ndarray, t=LADDER, codes=None, searched: bool = False
) -> BlockKernel:
    rows = ground.rows(len(x), needed_by(x.shape[1], 2, len(x), ground.memory))
    return BlockKernel(ground, ground.lay("vectors", x.shape, [(slice(None), x)]), t, rows, codes, searched)


@pytest.mark.parametrize("n", [900, 1024, 3 * 1024, 3 * 1024 + 1])
@pytest.mark.parametrize("coded", [False, True])
def test_products_are_those_of_vectors_in_memory(tmp_path, n, coded) -> None:
    x, rng = reference.clustered_sphere(n, 12, 9, seed=3), np.random.default_rng(0)
    codes = rng.integers(0, 3, n) if coded else None
    whole, blocks = (
        TiledKernel(x, LADDER, kept=None, codes=codes),
        kernel_of(ground_in(tmp_path), x, codes=codes),
    )
    p = rng.dirichlet(np.ones(n), size=2).T
    assert blocks.row_sums == pytest.approx(whole.row_sums, rel=1e-12)
    assert blocks.apply(p, exact=True) == pytest.approx(whole.apply(p, exact=True), rel=1e-12)
    assert blocks.apply(p[:, 0]) == pytest.approx(whole.apply(p[:, 0]), rel=1e-6)


@pytest.mark.parametrize("d", [12, 140])  # moments in all directions, and in the leading ones
def test_the_stand_in_and_the_equilibrium_are_those_of_vectors_in_memory(tmp_path, d) -> None:
    n = 2300
    x = reference.clustered_sphere(n, d, 9, seed=3)
    memory = 24 * n * 20  # twenty near pairs a sample
    whole = TiledKernel(x, LADDER, kept=None, memory=memory)
    blocks = kernel_of(ground_in(tmp_path), x, searched=True)
    blocks.memory = memory
    p = np.random.default_rng(0).dirichlet(np.ones(n))
    stand_in = NearKernel(whole, memory)
    assert blocks.row_sums == pytest.approx(whole.row_sums, rel=1e-12)
    assert blocks.stand_in is not None
    assert blocks.stand_in.description == stand_in.description
    assert blocks.stand_in.apply(p) == pytest.approx(stand_in.apply(p), rel=1e-6)
    found, expected = solve(blocks, min_ess=0.5), solve(whole, min_ess=0.5)
    assert found.certified
    assert found.products <= 10
    assert abs(found.energy - expected.energy) <= max(found.gap, expected.gap)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch) -> None:
    x = reference.clustered_sphere(2300, 12, 9, seed=3)
    first = solve(kernel_of(ground_in(tmp_path), x, searched=True), min_ess=0.5)
    monkeypatch.setattr(ProductJob, "see", lambda *unit: pytest.fail("done again"))
    monkeypatch.setattr(
        "kdbias.sphere.equilibrium.refinement.descend", lambda *step: pytest.fail("done again")
    )
    again = solve(kernel_of(ground_in(tmp_path), x, searched=True), min_ess=0.5)
    assert np.array_equal(again.p, first.p)
    assert (again.products, again.iterations) == (first.products, first.iterations)
    with pytest.raises(pytest.fail.Exception, match="done again"):  # of something else nothing is taken
        solve(kernel_of(ground_in(tmp_path, key="other"), x, searched=True), min_ess=0.5)


def test_a_damaged_file_is_made_anew(tmp_path) -> None:
    x = reference.clustered_sphere(2300, 12, 9, seed=3)
    kernel = kernel_of(ground_in(tmp_path), x)
    job = kernel._job("ones")
    assert list(job.do([(0, 1)])) == [2 * ROWS * ROWS]
    job.part((0, 1)).write_bytes(job.part((0, 1)).read_bytes()[:-40])
    with pytest.raises(MachineError, match="is gone or damaged; run the same command again"):
        kernel.row_sums  # noqa: B018
    assert kernel.row_sums == pytest.approx(TiledKernel(x, LADDER).row_sums, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(3000, 2100), (300, 20_000)])
@pytest.mark.parametrize("several", [False, True])
def test_kernel_means_in_blocks_are_those_at_once(tmp_path, n, m, several) -> None:
    x, y = (reference.clustered_sphere(rows, 12, 9, seed=rows) for rows in (n, m))
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(2), size=m) / m if several else rng.dirichlet(np.ones(m))
    codes = rng.integers(0, 3, n), rng.integers(0, 3, m)
    means = block_means(ground_in(tmp_path), ROWS)
    assert means(x, y, q, LADDER) == pytest.approx(kernel_means(x, y, q, LADDER), rel=1e-12)
    found = means(x, y, q, 2.0, codes=codes)
    assert found == pytest.approx(kernel_means(x, y, q, 2.0, codes=codes), rel=1e-12)


def test_tables_that_do_not_fit_are_mapped(tmp_path) -> None:
    x = reference.clustered_sphere(300, 12, 9, seed=3)
    table = write_embedding_table(
        tmp_path / "emb", pa.array([f"s{i}" for i in range(300)]), x, rows_per_part=70
    )
    small, large = (ground_in(tmp_path, memory=memory).held(table) for memory in (1000, 1 << 20))
    assert isinstance(small, np.memmap)
    assert not isinstance(large, np.memmap)
    assert np.array_equal(small, large)


def test_two_processes_do_not_work_in_one_folder(tmp_path) -> None:
    x = reference.clustered_sphere(300, 12, 9, seed=3)
    ground = ground_in(tmp_path)
    kernel_of(ground, x)
    if not os.fork():
        try:
            kernel_of(ground_in(tmp_path, key="other"), x)
        except KdbiasError as error:
            os._exit(7 if "in use by another kdbias process" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
    assert (ground.folder / "vectors.npy").exists()
    ground.clean()
    assert not ground.folder.exists()
