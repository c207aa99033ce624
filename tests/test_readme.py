"""The README's commands, typed as they stand: they work, and what it shows is what comes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kdbias import embed
from kdbias.demonstration.steps import FULL
from kdbias.demonstration.story import write_data
from kdbias.demonstration.teacher import write_teacher

README = (Path(__file__).parents[1] / "README.md").read_text()
# Those whose figures are the same on every machine: students, whose are not, are trained in one block.
BLOCKS = [
    block for block in re.findall(r"^```console\n(.*?)^```", README, re.S | re.M) if "train" not in block
]


def commands(block: str) -> list[tuple[str, str]]:
    """Each command of a block with what it is said to print."""
    return re.findall(r"^\$ (.*?)\n(.*?)(?=^\$ |\Z)", block, re.S | re.M)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where `make demo` has left its data, its teacher and its reference."""
    place = tmp_path_factory.mktemp("readme")
    demo = place / "kdbias-demo"
    (demo / "data").mkdir(parents=True)
    write_data(demo / "data" / "digits.toml", FULL)
    write_teacher(demo / "teacher")
    digits, teacher = str(demo / "data" / "digits.parquet"), f"run:{demo / 'teacher'}"
    embed(
        digits, str(demo / "embeddings" / "reference"), teacher=teacher, where=("split=reference",), workers=0
    )
    return place


def test_there_are_commands_to_check():
    assert len([command for block in BLOCKS for command in commands(block)]) >= 6


def test_commands_work_and_print_what_is_shown(folder):
    program, wrong = Path(sys.executable).with_name("kdbias"), []
    for command, shown in (each for block in BLOCKS for each in commands(block)):
        words = shlex.split(command)
        assert words[0] == "kdbias"
        done = subprocess.run(
            [program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        came, at = flat(done.stdout + done.stderr), 0
        for part in re.split(r"^\s*\.\.\.\n", shown, flags=re.M):
            found = came.find(flat(part), at)
            if found < 0:
                wrong.append(f"{command}\nshows\n{part}\nbut prints\n{done.stdout}")
            at = max(at, found)
    assert not wrong, "\n\n".join(wrong)
