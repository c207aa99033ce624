"""A measurement in blocks: the numbers of one pass, whatever kills it, and whoever does its units."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement import blocks
from kdbias.measurement.files import read_neighbors
from kdbias.measurement.stage import UniformityResult, uniformity
from kdbias.tables.density_table import read_density
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from tests import reference
from tests.forks import killed_and_helped

OPTIONS = {"k": 9, "t": "2,8", "rectification": "none", "threads": 2, "keep_neighbors": True}
ROWS = {"block_rows": 1024}
TIMES = ("seconds", "started", "finished", "digest")


def table_of(folder: Path, n: int, d: int = 12) -> EmbeddingTable:
    x = reference.clustered_sphere(n, d, 30, seed=3)
    x[7::97] = x[5]  # copies in every block
    ids, labels = (pa.array([f"{name}{i % m}" for i in range(n)]) for name, m in (("s", n), ("l", 20)))
    return write_embedding_table(folder, ids, x, labels, {"camera": labels}, rows_per_part=1300)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    return table_of(tmp_path_factory.mktemp("table") / "emb", 4500)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """What the data may be compared with."""
    return table_of(tmp_path_factory.mktemp("other") / "reference", 1500)


def measure(table: EmbeddingTable, out: Path, **more) -> UniformityResult:
    with progress.quiet():
        return uniformity(table.path, out, **{**OPTIONS, **more})


def contents(out: Path) -> dict[str, object]:
    """What each file says, but times."""
    found: dict[str, object] = {}
    for file in sorted(out.iterdir()):
        if file.suffix == ".parquet":
            read = pq.read_table(file)
            found[file.name] = [(name, read.column(name).to_pylist()) for name in read.column_names]
        elif file.suffix == ".json":
            document = json.loads(file.read_text())
            found[file.name] = repr({key: document[key] for key in document if key not in TIMES})
        else:
            found[file.name] = None
    return found


def assert_close(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(found, list)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-13)
    else:
        assert found == expected


def test_blocks_give_what_one_pass_gives(table, tmp_path) -> None:
    whole, blocks = measure(table, tmp_path / "whole"), measure(table, tmp_path / "b", block_rows=1024)
    assert sorted(file.name for file in blocks.out.iterdir()) == sorted(f.name for f in whole.out.iterdir())
    assert_close(blocks.document, whole.document)
    for found, expected in zip(read_neighbors(blocks.out), read_neighbors(whole.out), strict=True):
        assert np.array_equal(found, expected)
    found, expected = (pq.read_table(r.out / "density.parquet").to_pydict() for r in (blocks, whole))
    assert_close(found, expected)
    (blocks.out / "pairs").mkdir()  # as of a kill right after the end
    # How is not what: either folder goes on by the other way.
    assert measure(table, blocks.out).state == "finished"
    assert measure(table, whole.out, block_rows=2048).state == "finished"
    assert not (blocks.out / "pairs").exists()


@pytest.mark.parametrize("column", [None, "camera"])
def test_a_target_is_compared_in_blocks_as_by_one_process(
    table, other, tmp_path, monkeypatch, column
) -> None:
    monkeypatch.setattr("kdbias.sphere.equilibrium.block_kernel._DIRECTLY", 1 << 20)
    towards = {"towards": other.path, "with_column": column}
    whole = measure(table, tmp_path / "whole", **towards)
    assert_close(measure(table, tmp_path / "b", block_rows=1024, **towards).document, whole.document)
    later = measure(table, tmp_path / "later")
    found = measure(table, later.out, block_rows=2048, **towards)
    assert_close(found.document["target"], whole.document["target"])


def test_what_one_pass_cannot_hold_is_done_in_blocks(tmp_path, capsys) -> None:
    table = table_of(tmp_path / "emb", 15_500, 6)
    options = OPTIONS | {"k": 64, "t": "4", "threads": 1, "keep_neighbors": False}
    whole = uniformity(table.path, tmp_path / "whole", **options)
    assert "blocks" not in capsys.readouterr().err
    found = uniformity(table.path, tmp_path / "blocks", memory="28MB", **options)
    assert "136 units in 5 waves: 16 blocks of 1,024 samples" in capsys.readouterr().err
    assert_close(found.document, whole.document)


def test_too_little_memory_for_any_block_is_refused_with_the_number(table, tmp_path) -> None:
    with pytest.raises(KdbiasError, match=r"two blocks of 1,024 samples with k=9 need .* GiB"):
        measure(table, tmp_path / "out", memory="5MB", block_rows=1024)
    with pytest.raises(KdbiasError, match="--block-rows 1000 is no multiple of 1024"):
        measure(table, tmp_path / "out", block_rows=1000)


@pytest.mark.parametrize(
    "towards", [{}, {"towards": "reference"}, {"towards": "reference", "with_column": "camera"}]
)
def test_kills_and_a_second_process_change_nothing(table, other, tmp_path, towards) -> None:
    more = towards | ({"towards": str(other.path)} if towards else {})
    killed_and_helped(
        "kdbias.measurement.stage", "uniformity", table.path, tmp_path, OPTIONS | {"threads": 1} | more
    )
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "killed") == whole
    assert contents(tmp_path / "ranks") == whole


def test_a_damaged_partial_file_is_made_again(table, tmp_path, monkeypatch) -> None:
    measure(table, tmp_path / "whole", block_rows=1024)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("kdbias.measurement.blocks.results", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measure(table, out, block_rows=1024)
    with pytest.raises(KdbiasError, match=r"begun with --block-rows 1024, not 2048"):
        measure(table, out, block_rows=2048)
    states = sorted((out / "pairs").glob("*-*-0.npz"))
    assert len(states) == 1
    data = bytearray(states[0].read_bytes())
    data[len(data) // 2] ^= 1
    states[0].write_bytes(bytes(data))
    with pytest.raises(KdbiasError, match="lost a file of the pass, or holds a damaged one"):
        measure(table, out)
    measure(table, out, block_rows=1024)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_plan_does_nothing(table, tmp_path) -> None:
    plan = measure(table, tmp_path / "out", plan=True, block_rows=1024)
    assert plan.state == "planned"
    assert (plan.document["blocks"], plan.document["units"], plan.document["waves"]) == (5, 15, 4)
    assert "4,500 samples in 5 blocks of 1,024 -> 15 units in 4 waves" in " ".join(plan.summary().split())
    one = measure(table, tmp_path / "out", plan=True)
    assert (one.document["blocks"], one.document["bytes_temporary"]) == (1, 0)
    assert not (tmp_path / "out").exists()


def test_an_estimate_in_blocks_is_that_of_one_process(table, other, tmp_path) -> None:
    options = {"search": "ivf", "towards": other.path}
    whole, blocks = (
        measure(table, tmp_path / name, **options, **how) for name, how in (("w", {}), ("b", ROWS))
    )
    assert not (blocks.out / "pairs").exists()
    one, two = (result.document["search"] for result in (whole, blocks))
    assert (two["recall"], two["pairs_share"], two["cells"]) == (
        one["recall"],
        one["pairs_share"],
        one["cells"],
    )
    found, expected = (read_density(result.out) for result in (blocks, whole))
    for name in ("log_density", "near_duplicates", "knn_distance"):
        assert found.numbers(name) == pytest.approx(expected.numbers(name), rel=1e-4), name
    assert np.array_equal(read_neighbors(blocks.out)[1], read_neighbors(whole.out)[1])
    energies = [result.document["schemes"][0]["bandwidths"][0]["energy"] for result in (whole, blocks)]
    assert energies[1] == pytest.approx(energies[0], rel=1e-5)


def test_kills_and_a_second_process_change_no_estimate(table, tmp_path) -> None:
    options = OPTIONS | {"threads": 1, "search": "ivf"}
    killed_and_helped("kdbias.measurement.stage", "uniformity", table.path, tmp_path, options, most=12)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "killed") == whole
    assert contents(tmp_path / "ranks") == whole


def test_a_long_estimate_is_done_in_units_of_bounded_work(table, tmp_path, monkeypatch) -> None:
    plan = {"search": "ivf", "plan": True}
    short = measure(table, tmp_path / "out", **plan).document
    assert short["units"] == 1
    monkeypatch.setattr(blocks, "_UNIT_PAIRS", 10**6)
    monkeypatch.setattr(blocks, "wave_rows", lambda n, tile: 512)  # that one thread does at a time
    for threads, expected in ((1, (512, 9)), (2, (1024, 5))):
        long = measure(table, tmp_path / "out", **plan, threads=threads).document
        assert (long["block_rows"], long["units"]) == expected
