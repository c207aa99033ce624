"""Folders that an earlier state of the code made: finished ones are found so, a broken-off one goes on."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdbias.cli import main
from tests.pinned.kills import digest
from tests.pinned.old import BROKEN, FINISHED, FOLDER, broken


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The recorded folders, in another place than where they were made."""
    shutil.copytree(FOLDER, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def done(part: Path) -> bool:
    """Whether a part has its record, which is written after it."""
    return (part.parent / "parts" / f"{part.stem}.json").exists()


def contents(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]
    return {str(f): f.read_bytes() for f in files if f.name != ".lock"}


def results(place: Path) -> dict[str, str]:
    """All but the record of the run, which today's code keeps more in."""
    return {name: value for name, value in digest(place).items() if name != "run.json"}


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_one_is_found_finished(old, name):
    before = contents(old / name)
    result = CliRunner().invoke(main, FINISHED[name].split())
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stderr
    assert contents(old / name) == before


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_goes_on(old, name):
    place = old / f"{name}-broken"
    made = {f: f.stat().st_mtime_ns for f in place.glob("part-*.parquet") if done(f)}
    result = CliRunner().invoke(main, [*broken(name).split(), "-q"])
    assert result.exit_code == 0, result.output
    assert results(place) == results(old / name)
    assert made == {f: f.stat().st_mtime_ns for f in made}, "finished parts are kept"
