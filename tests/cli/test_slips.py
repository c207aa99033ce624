"""What is refused before torch is imported, and what a slip of the pen is told."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from kdbias.cli import main
from kdbias.errors import KdbiasError
from kdbias.networks import require_network
from kdbias.tables.files import nearest_path
from kdbias.teachers.spec import parse_spec
from kdbias.training.settings import TrainingSettings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images in classes cat and dog below pets/, here."""
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pets" / name / "1.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_slips_are_refused_without_torch(folder):
    resnet = ["--teacher", "torchvision:resnet18"]
    slips = {
        "did you mean 'timm:resnet18'": ["embed", "pets", "-o", "x", "--teacher", "tim:resnet18"],
        "nix.onnx: no such file": ["embed", "pets", "-o", "x", "--teacher", "onnx:nix.onnx"],
        "no file of weights 'nix.pt'": ["embed", "pets", "-o", "x", "--teacher", "timm:resnet18@nix.pt"],
        "did you mean 'pets'": ["embed", "pest", "-o", "x", *resnet],
        "did you mean 'cat'": ["embed", "pets", "-o", "x", *resnet, "--where", "label=cta"],
        "did you mean 'label'": ["embed", "pets", "-o", "x", *resnet, "--where", "lable=cat"],
        "batch_size is 0": ["embed", "pets", "-o", "x", *resnet, "--batch-size", "0"],
        "emp is not an embedding table": ["train", "pets", "-o", "x", "--embeddings", "emp"],
        "w.csv: no such file": ["train", "pets", "-o", "x", "--loss", "softmax", "--weights", "w.csv"],
        "did you mean 'mobilefacenet'": ["train", "pets", "-o", "x", "--student", "mobilfacenet"],
        "unknown loss 'l3e'": ["train", "pets", "-o", "x", "--loss", "l3e"],
        "did you mean 'pets'; again": ["train", "pest", "-o", "x", "--loss", "softmax"],
        "run:nix: no such file": ["evaluate", "run:nix", "-o", "x", "--data", "pets"],
        "did you mean 'equilibrium'": ["weights", "d", "-o", "w.parquet", "--method", "equilibirum"],
        "did you mean 'fidelity'": ["evaluate", "d", "-o", "x", "--protocol", "fidelty"],
    }
    script = (
        "import sys\nfrom kdbias.cli import main\n"
        f"for slip in {list(slips.values())!r}:\n"
        "    try: main(slip)\n"
        "    except SystemExit as end: print(end.code, file=sys.stderr)\n"
        "    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [line for line in ran.stderr.splitlines() if line.startswith(("Error", "2", "True", "False"))]
    assert lines[1::3] == ["2"] * len(slips), ran.stderr
    assert lines[2::3] == ["False"] * len(slips), ran.stderr
    for message, line in zip(slips, lines[::3], strict=True):
        assert message.partition(";")[0] in line


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("resnet18", "did you mean 'torchvision:resnet18' or 'timm:resnet18'?"),
        ("resnet18@random", "did you mean 'torchvision:resnet18' or 'timm:resnet18'?"),
        ("iresnet5O", "did you mean 'kdbias:iresnet50@FILE'?"),
        ("model.onnx", "did you mean 'onnx:model.onnx'?"),
        *(
            (name, f"timm:NAME@{name}, kdbias:NAME@{name}; a program is torchscript:{name}")
            for name in ("my_weights.pt", "mine.pth", "model.safetensors")
        ),
        ("vectors.npy", "did you mean 'precomputed:vectors.npy'?"),
        ("tim:vit_tiny", "did you mean 'timm:vit_tiny'?"),
        ("kdbias:iresnet5@random", "did you mean 'iresnet50'?"),
    ],
)
def test_a_teacher_that_is_none_is_told_the_nearest(spec, meant, folder):
    with pytest.raises(KdbiasError) as caught:
        parse_spec(spec)
    assert str(caught.value).endswith(meant)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("resnet18", "; did you mean 'torchvision:resnet18' or 'timm:resnet18'?"),
        ("torchvison:resnet18", "; did you mean 'torchvision:resnet18'?"),
        ("IResNet5", "; did you mean 'iresnet50'?"),
        (":resnet18", "timm:NAME"),
        ("???", "timm:NAME"),
    ],
)
def test_a_student_that_is_none_is_told_the_nearest(name, meant):
    with pytest.raises(KdbiasError) as caught:
        require_network(name)
    assert str(caught.value).endswith(meant)
    with pytest.raises(KdbiasError, match="unknown network"):
        TrainingSettings.of({"student": name})


def test_a_path_that_is_not_there_is_told_the_nearest(folder):
    assert nearest_path("pest/cat") == "; did you mean 'pets/cat'?"
    assert nearest_path("pest/cat/") == "; did you mean 'pets/cat'?"
    assert nearest_path("pest/bird") == "; did you mean 'pest/bird'?".replace("pest/bird", "pets")
    assert nearest_path(folder / "pets" / "Cat" / "1.png") == f"; did you mean '{folder}/pets/cat/1.png'?"
    assert nearest_path("/nothing/like/it") == ""
    assert nearest_path("elephants") == ""


def test_columns_are_told_the_nearest(folder):
    pd.DataFrame({"path": ["pets/cat/1.png"], "gender": ["f"], "sample_id": ["a"]}).to_csv("faces.csv")
    command = [
        "embed",
        "faces.csv",
        "-o",
        "x",
        "--teacher",
        "torchvision:resnet18",
        "--label-column",
        "gendre",
    ]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "did you mean 'gender'?" in result.stderr
