"""A model file without its preprocessing: what is asked for can be written as it is printed."""

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kdbias.cli import main
from kdbias.errors import KdbiasError
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.teacher import TeacherOptions


def asked_for(model):
    """The refusal of a model file, and the lines it asks for."""
    with pytest.raises(KdbiasError, match="nothing says what the input") as refused:
        find_preprocessing(str(model), TeacherOptions())
    return str(refused.value), "".join(refused.value.__notes__)


@pytest.mark.parametrize("name", ["mynet.toml", "mynet.onnx.toml"])
def test_the_lines_that_are_asked_for_are_a_side_car(tmp_path, name):
    model = tmp_path / "mynet.onnx"
    message, lines = asked_for(model)
    assert "\n" not in message
    assert "write mynet.toml beside it" in message
    (tmp_path / name).write_text(lines)
    expected = Preprocessing(size=(112, 112), mean=(127.5,), std=(127.5,))
    assert find_preprocessing(str(model), TeacherOptions()) == expected


@pytest.mark.parametrize("name", ["mynet.toml", "mynet.onnx.toml"])
def test_a_side_car_that_is_no_toml_is_told_with_its_line(tmp_path, name):
    (tmp_path / name).write_text("# mine\n[preprocessing] size = [112, 112]\n")
    with pytest.raises(KdbiasError, match=rf"{re.escape(name)}: not a TOML file \(.*at line 2, column 17"):
        find_preprocessing(str(tmp_path / "mynet.onnx"), TeacherOptions())


@pytest.mark.parametrize("text", ["size = [112, 112]\n", "preprocessing = 3\n", "[model]\nlayers = 3\n", ""])
def test_a_file_beside_the_model_without_the_table_is_named(tmp_path, text):
    (tmp_path / "mynet.toml").write_text(text)
    message, _ = asked_for(tmp_path / "mynet.onnx")
    assert r"(mynet.toml beside it: no table [preprocessing])" in message


def test_the_command_prints_the_lines_as_lines(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :8]

    torch.jit.script(Net()).save(str(tmp_path / "mynet.pt"))
    rng = np.random.default_rng(0)
    (tmp_path / "pets").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), np.uint8)).save(tmp_path / "pets" / f"{i}.png")
    arguments = [
        "embed",
        f"{tmp_path}/pets",
        "--teacher",
        f"torchscript:{tmp_path}/mynet.pt",
        "-o",
        f"{tmp_path}/e",
    ]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    lines = refused.stderr.split("made true of your network\n")[1]
    (tmp_path / "mynet.toml").write_text(lines)
    assert CliRunner().invoke(main, arguments).exit_code == 0
