"""torchvision data sets: read from the disk by name, never downloaded."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    import socket

    def refuse(*args, **more):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_mnist(root: Path, train: int = 6, test: int = 3, folder: str = "MNIST") -> np.ndarray:
    """The idx files of MNIST with random pictures; labels count 0, 1, 2, ..."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (train + test, 28, 28), np.uint8)
    for prefix, part, first in [("train", pictures[:train], 0), ("t10k", pictures[train:], train)]:
        labels = ((np.arange(len(part)) + first) % 10).astype(np.uint8)
        header = struct.pack(">IIII", 0x803, len(part), 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + part.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, len(part)) + labels.tobytes()
        )
    return pictures


def test_arrays_with_train_and_test(tmp_path):
    pictures = write_mnist(tmp_path)
    source = pickle.loads(pickle.dumps(open_data("torchvision:MNIST", root=tmp_path)))
    assert source.ids.to_pylist() == [f"train/{i:06d}" for i in range(6)] + [
        f"test/{i:06d}" for i in range(3)
    ]
    assert source.labels.to_pylist()[:2] == ["0 - zero", "1 - one"]
    for i in range(9):
        np.testing.assert_array_equal(source.read(i), pictures[i])
    assert open_data("torchvision:MNIST", root=tmp_path, where=["split=test"]).n == 3
    assert source.location(7) == "MNIST/test#1"


def test_each_split_is_opened_once(tmp_path, monkeypatch):
    from kdbias.data import torchvision_sets

    write_mnist(tmp_path)
    opened = []
    original = torchvision_sets._build
    monkeypatch.setattr(torchvision_sets, "_build", lambda *a: opened.append(a[2].split) or original(*a))
    assert open_data("torchvision:MNIST", root=tmp_path).read(0).shape == (28, 28)
    assert opened == ["train", "test"]


def test_fingerprint_follows_the_pictures(tmp_path):
    for name in "ab":
        write_mnist(tmp_path / name)
    one, same = (open_data("torchvision:MNIST", root=tmp_path / name).fingerprint for name in "ab")
    assert one == same
    file = tmp_path / "b/MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert open_data("torchvision:MNIST", root=tmp_path / "b").fingerprint != one


def test_root_from_the_environment_and_descriptions(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("KDBIAS_DATA", str(tmp_path))
    assert open_data("torchvision:MNIST").n == 9
    file = tmp_path / "mnist.toml"
    file.write_text(
        'name = "m"\nsource = "torchvision:MNIST"\nwhere = ["split=train"]\n[expect]\nsamples = 9\n'
    )
    assert open_data(file).n == 6
    monkeypatch.delenv("KDBIAS_DATA")
    with pytest.raises(KdbiasError, match=r"Give --root FOLDER or set KDBIAS_DATA"):
        open_data("torchvision:MNIST")


def test_files_with_named_splits(tmp_path):
    folder = tmp_path / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, names in {"train": ["pie/1", "soup/2"], "test": ["soup/3"]}.items():
        classes: dict[str, list[str]] = {"pie": [], "soup": []}
        for name in names:
            classes[name.split("/")[0]].append(name)
            path = folder / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (int(name[-1]) * 60, 0, 0)).save(path)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(classes))
    source = open_data("torchvision:Food101", root=tmp_path)
    assert source.column("split").to_pylist() == ["train", "train", "test"]
    assert source.labels.to_pylist() == ["pie", "soup", "soup"]
    assert source.read(2).shape == (6, 8, 3)
    (folder / "images/soup/3.jpg").write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match="Food101 gave no image"):
        source.read(2)
    assert open_data("torchvision:Food101?split=test", root=tmp_path).n == 1


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SEMEION", "Food101", "EMNIST?split=letters"])
def test_what_is_missing_is_not_downloaded(tmp_path, name):
    with pytest.raises(KdbiasError, match="downloads nothing") as caught:
        open_data(f"torchvision:{name}", root=tmp_path)
    assert "\n" not in str(caught.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("torchvision:mnist", "no such data set; did you mean MNIST?"),
        ("torchvision:os", "no such data set"),
        ("torchvision:FakeData", "no such data set, see"),
        ("torchvision:MNIST?download=true", "is no option"),
        ("torchvision:MNIST?nonsense=1", "cannot be opened"),
    ],
)
def test_mistakes(tmp_path, data, message):
    write_mnist(tmp_path)
    with pytest.raises(KdbiasError, match=message):
        open_data(data, root=tmp_path)
