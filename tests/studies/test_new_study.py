"""The file that is written for some data: what it holds, and that a study of it runs."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from kdbias.cli import main
from kdbias.errors import KdbiasError
from kdbias.studies.new_study import new_study
from kdbias.studies.preparation import locate, prepare
from kdbias.studies.settings import Machine, read_study
from kdbias.studies.stage import study
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.teachers.spec import placed_spec

CPU = Machine("cpu", 1)


KNOWN = "torchvision:resnet18@random"


def edited(file: Path, *changes: tuple[str, str]) -> Path:
    text = file.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    file.write_text(text)
    return file


def test_an_embedding_table_and_a_reference_make_a_study_of_all_candidates(deployed, tmp_path):
    made = new_study(deployed.embeddings, tmp_path / "s.toml", towards=deployed.reference)
    wanted = read_study(made.path)
    assert list(wanted.arms) == ["natural", "matched", "inverse-density", "class-balanced"]
    assert wanted.arms["matched"].manifest == {"method": "matched", "towards": "@reference", "min_ess": 0.5}
    (data,) = wanted.data.values()
    assert (data.source, data.deployment.source) == (deployed.data, deployed.reference_data)
    assert data.teacher == f"precomputed:{deployed.embeddings}"
    assert data.deployment.teacher == f"precomputed:{deployed.reference}"
    assert (data.image_size, data.steps, data.reserve) == (28, 200, 0.5)
    assert data.primary == (
        "fidelity.distance",
        "fidelity.distance[label:worst]",
        "knn.centroid_balanced_accuracy",
    )
    assert wanted.rounds["main"].seeds == (0, 1, 2)
    assert made.summary().endswith(f"kdbias study {made.path}")


def test_the_deployment_is_judged_on_but_for_the_reference(deployed, tmp_path):
    file = new_study(deployed.embeddings, tmp_path / "s.toml", towards=deployed.reference).path
    edited(
        file,
        ("reserve = 0.5", "reserve = 0.3\nsamples = 60"),
        ("[data.biased.reference.main]", "samples = 40\n[data.biased.reference.main]"),
    )
    (data,) = read_study(file).data.values()
    prepared = locate(data, tmp_path / "out")
    prepare(prepared, CPU)
    table, reserve = EmbeddingTable.open(prepared.table), EmbeddingTable.open(prepared.reserve)
    part = np.array(table.column("study_part").to_pylist())
    ids = np.array(table.ids().to_pylist())
    known = {}  # of both tables, by the extract's ids
    for place, prefix in ((deployed.embeddings, ""), (deployed.reference, "deployment/")):
        own = EmbeddingTable.open(place)
        known |= {
            prefix + name: vector for name, vector in zip(own.ids().to_pylist(), own.vectors(), strict=True)
        }
    assert ((part == "train").sum(), (part == "test").sum(), reserve.n) == (60, 28, 12)
    assert all(name.startswith("deployment/") == (p == "test") for name, p in zip(ids, part, strict=True))
    assert all(name.startswith("deployment/") for name in reserve.ids().to_pylist())
    assert len({*ids, *reserve.ids().to_pylist()}) == 100
    for found in (table, reserve):
        expected = np.stack([known[name] for name in found.ids().to_pylist()])
        assert np.abs(found.vectors() - expected).max() < 2e-3  # rounded to float16 once more
    images = pq.read_table(prepared.images)
    assert images.num_rows == 100
    other = locate(
        read_study(edited(file, ("samples = 40", "samples = 41"))).data["biased"], tmp_path / "out"
    )
    assert other.folder != prepared.folder


def test_what_is_written_runs_and_trains_the_steps_that_it_names(deployed, tmp_path):
    made = new_study(deployed.embeddings, tmp_path / "s.toml", towards=deployed.reference, group_by=["label"])
    edited(
        made.path,
        ("steps = 200", "steps = 7"),
        ("seeds = [0, 1, 2]", 'seeds = [0]\narms = ["natural", "matched"]'),
    )
    result = study(made.path, device="cpu")
    assert result.path == tmp_path / "s"
    table = pd.read_parquet(result.path / "results.parquet")
    assert set(table.steps) == {7}
    assert set(table.arm) == {"natural", "matched"}
    assert {f"fidelity.distance[label={digit}]" for digit in range(10)} <= set(table.metric)
    assert (
        table[table.arm == "matched"].discrepancy.iloc[0] < table[table.arm == "natural"].discrepancy.iloc[0]
    )


def test_data_with_a_teacher_hold_out_a_part_and_leave_out_what_cannot_be_read(deployed, tmp_path, capsys):
    table = pq.read_table(deployed.data)
    images = table["image"].to_pylist()
    images[3] = images[3][:40]
    broken = tmp_path / "broken.parquet"
    pq.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", pa.array(images, pa.binary())),
        broken,
    )
    file = new_study(broken, tmp_path / "s.toml", teacher=f"precomputed:{deployed.embeddings}").path
    assert list(read_study(file).arms) == ["natural", "inverse-density", "class-balanced"]
    (data,) = read_study(file).data.values()
    assert data.holdout == 0.2
    prepared = locate(data, tmp_path / "out")
    prepare(prepared, CPU)
    assert f"{table['sample_id'][3].as_py()} (" in capsys.readouterr().err
    found = EmbeddingTable.open(prepared.table)
    assert found.n == pq.read_metadata(prepared.images).num_rows == table.num_rows - 1
    assert table["sample_id"][3].as_py() not in found.ids().to_pylist()


def test_samples_that_the_teacher_could_not_read_take_no_part(deployed, tmp_path, capsys):
    table = pq.read_table(deployed.data)
    images = table["image"].to_pylist()
    images[3] = images[3][:40]
    broken = tmp_path / "broken.parquet"
    pq.write_table(
        table.set_column(table.schema.get_field_index("image"), "image", pa.array(images, pa.binary())),
        broken,
    )
    (tmp_path / "pixels.py").write_text(PIXELS)
    from kdbias import embed

    embed(broken, tmp_path / "emb", teacher=f"python:{tmp_path / 'pixels.py'}:factory", workers=0)
    file = new_study(tmp_path / "emb", tmp_path / "s.toml").path
    (data,) = read_study(edited(file, ("holdout", "samples = 50\nholdout"))).data.values()
    prepare(prepared := locate(data, tmp_path / "out"), CPU)
    assert "1 sample of" in capsys.readouterr().err
    assert EmbeddingTable.open(prepared.table).n == 50


PIXELS = """
import numpy as np

class Pixels:
    preprocessing = {"size": [28, 28], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        return batch.reshape(len(batch), -1)[:, ::16].astype(np.float32) + 1

def factory(device):
    return Pixels()
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a teacher with --teacher, or give an embedding table"),
        ({"teacher": "run:x"}, "--teacher: run:x: no such file or folder"),
        ({"teacher": KNOWN, "group_by": ["race"]}, "--group-by race: no such column; there are label"),
        ({"teacher": KNOWN, "towards": "nowhere"}, "nowhere"),
        ({"teacher": KNOWN, "towards": "balanced:race"}, "no column 'race'; it has: label"),
        ({"teacher": KNOWN, "towards": "balanced:label@s.csv"}, "leave @s.csv out"),
        ({"teacher": KNOWN, "towards": "ref@w.parquet"}, "leave @w.parquet out"),
        ({"teacher": "run:x", "towrads": "ref"}, "did you mean 'towards'"),
    ],
)
def test_what_cannot_be_written_is_refused(deployed, tmp_path, options, message):
    with pytest.raises(KdbiasError, match=message):
        new_study(deployed.data, tmp_path / "s.toml", **options)
    assert not (tmp_path / "s.toml").exists()


def test_the_command_in_its_first_line_writes_it_again(deployed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my teacher.py").write_text(PIXELS)
    options = {"teacher": "python:my teacher.py:factory", "group_by": ["label"], "flip": "same"}
    file = new_study(deployed.data, "s.toml", id_column="sample_id", **options).path
    text = file.read_text()
    file.unlink()
    words = shlex.split(text.partition("\n")[0].split("`")[1])
    assert words[:3] == ["kdbias", "study", "--init"]
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, done.output
    assert file.read_text() == text
    assert 'flip = "same"' in text


@pytest.mark.parametrize(
    ("spec", "placed"),
    [
        ("python:my.py:factory", "python:{}/my.py:factory"),
        ("python:package.module:factory", "python:package.module:factory"),
        ("kdbias:convnet@w.pt", "kdbias:convnet@{}/w.pt"),
        ("torchvision:resnet18@w.pt", "torchvision:resnet18@{}/w.pt"),
        ("torchvision:resnet18@random:3", "torchvision:resnet18@random:3"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("onnx:net.onnx", "onnx:{}/net.onnx"),
        ("precomputed:v.npy", "precomputed:{}/v.npy"),
        ("run:student", "run:{}/student"),
        ("student", "run:{}/student"),
    ],
)
def test_a_teacher_in_a_file_is_found_from_any_folder(tmp_path, monkeypatch, spec, placed):
    for name in ("my.py", "w.pt", "net.onnx", "v.npy"):
        (tmp_path / name).touch()
    (tmp_path / "student").mkdir()
    monkeypatch.chdir(tmp_path)
    assert placed_spec(spec) == placed.format(tmp_path)


def test_a_relative_teacher_and_a_pattern_run_from_elsewhere(deployed, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    Path("pixels.py").write_text(PIXELS)
    file = new_study(deployed.data, "s.toml", teacher="python:pixels.py:factory").path.absolute()
    monkeypatch.chdir(tmp_path)
    (data,) = read_study(file).data.values()
    assert data.teacher == f"python:{tmp_path / 'there' / 'pixels.py'}:factory"
    assert study(file, tmp_path / "out", dry_run=True).document["todo"]


def test_a_file_that_is_there_is_left_alone(deployed, tmp_path):
    (tmp_path / "s.toml").write_text("mine")
    with pytest.raises(KdbiasError, match="exists already"):
        new_study(deployed.embeddings, tmp_path / "s.toml")
    assert (tmp_path / "s.toml").read_text() == "mine"


def test_the_command_writes_it_and_refuses_what_does_not_go_together(deployed, tmp_path):
    command = [sys.executable, "-m", "kdbias.cli", "study"]
    done = subprocess.run(
        [*command, "--init", deployed.embeddings, "-o", str(tmp_path / "a.toml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "run it with: kdbias study" in done.stdout
    assert read_study(tmp_path / "a.toml").arms
    for words in (
        [],
        ["x.toml", "--init", deployed.embeddings],
        ["--init", deployed.embeddings, "--workers", "2"],
    ):
        refused = subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr


def test_data_too_few_for_a_study_are_named_and_not_their_deployment(tmp_path):
    for name, n in (("few", 3), ("many", 20)):
        (tmp_path / name).mkdir()
        for i in range(n):
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / name / f"{i}.png")
    few, many = tmp_path / "few", tmp_path / "many"
    for data, towards in ((few, None), (few, many), (many, few)):
        with pytest.raises(KdbiasError, match=r"few: 3 samples; a study needs 4 or more"):
            new_study(data, tmp_path / "s.toml", teacher="python:x.py:y", towards=towards)
