"""Files in a store: brought here, put there whole, moved and removed as here."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from kdbias import scratch
from kdbias.errors import KdbiasError, MachineError
from kdbias.tables import mirrors, scratch_folder
from kdbias.tables.documents import parse_json, read_json, write_json
from kdbias.tables.files import atomic_path, move, remove, remove_tree
from kdbias.tables.folder_lock import LOCK
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import read_table, write_table
from kdbias.tables.run_files import REPLACED
from kdbias.tables.run_record import Run
from tests.stages import EMBED


@pytest.mark.parametrize(
    "uri", ["s3://b/a/x.csv", "s3://b", "gs://b/a b/ü", "s3://b/x?endpoint_override=h:1&scheme=http"]
)
def test_a_place_has_one_mirror_and_is_known_by_its_uri(monkeypatch, tmp_path, uri):
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "s"))
    mirror = scratch.mirror_of(uri)
    assert scratch.uri_of(mirror) == (uri if uri != "s3://b" else "s3://b/")
    assert scratch.name_of(mirror) == scratch.uri_of(mirror)
    assert scratch.store_uri(Path(uri)) == uri  # which has lost a slash
    shown = uri.partition("?")[0]
    assert scratch.named(f"{mirror}: no such file ('{mirror}')") == f"{shown}: no such file ('{shown}')"
    assert scratch.recorded({"a": [str(mirror / "y"), 1]})["a"][0].startswith(shown)
    assert scratch.uri_of(tmp_path / "s") is scratch.uri_of(tmp_path / "else" / "where") is None


@pytest.mark.parametrize(
    "path", ["a/b", "/a/b", "C:/a", "C:\\a", "file:///a/b", "https://h/x", "torchvision:resnet50"]
)
def test_other_paths_are_no_places_in_stores(path):
    assert scratch.store_uri(path) is None


def test_what_is_written_is_there_whole_and_what_is_removed_is_gone(bucket):
    home = local_path(bucket.uri("a/out"))
    write_json(home / "one.json", {"n": 1})
    with atomic_path(home / "sub" / "big.bin") as temporary:
        temporary.write_bytes(b"x" * (11 << 20))  # in two pieces
        assert bucket.names() == ["a/out/one.json"]
    assert bucket.names("a/out") == ["one.json", "sub/big.bin"]
    assert bucket.read("a/out/sub/big.bin") == b"x" * (11 << 20)
    move(home / "sub", home / "other")
    assert bucket.names("a/out") == ["one.json", "other/big.bin"]
    move(home / "one.json", home / "two.json")
    remove(home / "nothing")
    assert bucket.names("a/out") == ["other/big.bin", "two.json"]
    remove(home / "two.json")
    remove_tree(home / "other")
    assert bucket.names() == []
    assert not (home / "other").exists()


def test_a_file_that_is_not_finished_is_not_there(bucket):
    home = local_path(bucket.uri("out"))
    with contextlib.suppress(InterruptedError), atomic_path(home / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise InterruptedError
    assert bucket.names() == []


def test_a_mirror_follows_what_others_write(bucket):
    bucket.write("d/a", b"one")
    bucket.write("d/sub/b", b"two")
    home = local_path(bucket.uri("d"))
    assert (home / "a").read_bytes() == b"one"
    bucket.write("d/a", b"other")
    bucket.files.delete_file(f"{bucket.name}/d/sub/b")
    bucket.write("d/sub", b"now a file")
    assert local_path(bucket.uri("d")) == home
    assert (home / "a").read_bytes() == b"other"
    assert (home / "sub").read_bytes() == b"now a file"
    assert local_path(bucket.uri("nothing")).exists() is False


def test_what_grows_in_a_folder_is_put_there_now_and_then(bucket):
    home = local_path(bucket.uri("log"))
    (home / "sub").mkdir(parents=True)
    for content in (b"one", b"one two"):
        (home / "sub" / "events").write_bytes(content)
        (home / "run.json").write_bytes(b"{}")
        mirrors.settle(home)
        assert bucket.names("log") == ["sub/events"]
        assert bucket.read("log/sub/events") == content


def test_a_folder_that_was_deleted_is_begun_anew(bucket):
    run = run_of(bucket.uri("e"), {"t": 1})
    write_json(run.out / "parts" / "part-0.json", {})
    run.unlock()
    left = run.out / "parts" / f"x.{scratch_folder.host()}-999999999-abc.kdbias-tmp"
    left.write_bytes(b"half")
    bucket.files.delete_dir(f"{bucket.name}/e")
    assert run_of(bucket.uri("e"), {"t": 2}).state == "new"
    assert not left.parent.exists()


def test_with_a_file_comes_what_belongs_to_it(bucket):
    for name in ("net.onnx", "net.toml", "net.onnx.toml", "other.onnx"):
        bucket.write(f"nets/{name}", b"x")
    net = local_path(bucket.uri("nets/net.onnx"))
    assert sorted(os.listdir(net.parent)) == ["net.onnx", "net.onnx.toml", "net.toml"]
    for name in ("run.json", "density.parquet", "uniformity.json", "part-00000.parquet"):
        bucket.write(f"run/{name}", b"x")
    table = local_path(bucket.uri("run/density.parquet"))
    assert sorted(os.listdir(table.parent)) == ["density.parquet", "run.json", "uniformity.json"]


def test_only_what_changed_is_brought(bucket, monkeypatch):
    bucket.write("d/a", b"one")
    write_json(local_path(bucket.uri("d")) / "b.json", {"n": 1})
    brought = []
    bring = scratch_folder.require_room
    monkeypatch.setattr(
        "kdbias.tables.mirrors.require_room", lambda uri, n: (brought.append(n), bring(uri, n))
    )
    local_path(bucket.uri("d"))
    assert brought == [0]
    shutil.rmtree(os.environ["KDBIAS_SCRATCH"])
    assert read_json(local_path(bucket.uri("d")) / "b.json") == {"n": 1}


def test_what_the_disk_has_no_room_for_is_not_begun(bucket, monkeypatch):
    bucket.write("d/a", b"one")
    full = SimpleNamespace(free=2)
    monkeypatch.setattr(scratch_folder.shutil, "disk_usage", lambda path: full)
    with pytest.raises(MachineError, match=r"/d: 3 B are to be copied to the scratch folder .* 2 B are"):
        local_path(bucket.uri("d"))


@pytest.mark.parametrize("key", ["../x", "a/../../x"])
def test_nothing_leaves_its_bucket(bucket, key):
    with pytest.raises(KdbiasError, match="without"):
        local_path(bucket.uri(key))
    with pytest.raises(KdbiasError, match=r"^s3://b/x: name a bucket") as caught:
        local_path("s3://user:word@b/x")
    assert "word@" not in str(caught.value)


def test_a_scratch_folder_of_its_own_goes_with_the_process(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("KDBIAS_SCRATCH")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"kdbias-scratch.{scratch_folder.host()}-999999999-abc.kdbias-tmp"
    left.mkdir()
    bucket.write("d/a", b"one")
    home = local_path(bucket.uri("d"))
    assert (home / "a").read_bytes() == b"one"
    assert home.is_relative_to(tmp_path)
    assert not left.exists()  # of a process that was killed
    made = Path(os.environ["KDBIAS_SCRATCH"])
    scratch_folder._remove(made, os.getpid() + 1)  # a forked process's end
    assert made.exists()
    scratch_folder._remove(made, os.getpid())
    assert not made.exists()
    monkeypatch.delenv("KDBIAS_SCRATCH")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KdbiasError, match="set KDBIAS_SCRATCH"):
        local_path(bucket.uri("d"))


def run_of(uri: str, config: dict, overwrite: bool = False) -> Run:
    return Run.open(uri, EMBED, config, {}, overwrite)


def write_part(folder: Path, name: str, n: int) -> None:
    write_table(folder / name, pa.table({"n": [n]}), {"stage": "embed"})


def held(folder: Path, name: str) -> list[int]:
    return read_table(folder / name).column("n").to_pylist()


def test_a_run_on_a_store_is_begun_resumed_finished_and_replaced(bucket, monkeypatch, tmp_path):
    uri = bucket.uri("emb")
    run = run_of(uri, {"t": 1})
    assert run.state == "new"
    write_part(run.out, "part-0.parquet", 1)
    run.unlock()
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "another machine"))
    run = run_of(uri, {"t": 1})
    assert run.state == "resumed"
    assert held(run.out, "part-0.parquet") == [1]
    run.finish({"n": 1}, 0.0)
    assert bucket.names("emb") == ["part-0.parquet", "run.json"]
    with pytest.raises(KdbiasError, match=rf"^{uri} was made differently \(t: 1 -> 2\)"):
        run_of(uri, {"t": 2})
    run = run_of(uri, {"t": 2}, overwrite=True)
    assert f"{REPLACED}/run.json" in bucket.names("emb")
    run.forget()  # after a refusal: what was there is there again
    assert bucket.names("emb") == ["part-0.parquet", "run.json"]
    assert run_of(uri, {"t": 1}).state == "finished"
    run = run_of(uri, {"t": 2}, overwrite=True)
    write_part(run.out, "part-7.parquet", 7)
    run.finish({"n": 1}, 0.0)
    assert bucket.names("emb") == ["part-7.parquet", "run.json"]


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_files_that_belong_together_come_together(bucket, monkeypatch, tmp_path, moved):
    run = run_of(bucket.uri("e"), {})
    write_part(run.out, "part-0.parquet", 1)
    run.finish({}, 0.0)
    run = run_of(bucket.uri("e"), {})
    for number, n in enumerate((2, 3)):
        write_part(run.stage() if not number else run.out / "staged", f"part-{number}.parquet", n)
    left = iter(range(moved))

    def killed(old: Path, new: Path) -> None:
        if next(left, None) is None:
            raise InterruptedError
        move(old, new)

    with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
        patch.setattr("kdbias.tables.run_files.move", killed)
        if moved == 2:
            patch.setattr("kdbias.tables.run_files.sync_folder", lambda folder: killed(folder, folder))
        run.finish({}, 0.0)
    assert parse_json(bucket.read("e/run.json"), "")["status"] == "running"
    run.unlock()
    monkeypatch.setenv("KDBIAS_SCRATCH", str(tmp_path / "another machine"))
    run = run_of(bucket.uri("e"), {})
    assert run.state == "finished"
    assert (held(run.out, "part-0.parquet"), held(run.out, "part-1.parquet")) == ([2], [3])
    run.unlock()
    assert bucket.names("e") == ["part-0.parquet", "part-1.parquet", "run.json"]


def test_no_lock_is_brought_or_counts_as_somebody_s(bucket):
    bucket.write(f"e/{LOCK}/abc", b"{}")
    assert not local_path(bucket.uri("e")).exists()
