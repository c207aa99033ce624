"""A table in parts: read as one, listed, and refused where it is not what was written."""

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables import files, listing, parted_table
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.listing import LISTING, ListedPart, cut_of, part_name, read_listing, write_listing
from kdbias.tables.parted_table import PartedTable, read_columns, read_ids, write_rows
from kdbias.tables.run_files import claim
from kdbias.tables.run_record import Run, Stage
from kdbias.tables.weight_manifest import mean_one, read_manifest, write_manifest

IDS = pa.array([f"s{i}" for i in range(23)], pa.large_string())
VALUES = np.arange(23) / 7


def rows(start: int, stop: int) -> pa.Table:
    ids = IDS.slice(start, stop - start)
    return pa.table(
        {"sample_id": ids, "value": pa.array(VALUES[start:stop]), "later": pa.nulls(stop - start)}
    )


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of more than 10 rows go into parts."""
    monkeypatch.setattr(listing, "FILE_ROWS", 10)


@pytest.fixture
def folder(tmp_path: Path, low: None) -> Path:
    return write_rows(tmp_path / "t.parquet", tmp_path / "t", cut_of(23, 10), rows, {"stage": "test"})


def test_up_to_a_limit_it_is_one_file(tmp_path: Path, folder: Path) -> None:
    path = write_rows(tmp_path / "s.parquet", tmp_path / "s", cut_of(9), rows, {"stage": "test"}, group=4)
    assert path == tmp_path / "s.parquet"
    assert read_columns(path, ["value"]).column(0).to_pylist() == VALUES[:9].tolist()
    assert pq.read_metadata(path).num_row_groups == 3
    assert folder == tmp_path / "t"
    assert sorted(os.listdir(folder)) == [LISTING, *map(part_name, range(3))]


def test_parts_are_one_table_to_pandas_and_here(folder: Path) -> None:
    whole = rows(0, 23).to_pandas()
    frame = pd.read_parquet(folder)
    pd.testing.assert_frame_equal(frame, whole)
    assert frame.attrs["kdbias"]["stage"] == "test"
    table = PartedTable.open(folder)
    pd.testing.assert_frame_equal(table.to_pandas(), whole)
    assert table.slice(8, 4).column("value").to_pylist() == VALUES[8:12].tolist()
    assert table.take(pa.array([0, 10, 22])).column("sample_id").to_pylist() == ["s0", "s10", "s22"]
    assert read_ids(folder).array().equals(IDS)


def test_the_listing_says_what_each_part_is(folder: Path) -> None:
    listed = pq.read_table(folder / LISTING)
    assert listed["name"].to_pylist() == [part_name(i) for i in range(3)]
    assert listed["rows"].to_pylist() == [10, 10, 3]
    assert listed["first_row"].to_pylist() == [0, 10, 20]
    assert len({*listed["content"].to_pylist(), *listed["ids"].to_pylist()}) == 6
    table = PartedTable.open(folder)
    (folder / LISTING).unlink()
    unlisted = PartedTable.open(folder)
    assert (table.listed, unlisted.listed) == (True, False)
    assert unlisted.parts == table.parts
    assert unlisted.fingerprint() == table.fingerprint()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: (f / part_name(1)).unlink(), "part-00001.parquet is missing"),
        (lambda f: pq.write_table(rows(0, 3), f / part_name(3)), "is not among those that"),
        (lambda f: pq.write_table(rows(10, 20), f / part_name(1)), "part-00001.parquet was changed since"),
        (
            lambda f: (f / part_name(0)).write_bytes((f / part_name(1)).read_bytes()),
            "part-00000.parquet was changed since",
        ),
    ],
)
def test_other_parts_than_are_listed_are_refused(
    folder: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(folder)
    with pytest.raises(KdbiasError, match=why):
        PartedTable.open(folder).to_pandas()


def test_an_edited_part_counts_once_the_listing_is_gone(tmp_path: Path, low: None) -> None:
    path = tmp_path / "w.parquet"
    write_manifest(path, IDS, None, {}, np.zeros(23), np.ones(23), {"stage": "weights"}, cut_of(23, 10))
    before = read_manifest(path)
    frame = pd.read_parquet(path / part_name(1))
    frame.loc[frame.sample_id == "s13", "weight"] = 0.0
    frame.to_parquet(path / part_name(1), index=False)
    with pytest.raises(KdbiasError, match="to take the folder as it is"):
        read_manifest(path)
    (path / LISTING).unlink()
    edited = read_manifest(path)
    assert np.flatnonzero(edited.weights == 0).tolist() == [13]
    assert edited.fingerprint != before.fingerprint


def test_repeats_across_parts_are_found(tmp_path: Path, low: None) -> None:
    for i, ids in enumerate((["a", "b"], ["c", "a"])):
        pq.write_table(pa.table({"sample_id": ids, "weight": [1.0, 2.0]}), tmp_path / f"part-{i}.parquet")
    with pytest.raises(KdbiasError, match="1 sample_id value occurs more than once"):
        read_manifest(tmp_path)


def write(path: Path, weights: np.ndarray) -> None:
    write_manifest(path, IDS, None, {}, np.zeros(23), weights, {"stage": "weights"}, cut_of(23, 10))


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("before", [False, True])
def test_what_is_interrupted_is_never_half_of_it(
    tmp_path: Path, low: None, monkeypatch: pytest.MonkeyPatch, written: int, before: bool
) -> None:
    """Before the listing or any part: what was there stays; where nothing was, too few parts say so."""
    path = tmp_path / "w.parquet"
    if before:
        write(path, np.ones(23))
    real, calls = parted_table.parquet_writer, iter(range(9))

    def killed(*arguments: object, **more: object) -> object:
        if next(calls) == written:
            raise KeyboardInterrupt
        return real(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(parted_table, "parquet_writer", killed)
        if written == 3:
            patch.setattr(parted_table, "write_listing", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, np.arange(23.0))
    if before:
        assert read_manifest(path).weights.tolist() == [1.0] * 23
    elif written < 3:  # with all parts it is as good as listed
        with pytest.raises(KdbiasError, match=f"holds {written} of the 3 parts" if written else "is a fold"):
            read_manifest(path)
    write(path, np.arange(23.0))
    assert read_manifest(path).weights[0] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.parquet"]


def test_kills_leave_the_old_manifest_or_the_new_one(tmp_path: Path, low: None) -> None:
    """Of processes that write one over another's, while it is read, too."""
    path, rng, deaths = tmp_path / "w", random.Random(0), 0
    both = [mean_one(np.arange(23.0) % m + 1).round(9).tolist() for m in (2, 3)]
    write(path, np.arange(23.0) % 2 + 1)
    while deaths < 30:
        child = os.fork()
        if not child:
            try:
                for m in itertools.cycle((2, 3)):
                    write(claim(path), np.arange(23.0) % m + 1)
            finally:
                os._exit(1)
        for _ in range(2):
            with contextlib.suppress(KdbiasError):  # "was changed while it was read"
                assert read_manifest(path).weights.round(9).tolist() in both
            time.sleep(0.03 * rng.random())
        os.kill(child, signal.SIGKILL)
        deaths += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert read_manifest(path).weights.round(9).tolist() in both
        assert PartedTable.open(path).listed
    write(claim(path), np.arange(23.0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["w"]


def test_where_folders_cannot_change_places_at_once(
    tmp_path: Path, low: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two renames, the next command finds what was there before."""
    path, real = tmp_path / "w", os.rename
    write(path, np.ones(23))
    monkeypatch.setattr(files.ctypes, "CDLL", lambda name: None)
    write(path, np.arange(23.0) + 1)
    assert read_manifest(path).weights[0] == pytest.approx(1 / 12)

    def killed(old: Path, new: Path) -> None:
        if new == path:
            raise KeyboardInterrupt
        real(old, new)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, np.ones(23))
    assert not path.exists()
    monkeypatch.setattr(os, "rename", real)
    assert read_manifest(claim(path)).weights[0] == pytest.approx(1 / 12)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w"]


def test_a_table_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path, low: None) -> None:
    write(tmp_path / "w", np.ones(23))
    table = PartedTable.open(tmp_path / "w")
    write(tmp_path / "w", np.arange(23.0))
    with pytest.raises(KdbiasError, match="w was changed while it was read; run the command again"):
        table.read(0)


def test_a_run_puts_folders_of_parts_in_place(tmp_path: Path, low: None) -> None:
    """Also over those of before, and when it was killed between two of them."""
    stage = Stage("test", files=("a.parquet", "a", "b.parquet", "b"))
    for value in (1.0, 2.0):
        with Run.open(tmp_path / "out", stage, {}, {}) as run:
            staged = run.stage()
            for name in "ab":

                def make(start: int, stop: int, value: float = value) -> pa.Table:
                    return rows(start, stop).set_column(1, "value", pa.array([value] * (stop - start)))

                write_rows(staged / f"{name}.parquet", staged / name, cut_of(23, 10), make, {"stage": "test"})
            run.finish({}, 0.0)
        for name in "ab":
            assert set(read_columns(run.out / name, ["value"]).column(0).to_pylist()) == {value}
    assert run.record["files"] == ["a", "b"]
    (run.out / "b" / part_name(2)).unlink()
    with pytest.raises(KdbiasError, match="b is missing or damaged"):
        Run.open(tmp_path / "out", stage, {}, {})


def test_many_parts_open_by_their_listing(tmp_path: Path) -> None:
    """10^4 parts: neither opened nor read, but for the first."""
    table = write_embedding_table(tmp_path / "emb", IDS, np.eye(23, 4) + 1.0, rows_per_part=23)
    known, count = table.stored.parts[0], 10_000
    for i in range(1, count):
        os.link(table.parts[0], tmp_path / "emb" / part_name(i))
    parts = [ListedPart(part_name(i), 23, known.content, f"{i}", known.seal) for i in range(count)]
    write_listing(tmp_path / "emb", parts, {"stage": "embed"})
    began = time.process_time()
    opened = PartedTable.open(tmp_path / "emb")
    assert time.process_time() - began < 1.0
    assert opened.num_rows == 23 * count
    assert opened.ids().slice(23 * 9_999, 23).equals(IDS)


def test_an_embedding_table_of_many_parts_is_listed(tmp_path: Path, low: None) -> None:
    x = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    table = write_embedding_table(tmp_path / "emb", IDS, x, rows_per_part=8)
    assert table.stored.listed
    assert table.id_parts().unique
    listed = read_listing(tmp_path / "emb")
    (tmp_path / "emb" / LISTING).unlink()
    unlisted = EmbeddingTable.open(tmp_path / "emb")
    assert not unlisted.stored.listed
    assert list(unlisted.stored.parts) == listed
    np.testing.assert_array_equal(unlisted.vectors(), table.vectors())
    assert unlisted.fingerprint == table.fingerprint


def test_the_listing_of_another_table_does_not_count(tmp_path: Path, low: None) -> None:
    for seed, name in enumerate(("one", "two")):
        x = np.random.default_rng(seed).normal(size=(23, 4)).astype(np.float32)
        write_embedding_table(tmp_path / name, IDS, x, rows_per_part=8)
    (tmp_path / "one" / LISTING).write_bytes((tmp_path / "two" / LISTING).read_bytes())
    assert not EmbeddingTable.open(tmp_path / "one").stored.listed
