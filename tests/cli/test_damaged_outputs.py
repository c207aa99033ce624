"""An output that was cut short or overwritten is named in one line by every command that reads it."""

import shutil

import pytest

from kdbias.tables.documents import read_json, write_json
from tests.cli.outputs import run

DAMAGES = {
    "emptied": lambda content: b"",
    "half of it": lambda content: content[: len(content) // 2],
    "all but a byte": lambda content: content[:-1],
    "overwritten": lambda content: b"{}",
}

COMMANDS = {
    "embed": "embed {data} -o {out} --teacher precomputed:{root}/vectors.npy --same-order",
    "embed by a run": "embed {data} -o {out} --teacher run:{root}/run --workers 0",
    "uniformity": "uniformity {root}/emb -o {out} --k 5 --t 2",
    "uniformity again": "uniformity {root}/emb -o {root}/density --k 5 --t 2,5 --estimator vmf",
    "uniformity of weights": "uniformity {root}/emb -o {out} --k 5 --t 2 --weights {root}/w.parquet",
    "weights": "weights {root}/density -o {out}.parquet --embeddings {root}/emb --tolerance 0.1 --t chosen",
    "weights again": "weights {root}/density -o {root}/w.parquet",
    "frontier again": "weights {root}/density -o {root}/frontier --frontier",
    "changes": "changes {root}/w.parquet --density {root}/density",
    "train": "train {data} -o {out} --embeddings {root}/emb --weights {root}/w.parquet --workers 0",
    "train again": "train {data} -o {root}/run --embeddings {root}/emb --workers 0 --epochs 1",
    "evaluate": "evaluate {root}/emb -o {out} --protocol knn --tail-from {root}/density",
    "evaluate a run": "evaluate {root}/run --data {data} -o {out} --bootstrap 0",
    "evaluate again": "evaluate {root}/emb -o {root}/knn --bootstrap 100",
    "compare": "compare {root}/knn --to {root}/knn2",
    "report": "report {root} {root}/w.parquet -o {out}.html",
    "inspect": "inspect {file}",
    "inspect its folder": "inspect {folder}",
}

READERS = {
    "vectors.npy": ["embed", "inspect"],
    "emb/run.json": ["uniformity", "weights", "train", "evaluate", "report", "inspect its folder"],
    "emb/part-00001.parquet": ["uniformity", "weights", "train", "evaluate", "report", "inspect its folder"],
    "density/run.json": ["uniformity again", "report", "inspect its folder"],
    "density/uniformity.json": ["uniformity again", "weights", "report", "inspect its folder"],
    "density/density.parquet": ["uniformity again", "weights", "evaluate", "report", "inspect its folder"],
    "density/schemes.parquet": ["uniformity again", "changes", "inspect"],
    "density/neighbors.parquet": ["uniformity again", "inspect"],
    "w.parquet": ["uniformity of weights", "weights again", "changes", "train", "report", "inspect"],
    "frontier/run.json": ["frontier again", "report", "inspect its folder"],
    "frontier/frontier.parquet": ["frontier again", "report", "inspect its folder"],
    "run/run.json": ["train again", "report", "inspect its folder"],
    "run/student.pt": ["evaluate a run", "embed by a run", "inspect"],
    "knn/run.json": ["evaluate again", "report", "inspect its folder"],
    "knn/metrics.json": ["evaluate again", "compare", "report", "inspect its folder"],
    "knn/units.parquet": ["compare", "inspect"],
}


def refused(result, name: str) -> None:
    """Status 2 and one line that names the file."""
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert name in line


@pytest.mark.parametrize(
    ("name", "reader"), [(name, reader) for name, readers in READERS.items() for reader in readers]
)
def test_damage_is_named_in_one_line(outputs, tmp_path, name, reader):
    root = shutil.copytree(outputs, tmp_path / "outputs")
    file = root / name
    whole = file.read_bytes()
    places = {"root": root, "data": root / "data.parquet", "file": file, "folder": file.parent}
    for number, (damage, damaged) in enumerate(DAMAGES.items()):
        if file.suffix == ".json" and damage == "all but a byte":
            continue  # the line's end, which JSON can do without
        file.write_bytes(damaged(whole))
        refused(run(COMMANDS[reader], out=tmp_path / f"out{number}", **places), file.name)


def test_a_damaged_checkpoint(outputs, tmp_path):
    root = shutil.copytree(outputs, tmp_path / "outputs")
    record = read_json(root / "run" / "run.json")
    write_json(root / "run" / "run.json", {**record, "status": "running"})
    file = root / "run" / "checkpoint.pt"
    whole = file.read_bytes()
    for damaged in DAMAGES.values():
        file.write_bytes(damaged(whole))
        refused(run(COMMANDS["train again"], root=root, data=root / "data.parquet"), file.name)
