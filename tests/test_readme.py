"""The README's commands, typed as they stand: they work, and what it shows is what comes."""

import re
from pathlib import Path

import pytest

from kdbias import embed
from kdbias.demonstration.steps import FULL
from kdbias.demonstration.story import write_data
from kdbias.demonstration.teacher import write_teacher
from tests.typed import commands, unlike

README = (Path(__file__).parents[1] / "README.md").read_text()
# Those whose figures are the same on every machine: students, whose are not, are trained in one block.
BLOCKS = [
    block for block in re.findall(r"^```console\n(.*?)^```", README, re.S | re.M) if "train" not in block
]


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
    wrong = [line for block in BLOCKS for line in unlike(block, folder)]
    assert not wrong, "\n\n".join(wrong)
