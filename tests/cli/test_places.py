"""What no command writes over or waits for: somebody's files, links, stores, FIFOs and devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from kdbias.cli import main

COMMANDS = {
    "embed": "embed {data} --teacher precomputed:{vectors} --same-order -o",
    "plan": "embed {data} --teacher precomputed:{vectors} --same-order --plan -o",
    "run": "run {data} --teacher precomputed:{vectors} --same-order --pictures 0 -o",
    "uniformity": "uniformity {emb} --k 3 --t 2 -o",
    "weights": "weights {density} --method inverse-density -o",
    "frontier": "weights {density} --frontier -o",
    "changes": "changes {w} -o",
    "train": "train {data} --embeddings {emb} --workers 0 --epochs 1 -o",
    "evaluate": "evaluate {emb} --bootstrap 0 -o",
    "compare": "compare {knn} --to {knn} --bootstrap 100 -o",
    "report": "report {density} --pictures 0 -o",
    "study": "study {study} -o",
    "demo": "demo --quick -o",
}
SUFFIX = {"weights": ".parquet", "compare": ".json", "report": ".html"}


@pytest.fixture(scope="module")
def places(small, tmp_path_factory) -> dict[str, Path]:
    """`small` and an output of each stage that others read."""
    root = tmp_path_factory.mktemp("places")
    found = {**small, "density": root / "density", "w": root / "w.parquet", "knn": root / "knn"}
    found["study"] = root / "study.toml"
    found["study"].write_text("")
    for name, out in (("uniformity", "density"), ("weights", "w"), ("evaluate", "knn")):
        result = call(name, found, found[out])
        assert result.exit_code == 0, result.output
    return found


def call(name: str, places: dict[str, Path], output: object, *more: str):
    words = COMMANDS[name].format(**places).split()
    return CliRunner().invoke(main, [*words, str(output), "-q", *more])


def refused(result, *fragments: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    for fragment in fragments:
        assert fragment in line, line


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_on_the_web_or_in_an_unknown_store_is_refused(places, tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"http://bucket/out{SUFFIX.get(name, '')}"
    refused(call(name, places, uri), f"{uri} cannot be written to", "local path")
    if name not in ("plan", "changes", "study"):  # which look at it later, or see to other faults first
        uri = f"made-up://bucket/out{SUFFIX.get(name, '')}"
        refused(call(name, places, uri), "made-up://bucket: cannot reach this store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_written_to_a_fifo_or_device(places, tmp_path, name) -> None:
    fifo = tmp_path / f"out{SUFFIX.get(name, '')}"
    os.mkfifo(fifo)
    refused(call(name, places, fifo), "is a FIFO")
    assert fifo.is_fifo()
    refused(call(name, places, "/dev/null"), "/dev/null is a device")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "command",
    [
        "inspect {fifo}.parquet",
        "inspect {fifo}.json",
        "uniformity {fifo}.parquet -o {out}",
        "weights {fifo}.parquet -o {out}.parquet",
        "changes {fifo}.csv",
        "train {fifo}.rec --loss softmax -o {out}",
        "embed {fifo}.tar --teacher torchvision:resnet18 -o {out}",
        "embed {data} --teacher precomputed:{fifo}.npy -o {out}",
        "embed {data} --teacher onnx:{fifo}.onnx -o {out}",
        "embed {data} --teacher run:{folder} -o {out}",
        "embed {folder} --teacher precomputed:{vectors} --same-order -o {out}",
        "uniformity {folder} -o {out}",
        "evaluate {emb} --protocol verification --pairs {fifo}.txt -o {out}",
        "report {folder} -o {out}.html",
        "train {data} --config {fifo}.toml -o {out}",
    ],
)
def test_nothing_waits_for_a_fifo(places, tmp_path, command) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("run.json", "train.rec", "train.idx", "student.pt", "part-00000.parquet"):
        os.mkfifo(folder / name)
    for suffix in (".parquet", ".json", ".csv", ".rec", ".tar", ".npy", ".onnx", ".txt", ".toml"):
        os.mkfifo(tmp_path / f"fifo{suffix}")
    words = command.format(fifo=tmp_path / "fifo", folder=folder, out=tmp_path / "out", **places).split()
    signal.alarm(60)  # ends the tests where it is opened
    try:
        refused(CliRunner().invoke(main, [*words, "-q"]))
    finally:
        signal.alarm(0)
    assert not (tmp_path / "out").exists()


def test_changes_replace_their_own_tables_alone(places, tmp_path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "samples.csv").write_text("sample_id,weight\na,1\n")
    refused(call("changes", places, mine), "samples.csv exists and is not by kdbias changes")
    assert [(path.name, path.read_text()) for path in mine.iterdir()] == [
        ("samples.csv", "sample_id,weight\na,1\n")
    ]
    (mine / "samples.csv").unlink()
    (tmp_path / "victim.csv").write_text("precious")
    (mine / "groups.csv").symlink_to(tmp_path / "victim.csv")
    refused(call("changes", places, mine), "groups.csv is a link")
    assert (tmp_path / "victim.csv").read_text() == "precious"
    (mine / "groups.csv").unlink()
    for _ in range(2):
        assert call("changes", places, mine).exit_code == 0
    assert len(list(mine.iterdir())) == 3


def test_weights_replace_a_manifest_alone(places, tmp_path) -> None:
    out = tmp_path / "w.parquet"
    frame = pd.DataFrame({"sample_id": ["a"], "weight": [1.0]})
    makes = {
        "a table of somebody": lambda: frame.to_parquet(out),
        "a text": lambda: out.write_text("precious"),
        "another output": lambda: out.write_bytes((places["density"] / "density.parquet").read_bytes()),
        "a hard link to an input": lambda: out.hardlink_to(places["density"] / "density.parquet"),
    }
    for make in makes.values():
        make()
        before = out.read_bytes()
        for more in ([], ["--overwrite"]):
            refused(call("weights", places, out, *more), "w.parquet exists and is no manifest")
        assert out.read_bytes() == before
        out.unlink()
    (tmp_path / "theirs.parquet").write_bytes(places["w"].read_bytes())
    out.symlink_to(tmp_path / "theirs.parquet")
    refused(call("weights", places, out, "--overwrite"), "w.parquet is a link")
    assert out.is_symlink()
    out.unlink()
    assert call("weights", places, out).exit_code == 0
    out.write_bytes(out.read_bytes()[:500])  # cut short: nothing to lose
    refused(call("weights", places, out), "not a readable Parquet file")
    assert call("weights", places, out, "--overwrite").exit_code == 0


@pytest.mark.parametrize("name", ["compare", "report"])
def test_single_files_replace_no_link_and_nobody_s_file(places, tmp_path, name) -> None:
    out = tmp_path / f"o{SUFFIX[name]}"
    (tmp_path / "theirs").write_text("{}")
    out.symlink_to(tmp_path / "theirs")
    refused(call(name, places, out), "is a link")
    out.unlink()
    out.write_text("{}")
    refused(call(name, places, out), "exists")
    assert out.read_text() == (tmp_path / "theirs").read_text() == "{}"


@pytest.mark.parametrize("name", SUFFIX)
def test_what_a_killed_run_left_goes_at_the_next(places, tmp_path, name) -> None:
    out = tmp_path / f"o{SUFFIX[name]}"
    code = (
        "import os, sys; from kdbias.tables.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path: path.touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f"{out.name}.")
    assert call(name, places, out).exit_code == 0
    assert list(tmp_path.iterdir()) == [out]


def test_starting_over_never_removes_the_input(places, tmp_path) -> None:
    assert call("embed", places, tmp_path / "e").exit_code == 0
    part = tmp_path / "e" / "part-00000.parquet"
    words = f"embed {places['data']} --teacher precomputed:{part} -o {tmp_path / 'e'} --overwrite"
    refused(CliRunner().invoke(main, words.split()), "part-00000.parquet is an input")
    assert part.exists()


def test_an_input_that_is_not_there_is_the_command_s_and_a_full_disk_the_machine_s(
    places, tmp_path, monkeypatch
) -> None:
    assert call("uniformity", {**places, "emb": tmp_path / "no"}, tmp_path / "o").exit_code == 2
    assert call("evaluate", {**places, "emb": tmp_path / "no"}, tmp_path / "o").exit_code == 2
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("embed", "uniformity", "weights", "frontier", "changes", "train", "evaluate", "report"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            result = call(name, places, tmp_path / f"o_{name}{SUFFIX.get(name, '')}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert result.exit_code == 1, (name, result.output)
        assert result.stderr.startswith("Error: cannot write to ")
        assert "Traceback" not in result.output
