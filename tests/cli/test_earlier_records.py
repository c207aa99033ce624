"""Outputs that were made before there was an option: as if it had been at its default."""

import shutil

import pytest

from kdbias.evaluation.stage import read_metrics
from kdbias.tables.documents import write_json
from kdbias.tables.parquet_file import read_provenance, read_table, write_table
from kdbias.tables.run_record import read_record
from tests.cli.outputs import run

# folder -> its command, the options that were given (none of them is the default) and another option
EARLIER = {
    "emb": (
        "embed data.parquet -o emb --teacher precomputed:vectors.npy --same-order --rows-per-part 12",
        {"rows_per_part"},
        ("--store float32", "store: 'float16' -> 'float32'"),
    ),
    "again": (
        "embed data.parquet -o again --teacher run:run --workers 0",
        {"preprocessing.size", "preprocessing.color", "preprocessing.mean", "preprocessing.std"},
        ("--flip", "flip: False -> True"),
    ),
    "density": (
        "uniformity emb -o density --k 5 --t 2,5",
        {"k", "t"},
        ("--seed 3", "seed: 0 -> 3"),
    ),
    "w.parquet": (
        "weights density -o w.parquet",
        set(),
        ("--temper 0.5", "temper: 1.0 -> 0.5"),
    ),
    "frontier": (
        "weights density -o frontier --frontier",
        set(),
        ("--seed 1", "seed: 0 -> 1"),
    ),
    "run": (
        "train data.parquet -o run --embeddings emb --workers 0 --epochs 1",
        {"epochs"},
        ("--clip-grad 1", "clip_grad: 5.0 -> 1.0"),
    ),
    "knn": (
        "evaluate emb -o knn --bootstrap 100",
        {"bootstrap"},
        ("--k 3", "options.k: 5 -> 3"),
    ),
    "student": (
        "evaluate run -o student --data data.parquet --workers 0 --bootstrap 100",
        {"bootstrap"},
        ("--precision bf16", "embedding.precision: None -> 'bf16'"),
    ),
}


@pytest.fixture(scope="module")
def made(outputs, tmp_path_factory):
    root = shutil.copytree(outputs, tmp_path_factory.mktemp("earlier") / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("again", "student"):
            result = run(EARLIER[name][0])
            assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "copy"))


def config_of(name):
    return read_provenance(name)["config"] if name.endswith(".parquet") else read_record(name)["config"]


def put(name, config, **more):
    if name.endswith(".parquet"):
        write_table(name, read_table(name), read_provenance(name) | {"config": config})
    else:
        write_json(f"{name}/run.json", read_record(name) | {"config": config} | more)


def kept(config, names, below=""):
    """Of a configuration the values of these dotted names, and its tables."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found[key] = kept(value, names, f"{below}{key}.")
        elif below + key in names:
            found[key] = value
    return found


@pytest.mark.parametrize("name", EARLIER)
def test_it_is_finished_and_other_options_are_refused_by_name(here, name):
    command, given, (other, named) = EARLIER[name]
    before = config_of(name)
    put(name, kept(before, given))
    result = run(command)
    assert result.exit_code == 0, result.output
    assert config_of(name) == kept(before, given), "it was not made again"
    result = run(f"{command} {other}")
    assert result.exit_code == 2
    assert f"was made differently ({named})" in result.stderr
    for lacking in given:
        put(name, kept(before, given - {lacking}))
        result = run(command)
        assert (result.exit_code, f"({lacking}: " in result.stderr) == (2, True), (lacking, result.output)


@pytest.mark.parametrize("name", ["density", "run", "knn"])
def test_it_is_resumed(here, name):
    command, given, (other, named) = EARLIER[name]
    put(name, kept(config_of(name), given), status="running")
    assert named in run(f"{command} {other}").stderr
    result = run(command)
    assert result.exit_code == 0, result.output
    assert read_record(name)["status"] == "finished"


def test_evaluations_with_and_without_the_options_are_compared(here):
    before = run("compare knn --to knn2 --bootstrap 100").stdout
    document = read_metrics("knn")
    write_json("knn/metrics.json", document | {"config": document["config"] | {"options": {}}})
    result = run("compare knn --to knn2 --bootstrap 100")
    assert (result.exit_code, result.stdout) == (0, before), result.output
    document["config"]["options"]["k"] = 3
    write_json("knn/metrics.json", document)
    assert "with different k" in run("compare knn --to knn2 --bootstrap 100").stderr
