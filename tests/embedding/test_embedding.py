"""embed(): the right vector for each image, whatever fails, whatever interrupts, however it is split."""

import dataclasses
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kdbias.embedding.inputs as inputs_module
import kdbias.embedding.stage as embedding_module
from kdbias import progress
from kdbias.data.opening import open_data
from kdbias.device import process_device
from kdbias.embedding.batches import require_consistent
from kdbias.embedding.parts import usual_rows
from kdbias.embedding.stage import EmbedResult, embed
from kdbias.errors import ConfigChangedError, KdbiasError, MachineError
from kdbias.reporting.thumbnails import open_source
from kdbias.tables.documents import read_json
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.teacher import Teacher

PIXELS = """
import numpy as np

class Pixels:
    preprocessing = {"size": [6, 8], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Pixels()

class Broken(Pixels):
    def embed(self, batch):
        vectors = super().embed(batch)
        vectors[batch[:, 0, 0, 0] == 200] = np.nan
        return vectors

def broken(device):
    return Broken()

class Mixing(Pixels):
    def embed(self, batch):
        vectors = super().embed(batch)
        return vectors - 0.9 * vectors.mean(axis=0)

def mixing(device):
    return Mixing()
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """40 images of 6x8 in two classes and one file that is no image."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for i in range(40):
        path = root / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 199, (6, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / "a" / "03.png").write_bytes(b"no image at all")
    return root


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    (tmp_path / "pixels.py").write_text(PIXELS)
    return f"python:{tmp_path / 'pixels.py'}:factory"


def run(images: Path, out: Path, teacher: str, **more) -> EmbedResult:
    options = {"rows_per_part": 9, "batch_size": 4, "workers": 0, "device": "cpu", **more}
    with progress.quiet():
        return embed(images, out, teacher=teacher, **options)


def expected(images: Path, mirrored: bool = False) -> dict[str, np.ndarray]:
    vectors = {}
    for path in sorted(images.rglob("*.png")):
        if path != images / "a" / "03.png":
            pixels = np.asarray(Image.open(path)).astype(np.float64)
            vector = (pixels[:, ::-1] if mirrored else pixels).ravel() + 1
            vectors[path.relative_to(images).as_posix()] = vector / np.linalg.norm(vector)
    return vectors


def assert_table_is(out: Path, vectors: dict[str, np.ndarray], column: str = "embedding") -> None:
    table = EmbeddingTable.open(out)
    assert table.ids().to_pylist() == list(vectors)
    np.testing.assert_allclose(table.vectors(column=column), np.stack(list(vectors.values())), atol=2e-4)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_id_gets_its_images_vector(images, teacher, tmp_path, workers) -> None:
    result = run(images, tmp_path / "out", teacher, workers=workers)
    assert (result.state, result.samples, result.failures, result.parts) == ("finished", 40, 1, 5)
    assert_table_is(tmp_path / "out", expected(images))
    table = EmbeddingTable.open(tmp_path / "out")
    assert table.labels().to_pylist() == [name[0] for name in table.ids().to_pylist()]
    first = np.asarray(Image.open(images / "a" / "00.png")).astype(float)
    assert table.norms()[0] == pytest.approx(np.linalg.norm(first + 1), rel=1e-6)


def test_failures_table_names_id_path_and_reason(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher)
    failures = pd.read_parquet(tmp_path / "out" / "failures.parquet")
    assert failures.to_dict("records") == [
        {"sample_id": "a/03.png", "path": "a/03.png", "reason": failures.reason[0]}
    ]
    assert "not an image" in failures.reason[0]
    assert failures.attrs["kdbias"]["counts"] == {"samples": 40, "failures": 1, "parts": 5}


def test_failures_table_is_there_when_nothing_failed(images, teacher, tmp_path) -> None:
    (images / "a" / "03.png").unlink()
    run(images, tmp_path / "out", teacher)
    failures = pd.read_parquet(tmp_path / "out" / "failures.parquet")
    assert list(failures.columns) == ["sample_id", "path", "reason"]
    assert len(failures) == 0


def test_provenance_shows_in_pandas(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher)
    doc = pd.read_parquet(tmp_path / "out" / "part-00001.parquet").attrs["kdbias"]
    assert doc["stage"] == "embed"
    assert doc["teacher"] == teacher
    assert doc["config"]["preprocessing"]["size"] == [6, 8]
    assert set(doc["inputs"]) == {"data", "teacher"}


def test_on_error_fail_names_the_image(images, teacher, tmp_path) -> None:
    with pytest.raises(KdbiasError, match=r"a/03\.png.*not an image.*--on-error skip"):
        run(images, tmp_path / "out", teacher, on_error="fail")
    assert run(images, tmp_path / "out", teacher, on_error="skip").state == "finished"


def test_all_failed_keeps_nothing_so_that_mended_images_are_taken(images, teacher, tmp_path) -> None:
    whole = {path: path.read_bytes() for path in images.rglob("*.png")}
    for path in whole:
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(KdbiasError, match="all 41 images failed"):
        run(images, tmp_path / "out", teacher)
    assert not (tmp_path / "out").exists()
    for path, content in whole.items():
        path.write_bytes(content)
    run(images, tmp_path / "out", teacher)
    assert_table_is(tmp_path / "out", expected(images))


def test_flip_stores_the_mirrored_view(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher, flip=True)
    assert_table_is(tmp_path / "out", expected(images))
    assert_table_is(tmp_path / "out", expected(images, mirrored=True), "embedding_flip")
    table = EmbeddingTable.open(tmp_path / "out")
    np.testing.assert_allclose(table.flip_norms(), table.norms(), rtol=1e-6)  # the same pixels


def test_where_and_float32(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher, where=["label=b"], store="float32")
    vectors = {k: v for k, v in expected(images).items() if k.startswith("b/")}
    assert_table_is(tmp_path / "out", vectors)
    stored = pa.parquet.read_schema(tmp_path / "out" / "part-00000.parquet").field("embedding").type
    assert stored.value_type == pa.float32()
    again = run(images, tmp_path / "out", teacher, where=[" label = b", "label=b"], store="float32")
    assert again.state == "already finished"  # other words for the same rows


@pytest.mark.parametrize(("n", "rows"), [(1, 2048), (32_768, 2048), (100_000, 6250), (5_179_510, 16_384)])
def test_small_runs_have_small_parts(n: int, rows: int) -> None:
    assert usual_rows(n) == rows


def test_plan_writes_nothing(images, teacher, tmp_path, capsys) -> None:
    result = embed(images, tmp_path / "out", teacher=teacher, plan=True, device="cpu", rows_per_part=9)
    assert (result.state, result.samples, result.parts, result.dim) == ("planned", 41, 5, 48)
    assert not (tmp_path / "out").exists()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("embed: cpu, fp32, ")
    assert "batch 64" in lines[0]
    assert "L resize to 6x8" in lines[0]
    assert "41 samples -> 5 parts of up to 9 rows, 48-d float16 vectors, 3.9 kB" in lines[2]


def test_finished_run_is_a_no_op_that_says_so(images, teacher, tmp_path, capsys) -> None:
    run(images, tmp_path / "out", teacher)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    again = embed(images, tmp_path / "out", teacher=teacher, rows_per_part=9, batch_size=7, device="cpu")
    assert (again.state, again.samples, again.failures) == ("already finished", 40, 1)
    assert "finished already; nothing to do" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_changed_options_and_data_are_refused_by_name(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher)
    with pytest.raises(ConfigChangedError, match="flip: False -> True"):
        run(images, tmp_path / "out", teacher, flip=True)
    with pytest.raises(ConfigChangedError, match="store: 'float16' -> 'float32'"):
        run(images, tmp_path / "out", teacher, store="float32")
    (images / "a" / "00.png").rename(images / "a" / "moved.png")
    with pytest.raises(ConfigChangedError, match="input data"):
        run(images, tmp_path / "out", teacher)
    assert run(images, tmp_path / "out", teacher, overwrite=True).state == "finished"


def test_changed_teacher_code_is_refused(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher)
    file = tmp_path / "pixels.py"
    file.write_text(file.read_text().replace("+ 1", "+ 2"))
    with pytest.raises(ConfigChangedError, match="input teacher"):
        run(images, tmp_path / "out", teacher)


def test_a_moved_teacher_is_known_by_its_content(images, teacher, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedding_module, "write_parts", lambda *given: 1 / 0)  # a run that ends early
        with pytest.raises(ZeroDivisionError):
            run(images, tmp_path / "out", teacher)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pixels.py").rename(tmp_path / "elsewhere" / "moved.py")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(images, tmp_path / "out", "python:moved.py:factory").state == "finished"
    assert EmbeddingTable.open(tmp_path / "out").provenance["teacher"] == "python:moved.py:factory"
    with pytest.raises(ConfigChangedError, match="input teacher"):
        run(images, tmp_path / "out", "python:moved.py:broken")


def test_nan_embeddings_are_refused_with_their_ids(images, teacher, tmp_path) -> None:
    Image.fromarray(np.full((6, 8), 200, np.uint8)).save(images / "b" / "05.png")
    with pytest.raises(KdbiasError, match=r"1 of .* vectors are zero or not finite \('b/05\.png'\)"):
        run(images, tmp_path / "out", teacher.replace("factory", "broken"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "float64"}, "store is 'float64'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_wrong_options_are_refused(images, teacher, tmp_path, options, message) -> None:
    with pytest.raises(KdbiasError, match=message):
        run(images, tmp_path / "out", teacher, **options)


def embed_in_child(images: Path, out: Path, teacher: str, limit: int | None, workers: int) -> None:
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run(images, out, teacher, rows_per_part=3, batch_size=2, workers=workers)
    except KdbiasError as error:
        os._exit(2 if "finished parts are kept" in str(error) else 3)
    os._exit(0)


def child(*arguments) -> multiprocessing.Process:
    # Forked: a fresh interpreter would spend seconds on imports before there is anything to kill.
    process = multiprocessing.get_context("fork").Process(target=embed_in_child, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(("workers", "kills"), [(0, 12), (2, 4)])
def test_killed_at_any_moment_and_run_again_gives_the_same_table(
    images, teacher, tmp_path, workers, kills
) -> None:
    whole = tmp_path / "whole"
    begun = time.monotonic()
    process = child(images, whole, teacher, None, workers)
    process.join(120)
    longest = time.monotonic() - begun
    assert process.exitcode == 0
    wanted = EmbeddingTable.open(whole)
    chance = random.Random(workers)
    died = runs = 0
    out = tmp_path / "out"
    while died < kills:
        runs += 1
        assert runs < 20 * kills, "the runs end before they can be killed"
        process = child(images, out, teacher, None, workers)
        time.sleep(chance.uniform(0, 0.7 * longest))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            died += 1
        else:  # the machine was busier when the whole run was timed
            longest *= 0.7
        if (out / "run.json").exists() and json.loads((out / "run.json").read_text())["status"] == "finished":
            assert EmbeddingTable.open(out).fingerprint == wanted.fingerprint
            for path in sorted(out.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    run(images, out, teacher, rows_per_part=3, batch_size=2)
    got = EmbeddingTable.open(out)
    assert got.fingerprint == wanted.fingerprint
    assert got.ids().equals(wanted.ids())
    assert np.array_equal(got.vectors(), wanted.vectors())
    assert not list(out.rglob("*tmp*"))
    for name in ["failures.parquet", "part-00003.parquet"]:
        pd.testing.assert_frame_equal(pd.read_parquet(out / name), pd.read_parquet(whole / name))


def test_full_disk_is_one_line_and_the_run_goes_on_later(images, teacher, tmp_path) -> None:
    out = tmp_path / "out"
    process = child(images, out, teacher, 3000, 0)
    process.join(120)
    assert process.exitcode == 2
    assert not out.exists()  # not even the first part could be written
    run(images, out, teacher, rows_per_part=3, batch_size=2)
    assert_table_is(out, expected(images))


def test_full_tmpfs_is_one_line_and_the_run_goes_on_later(images, teacher, tmp_path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        with pytest.raises(KdbiasError, match=r"cannot write to .*[Nn]o space left.*finished parts are kept"):
            run(images, disk / "out", teacher, rows_per_part=2)
        made = len(list((disk / "out").glob("part-*.parquet")))
        assert 0 < made < 21
        with pytest.raises(KdbiasError, match="unfinished"):
            EmbeddingTable.open(disk / "out")
        assert not list((disk / "out").rglob("*tmp*"))
        subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)
        run(images, disk / "out", teacher, rows_per_part=2)
        assert_table_is(disk / "out", expected(images))
    finally:
        # Lazily: whatever else looks at disks for a moment would make it busy.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_damaged_or_missing_part_is_made_again(images, teacher, tmp_path) -> None:
    out = tmp_path / "out"
    fingerprint = run(images, out, teacher) and EmbeddingTable.open(out).fingerprint
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (out / "part-00001.parquet").unlink()
    (out / "part-00002.parquet").write_bytes(b"PAR1 cut short")
    (out / "parts" / "part-00003.json").write_text("{")
    untouched = (out / "part-00000.parquet").stat().st_mtime_ns
    run(images, out, teacher)
    assert EmbeddingTable.open(out).fingerprint == fingerprint
    assert (out / "part-00000.parquet").stat().st_mtime_ns == untouched
    assert_table_is(out, expected(images))


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("store", ["float16", "float32"])
@pytest.mark.parametrize("flip", [False, True])
def test_what_a_finished_table_lost_is_made_again(images, teacher, tmp_path, store, flip) -> None:
    out, options = tmp_path / "out", {"store": store, "flip": flip}
    run(images, out, teacher, **options)
    fingerprint = EmbeddingTable.open(out).fingerprint
    chunk = pq.read_metadata(out / "part-00001.parquet").row_group(0).column(4 if flip else 3)
    assert chunk.path_in_schema == "embedding.list.element"
    vectors = chunk.data_page_offset + chunk.total_compressed_size - 3
    damages = {
        "lost": lambda part: part.unlink(),
        "cut": lambda part: part.write_bytes(part.read_bytes()[:-20]),
        "emptied": lambda part: part.write_bytes(b""),
        "rotten": lambda part: flip_bit(part, vectors),
    }
    for damage in damages.values():
        others = {p: p.stat().st_mtime_ns for p in out.glob("part-*") if p.name != "part-00001.parquet"}
        damage(out / "part-00001.parquet")
        assert run(images, out, teacher, **options).state == "finished"
        assert {p: p.stat().st_mtime_ns for p in others} == others
        assert EmbeddingTable.open(out).fingerprint == fingerprint
        assert run(images, out, teacher, **options).state == "already finished"
    (out / "failures.parquet").unlink()
    assert run(images, out, teacher, **options).state == "finished"
    assert (
        pq.read_table(out / "failures.parquet").num_rows == read_json(out / "run.json")["counts"]["failures"]
    )
    assert_table_is(out, expected(images))


def test_ranks_make_again_what_a_finished_table_lost(images, teacher, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    run(images, out, teacher)
    fingerprint = EmbeddingTable.open(out).fingerprint
    (out / "part-00001.parquet").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    states = []
    for rank in (0, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        states.append(run(images, out, teacher).state)
    assert states == ["partial", "finished", "already finished"]
    assert EmbeddingTable.open(out).fingerprint == fingerprint


def test_a_part_of_something_else_is_named(images, teacher, tmp_path) -> None:
    run(images, tmp_path / "out", teacher)
    (tmp_path / "out" / "part-00077.parquet").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(KdbiasError, match=r"part-00077\.parquet (is no part|was not written)"):
            run(images, tmp_path / "out", teacher, overwrite=overwrite)
    assert (tmp_path / "out" / "part-00077.parquet").read_text() == "mine"


class VanishingImages:
    """Reading row 20 removes a path."""

    def __init__(self, images, path: Path) -> None:
        self.images, self.path = images, path

    def read(self, row: int):
        if row == 20:
            self.path.unlink() if self.path.is_file() else shutil.rmtree(self.path, ignore_errors=True)
        return self.images.read(row)

    def location(self, row: int) -> str:
        return self.images.location(row)


@pytest.mark.parametrize("lost", [".", "parts", "part-00000.parquet", "run.json"])
def test_what_vanishes_while_it_runs_is_an_error(images, teacher, tmp_path, monkeypatch, lost) -> None:
    out = tmp_path / "out"

    def vanishing(*args, **kwargs):
        source = open_data(*args, **kwargs)
        return dataclasses.replace(source, images=VanishingImages(source.images, out / lost))

    with monkeypatch.context() as patch:
        patch.setattr(inputs_module, "open_data", vanishing)
        with pytest.raises(
            MachineError, match=r"out (lost|was removed|\(No such file).*the same command again"
        ):
            run(images, out, teacher, workers=0, rows_per_part=4)
    assert not (out / "failures.parquet").exists()
    shutil.rmtree(out, ignore_errors=True) if lost in (".", "run.json") else None
    run(images, out, teacher, rows_per_part=4)
    assert_table_is(out, expected(images))


class DeadlyImages:
    """Reading row 20 ends the process that reads it."""

    def __init__(self, images) -> None:
        self.images = images

    def read(self, row: int):
        if row == 20:
            os._exit(9)
        return self.images.read(row)

    def location(self, row: int) -> str:
        return self.images.location(row)


def test_a_dying_worker_is_one_line_that_says_what_to_do(images, teacher, tmp_path, monkeypatch) -> None:
    def deadly(*args, **kwargs):
        source = open_data(*args, **kwargs)
        return dataclasses.replace(source, images=DeadlyImages(source.images))

    with monkeypatch.context() as patch:
        patch.setattr(inputs_module, "open_data", deadly)
        with pytest.raises(KdbiasError, match=r"a decode worker died.*fewer --workers") as caught:
            run(images, tmp_path / "out", teacher, workers=1)
    assert "\n" not in str(caught.value)
    run(images, tmp_path / "out", teacher)
    assert_table_is(tmp_path / "out", expected(images))


def test_ranks_share_the_parts_and_the_last_one_finishes(images, teacher, tmp_path, monkeypatch) -> None:
    run(images, tmp_path / "alone", teacher)
    monkeypatch.setenv("WORLD_SIZE", "3")
    states = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        states.append(run(images, tmp_path / "shared", teacher).state)
    assert states == ["partial", "partial", "finished"]
    shared, alone = EmbeddingTable.open(tmp_path / "shared"), EmbeddingTable.open(tmp_path / "alone")
    assert shared.fingerprint == alone.fingerprint
    assert np.array_equal(shared.vectors(), alone.vectors())


def test_ranks_that_missed_each_other_are_finished_by_one_process(
    images, teacher, tmp_path, monkeypatch
) -> None:
    out, late = tmp_path / "out", tmp_path / "late.json"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(images, out, teacher).state == "partial"
    monkeypatch.setenv("RANK", "1")
    record = out / "parts" / "part-00000.json"
    record.rename(late)  # as a file system that is slow to tell would have it
    assert run(images, out, teacher).state == "partial"
    late.rename(record)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    before = {part: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    assert run(images, out, teacher).state == "finished"
    assert {part: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")} == before
    assert_table_is(out, expected(images))


def embed_as_rank(rank: int, port: int, images: Path, out: Path, teacher: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        run(images, out, teacher, overwrite=True)
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_two_processes_at_once_meet_and_share_the_parts(images, teacher, tmp_path) -> None:
    import socket

    run(images, tmp_path / "alone", teacher)
    run(images, tmp_path / "shared", teacher, flip=True)  # something to overwrite
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    arguments = (port, images, tmp_path / "shared", teacher)
    ranks = [fork.Process(target=embed_as_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    shared, alone = EmbeddingTable.open(tmp_path / "shared"), EmbeddingTable.open(tmp_path / "alone")
    assert shared.fingerprint == alone.fingerprint


@pytest.mark.parametrize(("device", "wanted"), [("auto", "cuda:2"), ("cuda:1", "cuda:1")])
def test_each_process_opens_its_own_gpu_alone(monkeypatch, device, wanted) -> None:
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert process_device(device, world=4) == wanted
    assert chosen == [wanted]


def test_impossible_rank_is_refused(images, teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(KdbiasError, match="RANK=2 and WORLD_SIZE=2"):
        run(images, tmp_path / "out", teacher)


class Mixing(Teacher):
    """Adds the mean of the batch, as a network in training mode would."""

    spec, dim = "mixing", 4
    preprocessing = Preprocessing((2, 2), color="L", mean=(0,), std=(1,))

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        pixels = batch.reshape(len(batch), 4).astype(np.float32)
        return pixels - 0.9 * pixels.mean(axis=0)


def test_batch_dependent_teacher_is_refused_with_the_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)
    with pytest.raises(
        KdbiasError, match=r"alone and in a batch of 8: cosine -?0\.\d+ at worst.*--batch-size 1"
    ):
        require_consistent(Mixing(), images)
    assert require_consistent(Mixing(), images[:1]) == 1.0


def test_embed_refuses_a_batch_dependent_teacher_before_the_first_part(images, teacher, tmp_path) -> None:
    mixing = teacher.replace("factory", "mixing")
    with pytest.raises(KdbiasError, match=r"alone and in a batch of 3: cosine 0\.\d+ at worst"):
        run(images, tmp_path / "out", mixing)
    assert not list((tmp_path / "out").glob("part-*"))
    for name in ("00.png", "02.png"):  # leaves one image of the first batch, which cannot tell
        (images / "a" / name).write_bytes(b"no image at all")
    with pytest.raises(KdbiasError, match=r"alone and in a batch of 4"):
        run(images, tmp_path / "other", mixing)
    assert run(images, tmp_path / "out", mixing, batch_size=1).state == "finished"


# Precomputed embeddings


@pytest.fixture
def vectors(images: Path) -> tuple[list[str], np.ndarray]:
    ids = [p.relative_to(images).as_posix() for p in sorted(images.rglob("*.png"))]
    return ids, np.random.default_rng(1).normal(size=(41, 5)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def precomputed(images: Path, file: Path, out: Path, **more) -> EmbeddingTable:
    result = run(images, out, f"precomputed:{file}", store="float32", **more)
    assert result.state == "finished"
    return EmbeddingTable.open(out)


@pytest.mark.parametrize("workers", [0, 1])
def test_seconds_by_the_clock_hold_those_of_every_activity(
    images, vectors, teacher, tmp_path, workers
) -> None:
    ids, rows = vectors
    np.savez(tmp_path / "v.npz", ids=ids, vectors=rows)
    for name, spec in (("stored", f"precomputed:{tmp_path / 'v.npz'}"), ("run", teacher)):
        began = time.perf_counter()
        spent = run(images, tmp_path / name, spec, workers=workers).seconds
        assert (
            max(spent["write"], spent.get("compute", 0), spent["read"] / max(1, workers)) < spent["elapsed"]
        )
        assert spent["elapsed"] < time.perf_counter() - began


def test_the_record_says_how_the_data_was_read(teacher, tmp_path) -> None:
    pictures = [io.BytesIO() for _ in range(3)]
    for i, file in enumerate(pictures):
        Image.fromarray(np.full((8, 8, 3), 40 * i + 9, np.uint8)).save(file, "PNG")
    table = pa.table({"key": list("abc"), "who": list("xxy"), "picture": [f.getvalue() for f in pictures]})
    pa.parquet.write_table(table, tmp_path / "data.parquet")
    columns = {"id_column": "key", "label_column": "who", "image_column": "picture"}
    run(tmp_path / "data.parquet", tmp_path / "out", teacher, **columns)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    source = open_source(record, tmp_path / "out", [tmp_path])
    assert source.ids.to_pylist() == ["a", "b", "c"]
    assert source.read(2)[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["npz", "parquet", "list-parquet", "table"])
def test_precomputed_is_joined_by_id(images, vectors, tmp_path, kind) -> None:
    ids, rows = vectors
    order = np.random.default_rng(2).permutation(41)
    names = np.array(ids)[order]
    file = tmp_path / f"vectors.{kind.removeprefix('list-')}"
    if kind == "npz":
        np.savez(file, ids=names, embeddings=rows[order])
    elif kind == "parquet":
        pd.DataFrame({"sample_id": names, "embedding": list(rows[order])}).to_parquet(file)
    elif kind == "list-parquet":
        pa.parquet.write_table(pa.table({"sample_id": names, "vector": rows[order].tolist()}), file)
    else:
        write_embedding_table(file, pa.array(names), rows[order], dtype="float32")
    table = precomputed(images, file, tmp_path / "out", where=["label=a"])
    kept = [i for i, name in enumerate(ids) if name.startswith("a/")]
    assert table.ids().to_pylist() == [ids[i] for i in kept]
    np.testing.assert_allclose(table.vectors(), unit(rows[kept]), atol=1e-6)


def test_bare_array_needs_same_order_and_counts_before_where(images, vectors, tmp_path) -> None:
    ids, rows = vectors
    np.save(tmp_path / "v.npy", rows.astype(np.float16))
    with pytest.raises(KdbiasError, match=r"41 vectors without ids.*--same-order"):
        precomputed(images, tmp_path / "v.npy", tmp_path / "out")
    table = precomputed(images, tmp_path / "v.npy", tmp_path / "out", same_order=True, where=["label=b"])
    kept = [i for i, name in enumerate(ids) if name.startswith("b/")]
    assert table.ids().to_pylist() == [ids[i] for i in kept]
    np.testing.assert_allclose(table.vectors(), unit(rows[kept].astype(np.float16)), atol=2e-3)
    np.save(tmp_path / "short.npy", rows[:40])
    with pytest.raises(KdbiasError, match="40 vectors, the data 41 samples"):
        precomputed(images, tmp_path / "short.npy", tmp_path / "no", same_order=True, where=["label=b"])


def test_precomputed_refusals(images, vectors, tmp_path) -> None:
    ids, rows = vectors
    np.savez(tmp_path / "few.npz", ids=np.array(ids[:-2]), embedding=rows[:-2])
    with pytest.raises(KdbiasError, match="2 of the 41 ids"):
        precomputed(images, tmp_path / "few.npz", tmp_path / "out")
    np.savez(tmp_path / "twice.npz", ids=np.array([ids[0], *ids[:-1]]), embedding=rows)
    with pytest.raises(KdbiasError, match="more than once"):
        precomputed(images, tmp_path / "twice.npz", tmp_path / "out")
    zero = rows.copy()
    zero[7] = 0
    np.save(tmp_path / "zero.npy", zero)
    with pytest.raises(KdbiasError, match=ids[7]):
        precomputed(images, tmp_path / "zero.npy", tmp_path / "zero", same_order=True)
    np.save(tmp_path / "ints.npy", np.ones((41, 5), np.int64))
    with pytest.raises(KdbiasError, match=r"int64 \(41, 5\), should be floats"):
        precomputed(images, tmp_path / "ints.npy", tmp_path / "ints", same_order=True)
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(KdbiasError, match="not an array of plain numbers"):
        precomputed(images, tmp_path / "objects.npy", tmp_path / "objects", same_order=True)
    with pytest.raises(KdbiasError, match=r"flip is True.*no network runs"):
        precomputed(images, tmp_path / "zero.npy", tmp_path / "flip", same_order=True, flip=True)
    with pytest.raises(KdbiasError, match=r"channels_last is True.*no network runs"):
        precomputed(images, tmp_path / "zero.npy", tmp_path / "flip", same_order=True, channels_last=True)
