"""A refusal after --overwrite puts the old output back, and files of others stay."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdbias.cli import main
from tests.pinned.world import STAGES

REFUSED_LATE = {
    # what is only seen when the work is under way, behind an option that makes another run of it
    "emb": (
        "embed {w}/data.parquet -o {o} --teacher precomputed:{w}/faulty.npy --same-order --where person!=p28"
    ),
    "density": "uniformity {w}/emb -o {o} --t 2 --k 300 --weights {w}/weights/kept.parquet",
    "weights/hard.parquet": "weights {w}/density -o {o} --method cluster-balanced --clusters 400,5",
    "frontier": "weights {w}/density -o {o} --frontier --t 1e9",
    "run": "train {w}/data.parquet -o {o} --embeddings {w}/emb --lr 1e30 --epochs 3 --workers 0 --device cpu",
    "score/knn": "evaluate {w}/emb -o {o} --protocol linear --gallery {w}/emb",
    "changes": "changes {w}/weights/hard.parquet -o {o} --group-by shoe",
    "page.html": "report {w}/vectors.npy -o {o}",
}
PUT_BACK_LATER = {"emb": STAGES["embed-defaults"]}
"""Where the old output may lie aside until the command that made it, or a mended one, comes."""
ANOTHER = {
    "emb": STAGES["embed-precomputed"],
    "density": STAGES["uniformity-vmf"],
    "frontier": STAGES["frontier-options"] + " --tolerance 0.5",
    "run": STAGES["train-config"],
    "score/knn": STAGES["evaluate-knn-options"],
}
"""Other options that the same folder may be started over with."""


def contents(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]
    return {str(f.relative_to(place)): f.read_bytes() for f in files if f.name != ".lock"}


@pytest.fixture
def copied(world, tmp_path):
    """A function that copies an output of the world, with a file of somebody else in it if it is a folder."""

    def copy(name: str) -> Path:
        place = tmp_path / Path(name).name
        if (world / name).is_dir():
            shutil.copytree(world / name, place)
            (place / "notes.txt").write_text("mine")
            (place / "my slide.png").write_bytes(b"mine")
        else:
            shutil.copy(world / name, place)
        return place

    return copy


@pytest.mark.parametrize("name", REFUSED_LATE)
def test_a_refusal_puts_the_old_output_back(world, monkeypatch, copied, name):
    place = copied(name)
    before = contents(place)
    arguments = REFUSED_LATE[name].format(w=world, o=place).split()
    overwrite = [] if arguments[0] == "changes" else ["--overwrite"]
    result = CliRunner().invoke(main, [*arguments, *overwrite, "-q"])
    assert result.exit_code == 2, result.output
    if name in PUT_BACK_LATER:
        words = PUT_BACK_LATER[name].split()
        words[words.index("-o") + 1] = str(place)
        monkeypatch.chdir(world)
        assert CliRunner().invoke(main, [*words, "-q"]).exit_code == 0
    assert contents(place) == before
    assert [entry.name for entry in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("name", ANOTHER)
def test_files_of_others_stay(world, monkeypatch, copied, name):
    monkeypatch.chdir(world)
    place = copied(name)
    before = contents(place)
    words = ANOTHER[name].split()
    words[words.index("-o") + 1] = str(place)
    result = CliRunner().invoke(main, [*words, "--overwrite", "-q"])
    assert result.exit_code == 0, result.output
    after = contents(place)
    assert after["notes.txt"] == after["my slide.png"] == b"mine"
    assert after["run.json"] != before["run.json"]
    assert not [name for name in after if "kdbias-tmp" in name or ".replaced" in name]


@pytest.mark.parametrize("command", [STAGES[k] for k in ("embed-defaults", "uniformity-vmf", "train-config")])
def test_a_folder_of_somebody_else_is_left_alone(world, monkeypatch, tmp_path, command):
    monkeypatch.chdir(world)
    (tmp_path / "notes.txt").write_text("mine")
    words = command.split()
    words[words.index("-o") + 1] = str(tmp_path)
    for more in ([], ["--overwrite"]):
        result = CliRunner().invoke(main, [*words, *more, "-q"])
        assert result.exit_code == 2, result.output
        assert contents(tmp_path) == {"notes.txt": b"mine"}
