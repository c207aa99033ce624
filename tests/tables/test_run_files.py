"""What a run may replace in its folder: its own files, and nobody else's."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kdbias
from kdbias.errors import KdbiasError, MachineError
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_record import Run
from tests.stages import EMBED, EVALUATE, TRAIN, UNIFORMITY


def test_a_finished_run_that_lost_a_file_is_never_called_finished(tmp_path):
    run = Run.open(tmp_path / "d", UNIFORMITY, {}, {})
    table = pa.table({"sample_id": ["a"]})
    for name in ("density.parquet", "schemes.parquet"):
        write_table(run.out / name, table, {"stage": "uniformity"})
    write_json(run.out / "uniformity.json", {"n": 1})
    run.finish({}, 0.0)
    assert Run.open(tmp_path / "d", UNIFORMITY, {}, {}).state == "finished"
    whole = {path.name: path.read_bytes() for path in run.out.iterdir() if path.is_file()}
    for name in ("density.parquet", "schemes.parquet", "uniformity.json"):
        for damage in (None, b"", whole[name][:-9]):
            (run.out / name).unlink()
            if damage is not None:
                (run.out / name).write_bytes(damage)
            with pytest.raises(KdbiasError, match=rf"d/{name} is missing or damaged; .* --overwrite"):
                Run.open(tmp_path / "d", UNIFORMITY, {}, {})
            (run.out / name).write_bytes(whole[name])
    assert Run.open(tmp_path / "d", UNIFORMITY, {}, {}).state == "finished"


def test_starting_over_keeps_a_table_that_somebody_put_in_its_place(tmp_path):
    run = Run.open(tmp_path / "d", UNIFORMITY, {}, {})
    run.finish({}, 0.0)
    theirs = run.out / "neighbors.parquet"
    for doc in (None, {"stage": "weights"}):
        pq.write_table(pa.table({"x": [1]}), theirs) if doc is None else write_table(
            theirs, pa.table({"x": [1]}), doc
        )
        before = theirs.read_bytes()
        with pytest.raises(KdbiasError, match=r"neighbors\.parquet was not written by kdbias uniformity"):
            Run.open(tmp_path / "d", UNIFORMITY, {}, {}, overwrite=True)
        assert theirs.read_bytes() == before
    assert read_json(run.out / "run.json")["status"] == "finished"


def test_starting_over_never_replaces_what_it_is_to_read(tmp_path):
    run = Run.open(tmp_path / "d", EVALUATE, {}, {})
    (run.out / "embeddings").mkdir()
    (run.out / "embeddings" / "part-00000.parquet").write_text("vectors")
    run.finish({}, 0.0)
    reads = [None, tmp_path / "elsewhere", run.out / "embeddings" / "part-00000.parquet"]
    with pytest.raises(KdbiasError, match="embeddings is an input and would be replaced"):
        Run.open(tmp_path / "d", EVALUATE, {"k": 2}, {}, overwrite=True, reads=reads)
    assert (run.out / "embeddings" / "part-00000.parquet").read_text() == "vectors"
    assert Run.open(tmp_path / "d", EVALUATE, {"k": 2}, {}, overwrite=True, reads=reads[:2]).state == "new"


def test_a_staged_file_replaces_only_what_the_run_wrote(tmp_path):
    run = Run.open(tmp_path / "d", EVALUATE, {}, {})
    (run.out / "roc.png").write_text("mine")
    (run.stage() / "roc.png").write_text("a plot")
    with pytest.raises(KdbiasError, match=r"roc\.png was not written by kdbias evaluate"):
        run.finish({}, 0.0, plots=["roc.png"])
    assert (run.out / "roc.png").read_text() == "mine"
    (run.out / "roc.png").unlink()
    for _ in range(2):  # the second time it is the run's own
        run = Run.open(tmp_path / "d", EVALUATE, {}, {}, overwrite=True)
        (run.stage() / "roc.png").write_text("a plot")
        run.finish({}, 0.0, plots=["roc.png"])
    assert (run.out / "roc.png").read_text() == "a plot"


def test_a_folder_that_vanished_is_never_finished(tmp_path):
    run = Run.open(tmp_path / "d", TRAIN, {}, {})
    shutil.rmtree(run.out)
    with pytest.raises(MachineError, match="d was removed or emptied while kdbias train ran"):
        run.finish({}, 0.0)
    run.forget()
    assert not run.out.exists()


@pytest.mark.parametrize("out", ["http://h/e", "https://h/e"])
def test_the_web_is_no_folder(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for given in (out, Path(out)):
        with pytest.raises(KdbiasError, match=f"{out} cannot be written to; give a local path"):
            Run.open(given, EMBED, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_uri_is_a_local_path(tmp_path):
    assert Run.open(f"{tmp_path.as_uri()}/a%20b", EMBED, {}, {}).out == tmp_path / "a b"


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (EMBED, "parts"),
        (TRAIN, "staged"),
        (TRAIN, ".replaced"),
        (TRAIN, "tensorboard"),
        (EVALUATE, "embeddings"),
    ],
)
def test_no_link_is_followed_below_the_folder(tmp_path, stage, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    # A folder that the user names may be one.
    assert Run.open(tmp_path / "link", stage, {}, {}).state == "new"
    (tmp_path / "real" / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(KdbiasError, match=f"{name} is a link"):
        Run.open(tmp_path / "real", stage, {}, {}, overwrite=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KdbiasError, match="dangling is a link to nothing"):
        Run.open(tmp_path / "dangling", stage, {}, {})


def test_plots_that_a_record_lists_elsewhere_are_nobody_s_to_remove(tmp_path):
    theirs = tmp_path / "theirs.png"
    theirs.write_bytes(b"precious")
    run = Run.open(tmp_path / "d", EVALUATE, {}, {})
    (run.out / "mine.png").write_bytes(b"mine")
    run.finish({}, 0.0, plots=["mine.png", "../theirs.png"])
    Run.open(tmp_path / "d", EVALUATE, {"other": 1}, {}, overwrite=True).finish({}, 0.0)
    assert theirs.read_bytes() == b"precious"
    assert not (tmp_path / "d" / "mine.png").exists()


def test_a_folder_around_the_wanted_one_names_it(tmp_path):
    rows = np.eye(4, dtype=np.float32)
    emb = write_embedding_table(tmp_path / "out" / "embeddings", list("abcd"), rows).path
    kdbias.uniformity(emb, tmp_path / "out" / "density", k=2)
    with pytest.raises(KdbiasError, match=r"holds no embedding table .*; .*embeddings is one$"):
        kdbias.uniformity(tmp_path / "out", tmp_path / "d")
    with pytest.raises(KdbiasError, match=r"holds no density.parquet; .*density is one$"):
        kdbias.weights(tmp_path / "out", tmp_path / "w.parquet")
