"""inspect(): right facts about every kind of file, one line for anything else, nothing executed."""

import datetime
import json
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.inspection.describe import inspect
from kdbias.inspection.printed import as_text
from kdbias.tables import provenance
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.run_record import Run, Stage
from kdbias.tables.weight_manifest import write_manifest
from kdbias.weighting.diagnostics import summary
from tests.stages import EVALUATE, FRONTIER, STUDY, TRAIN

IDS = pa.array([f"s{i}" for i in range(8)])


@pytest.fixture
def emb(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(8, 5))
    groups = {"camera": pa.array(["a", "b"] * 4)}
    table = write_embedding_table(tmp_path / "emb", IDS, vectors, None, groups, rows_per_part=3)
    write_json(table.path / "run.json", {**table.provenance, "teacher": "run:t"})
    return tmp_path / "emb"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    doc = provenance.document("weights", {"method": "hand"}, {"density": "f00"}, {"samples": 8}, 0.1)
    weights = np.array([4.0, 4, 0, 0, 0, 0, 0, 0])
    write_manifest(tmp_path / "w.parquet", IDS, None, {}, np.zeros(8), weights, doc)
    return tmp_path / "w.parquet"


def check(found: dict) -> str:
    """Every answer is plain JSON and turns into text."""
    json.dumps(found, allow_nan=False)
    text = as_text(found)
    assert found["path"] in text
    assert found["summary"] in text
    return text


def test_embedding_table(emb):
    found = inspect(emb, rows=2)
    assert found["kind"] == "embedding table"
    assert found["summary"] == "8 unit vectors of 5 dimensions in 3 parts; groups: camera"
    assert found["rows"] == 8
    assert found["counts"]["samples"] == 8
    assert [c["name"] for c in found["columns"]] == ["sample_id", "label", "camera", "norm", "embedding"]
    assert [r["sample_id"] for r in found["first_rows"]] == ["s0", "s1"]
    assert found["first_rows"][0]["embedding"].endswith("… 5 values]")
    text = check(found)
    assert "written by kdbias embed" in text
    assert '"teacher": "run:t"' in text


def test_unfinished_embedding_table_says_so(emb):
    record = json.loads((emb / "run.json").read_text())
    write_json(emb / "run.json", {**record, "status": "running"})
    assert "unfinished, 3 parts so far" in inspect(emb)["summary"]


def test_weight_manifest(manifest):
    found = inspect(manifest)
    assert found["kind"] == "weight manifest"
    assert "effective sample size 2.0 (25.0 %)" in found["summary"]
    assert "6 never drawn" in found["summary"]
    assert found["provenance"]["config"] == {"method": "hand"}
    assert len(found["first_rows"]) == 5
    check(found)


def test_hand_made_csv_manifest(tmp_path):
    (tmp_path / "w.csv").write_text("sample_id,weight\na,1\nb,3\n")
    found = inspect(tmp_path / "w.csv")
    assert found["kind"] == "weight manifest"
    assert found["rows"] == 2
    assert "effective sample size 1.6 (80.0 %)" in found["summary"]
    check(found)


def test_data_manifest_with_images_shows_sizes_not_bytes(tmp_path):
    table = pa.table({"sample_id": ["a"], "image": pa.array([b"x" * 1234], pa.binary())})
    pq.write_table(table, tmp_path / "data.parquet")
    found = inspect(tmp_path / "data.parquet")
    assert found["kind"] == "table"
    assert found["first_rows"] == [{"sample_id": "a", "image": "<1,234 bytes>"}]
    check(found)


def test_parquet_rewritten_by_pandas_keeps_its_provenance(manifest, tmp_path):
    frame = pd.read_parquet(manifest)
    frame[frame.weight > 0].to_parquet(tmp_path / "cut.parquet")
    found = inspect(tmp_path / "cut.parquet")
    assert found["rows"] == 2
    assert found["provenance"]["stage"] == "weights"


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_an_interrupted_run_is_unfinished_a_live_one_is_running(tmp_path, stage):
    pytest.importorskip("fcntl")
    run = Run.open(tmp_path / "all" / "run", Stage(stage), {}, {})
    assert inspect(run.out)["summary"].endswith(", running")
    run.unlock()
    assert inspect(run.out)["summary"].endswith(", unfinished")
    assert "status: unfinished" in check(inspect(run.out))
    assert [o["status"] for o in inspect(tmp_path / "all")["outputs"]] == ["unfinished"]


def test_an_edited_manifest_is_not_described_as_the_original(tmp_path):
    weights = np.array([4.0, 4, 0, 0, 0, 0, 0, 0])
    numbers = summary(weights, weights, np.full(8, -1))
    doc = provenance.document("weights", {}, {}, {"samples": 8}, 0.1, numbers=numbers)
    write_manifest(tmp_path / "w.parquet", IDS, None, {}, np.zeros(8), weights, doc)
    found = inspect(tmp_path / "w.parquet")
    assert "edited" not in found["summary"]
    assert "counts: samples 8" in check(found)
    pd.read_parquet(tmp_path / "w.parquet").head(5).to_parquet(tmp_path / "w.parquet")
    found = inspect(tmp_path / "w.parquet")
    assert found["summary"].startswith("5 samples; effective sample size 2.0 (40.0 %)")
    assert "edited since kdbias weights wrote it" in found["summary"]
    assert "counts:" not in check(found)


def test_training_run(tmp_path):
    run = Run.open(tmp_path / "run", TRAIN, {"seed": 1}, {"data": "d"})
    (run.out / "metrics.csv").write_text("epoch,loss\n" + "".join(f"{e},{1 / (e + 1)}\n" for e in range(9)))
    run.finish({"steps": 90}, 2.0)
    found = inspect(run.out, rows=2)
    assert found["kind"] == "training run"
    assert found["summary"] == "training run, finished, 9 rows of metrics"
    assert [r["epoch"] for r in found["last_rows"]] == [7, 8]
    assert {f["name"] for f in found["files"]} == {"metrics.csv", "run.json"}
    check(found)


def test_evaluation_and_its_files(tmp_path):
    run = Run.open(tmp_path / "ev", EVALUATE, {"protocol": "knn"}, {})
    judged = {"protocol": "knn", "unit": "sample", "n": 4, "groups": {}, "config": {}, "inputs": {}}
    judged |= {"interval": {"repeats": 0, "resampled": "sample"}, "left_out": {}, "details": {}}
    write_json(run.out / "metrics.json", judged | {"metrics": {"accuracy": {"value": 0.5}}})
    run.finish({"samples": 4}, 0.1)
    assert inspect(run.out)["metrics"]["metrics"]["accuracy"]["value"] == 0.5
    assert inspect(run.out / "metrics.json")["kind"] == "metrics"
    assert inspect(run.out / "run.json")["kind"] == "run record"
    check(inspect(run.out))


def test_folder_of_outputs(emb, manifest):
    found = inspect(emb.parent)
    assert found["kind"] == "outputs"
    assert found["outputs"] == [{"path": "emb", "stage": "embed", "status": "finished"}]
    check(found)


def test_model_of_plain_weights_is_read_and_a_pickle_with_code_is_not(tmp_path):
    import torch

    torch.save({"state": {"w": torch.zeros(3, 4)}, "network": "convnet"}, tmp_path / "student.pt")
    found = inspect(tmp_path / "student.pt")
    assert found["summary"] == "1 tensor, 12 numbers"
    assert found["columns"] == [{"name": "state.w", "type": "float32 (3, 4)"}]
    assert found["facts"] == {"network": "convnet"}
    check(found)

    trap = tmp_path / "executed"
    torch.save(Trap(str(trap)), tmp_path / "evil.pt")
    with pytest.raises(KdbiasError, match="not executed"):
        inspect(tmp_path / "evil.pt")
    assert not trap.exists()


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float16))
    np.savez(tmp_path / "x.npz", a=np.ones(3), b=np.zeros((2, 2), np.int8))
    found = inspect(tmp_path / "x.npy")
    assert found["summary"] == "array float16 of shape (3, 2); it holds no ids"
    check(found)
    assert inspect(tmp_path / "x.npz")["columns"] == [
        {"name": "a", "type": "float64 (3,)"},
        {"name": "b", "type": "int8 (2, 2)"},
    ]
    objects = np.array([{}], dtype=object)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    with pytest.raises(KdbiasError, match="not a readable NumPy file"):
        inspect(tmp_path / "objects.npy")
    np.savez(tmp_path / "objects.npz", a=objects, b=np.ones(3))
    columns = inspect(tmp_path / "objects.npz")["columns"]
    assert columns[0]["type"].startswith("not read (Object arrays cannot be loaded")
    assert columns[1]["type"] == "float64 (3,)"


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (np.array([["a", "b"]]), ["a", "b"]),
        (np.array([[1, 2]]), [1, 2]),
        (np.array([[1.5, np.nan]]), [1.5, "nan"]),
        (np.array([[1 + 2j]]), ["(1+2j)"]),
    ],
)
def test_rows_of_an_array_of_any_type(tmp_path, values, row):
    np.save(tmp_path / "x.npy", values)
    assert inspect(tmp_path / "x.npy")["first_rows"] == [row]
    check(inspect(tmp_path / "x.npy"))


def test_image_folder_and_description(tmp_path):
    from PIL import Image

    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "pets" / name)
    found = inspect(tmp_path / "pets")
    assert found["kind"] == "image folder"
    assert found["rows"] == 3
    assert found["first_rows"][0] == {"sample_id": "cat/1.png", "label": "cat"}
    check(found)
    (tmp_path / "config.toml").write_text("epochs = 3\n")
    found = inspect(tmp_path / "config.toml")
    assert found["content"] == {"epochs": 3}
    assert found["data"].startswith("not opened as data: ")
    check(found)
    (tmp_path / "pets.toml").write_text('name = "pets"\nsource = "pets"\n')
    found = inspect(tmp_path / "pets.toml")
    assert found["rows"] == 3
    check(found)


def test_csv_as_its_readers_see_it(tmp_path):
    rows = "id0,007,30\n" * 250_000 + 'id1,"two\nlines",unknown\n'
    (tmp_path / "data.csv").write_text("sample_id,label,age\n" + rows)
    found = inspect(tmp_path / "data.csv", rows=1)
    assert found["rows"] == 250_001
    assert found["first_rows"] == [{"sample_id": "id0", "label": "007", "age": "30"}]
    (tmp_path / "w.tsv").write_text("sample_id\tweight\n007\t1\n8\t3\n")
    found = inspect(tmp_path / "w.tsv")
    assert found["kind"] == "weight manifest"
    assert found["first_rows"][0] == {"sample_id": "007", "weight": 1}
    check(found)


def test_any_data_that_kdbias_reads_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rec").mkdir()
    payload = struct.pack("<IfQQ", 0, 1.0, 0, 0) + b"abcd"
    (tmp_path / "rec/train.rec").write_bytes(struct.pack("<II", 0xCED7230A, len(payload)) + payload)
    (tmp_path / "tars").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as archive:
            archive.add(tmp_path / f"{name}.jpg", f"{name}.jpg")
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps(([b"a", b"b"], [True])))
    (tmp_path / "hf").mkdir()
    taken = pa.array([datetime.date(2020, 1, 2)])
    table = pa.table({"image": [b"x"], "label": [0], "taken": taken})
    with pa.ipc.new_stream(tmp_path / "hf/data.arrow", table.schema) as stream:
        stream.write_table(table)
    write_json(tmp_path / "hf/state.json", {"_data_files": [{"filename": "data.arrow"}]})
    write_json(tmp_path / "hf/dataset_info.json", {})
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table({"sample_id": ["a"], "image": [b"x"]}), tmp_path / "parts/0.parquet")
    for name, n in {
        "rec": 1, "rec/train.rec": 1, "tars": 2, "tars/a.tar": 1, "tars/*.tar": 2, "pairs.bin": 2, "hf": 1,
        "parts": 1,
    }.items():  # fmt: skip
        found = inspect(tmp_path / name)
        assert (found["kind"], found["rows"]) == ("data set", n), name
        check(found)
    assert inspect(tmp_path / "hf")["first_rows"][0]["taken"] == "2020-01-02"
    assert inspect((tmp_path / "rec").as_uri())["kind"] == "data set"


def test_data_of_a_library_is_found_by_its_name(monkeypatch):
    monkeypatch.delenv("KDBIAS_DATA", raising=False)
    with pytest.raises(KdbiasError, match=r"torchvision:CIFAR10: where are its files\?"):
        inspect("torchvision:CIFAR10")


def test_data_in_a_store_is_described():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/inspected/list.csv", b"path,label\na.png,007\n")
    found = inspect("memory://inspected/list.csv")
    assert found["path"] == "memory://inspected/list.csv"
    assert found["first_rows"] == [{"sample_id": "a.png", "label": "007"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("broken.json", b"{", "not a JSON file"),
        ("broken.toml", b"a = ", "not a TOML file"),
        ("broken.csv", b"a,b\n1,2,3\n", "not a readable CSV file"),
        ("binary.csv", b"\xff\xfe\x00,\n", "not a readable CSV file"),
        ("broken.npy", b"nothing", "not a readable NumPy file"),
        ("broken.npz", b"PK\x03\x04 cut", "not a readable NumPy file"),
        ("broken.tsv", b"a\tb\n1\n", "not a readable CSV file"),
        ("broken.bin", b"nothing", "not a verification set"),
        ("missing-*.tar", None, "no .tar files"),
        ("broken.pt", b"nothing", "not a file of plain tensors"),
        ("notes.txt", b"hello", "nothing that kdbias knows"),
        ("notes.xml", b"<rss/>", "no OpenVINO network"),
        ("broken.jpg", b"hello", "not a readable image"),
        ("mine.html", b"<html>", "a page that kdbias did not write"),
        ("mine.sh", b"echo kdbias\n", "calls no kdbias command"),
        ("missing", None, "no such file or folder"),
    ],
)
def test_anything_else_is_one_friendly_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KdbiasError, match=message) as caught:
        inspect(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_the_name_of_a_shipped_description_is_enough():
    found = inspect("demo.toml")
    assert found["content"]["name"] == "demo digits"
    check(found)


def test_frontier_study_and_changes_folders(tmp_path):
    run = Run.open(tmp_path / "front", FRONTIER, {"t": 2.5}, {})
    pq.write_table(pa.table({"scheme": ["natural", "hard"]}), run.out / "frontier.parquet")
    run.finish({"schemes": 2}, 0.1)
    found = inspect(run.out)
    assert found["kind"] == "frontier"
    assert found["summary"].startswith("what 2 weight schemes reach and cost at t = 2.5")
    check(found)

    run = Run.open(tmp_path / "study", STUDY, {"name": "tails"}, {})
    numbers = {"planned": 9, "finished": 4, "failed": {}, "learning_rates": {}}
    write_json(run.out / "study.json", {"name": "tails", **numbers})
    run.finish({"runs": 4}, 0.1)
    assert inspect(run.out)["summary"].startswith("study tails: 4 of 9 runs finished, 0 failed")
    assert inspect(run.out / "study.json")["kind"] == "study summary"
    check(inspect(run.out))

    (tmp_path / "changes").mkdir()
    for name in ("groups", "hardness", "samples"):
        (tmp_path / "changes" / f"{name}.csv").write_text("value\n1\n2\n")
    found = inspect(tmp_path / "changes")
    assert found["kind"] == "changes"
    assert "groups.csv 2 rows" in found["summary"]
    check(found)


def test_results_of_a_demo_are_no_uniformity_numbers(tmp_path):
    schemes = [{"scheme": "natural"}, {"scheme": "hard"}]
    found = {"samples": 5, "seeds": 3, "teacher": {}, "schemes": schemes, "students": [{}] * 6}
    write_json(tmp_path / "results.json", found)
    write_json(tmp_path / "uniformity.json", {"n": 5, "d": 2, "schemes": []})
    assert inspect(tmp_path / "results.json")["kind"] == "demo results"
    assert "6 students over 3 seeds; schemes: natural, hard" in inspect(tmp_path / "results.json")["summary"]
    assert inspect(tmp_path / "uniformity.json")["kind"] == "uniformity numbers"


@pytest.mark.parametrize(
    ("name", "content", "summary"),
    [
        ("net.onnx", b"12345", "ONNX network of 5 bytes, not loaded; no preprocessing file beside it"),
        ("net.xml", b'<?xml version="1.0"?><net name="x"/>', "OpenVINO network of 36 bytes"),
        ("commands.sh", b"#!/bin/sh -e\nkdbias embed a -o b\n", "the first: kdbias embed a -o b"),
        ("story.html", b'<html><meta name="generator" content="kdbias report">', "page of kdbias report"),
    ],
)
def test_files_that_are_one_plain_line(tmp_path, name, content, summary):
    (tmp_path / name).write_bytes(content)
    found = inspect(tmp_path / name)
    assert summary in found["summary"]
    assert len(check(found).splitlines()) == 2


def test_a_single_image(tmp_path):
    from PIL import Image

    Image.new("L", (7, 4)).save(tmp_path / "a.png")
    assert inspect(tmp_path / "a.png")["summary"] == "one PNG image of 7 x 4 pixels, mode L"
    check(inspect(tmp_path / "a.png"))


def test_empty_folder_and_foreign_record(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(KdbiasError, match="holds no images"):
        inspect(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "run.json", {"stage": "cook"})
    with pytest.raises(KdbiasError, match="the stage 'cook'"):
        inspect(tmp_path / "other")


def test_looking_at_a_manifest_needs_no_torch(manifest):
    code = (
        "import sys; from kdbias.inspection.describe import inspect;"
        "from kdbias.inspection.printed import as_text;"
        f"as_text(inspect({str(manifest)!r}));"
        "print([m for m in ('torch', 'faiss', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
