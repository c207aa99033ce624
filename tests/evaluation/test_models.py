"""A model instead of a table: its embeddings are computed first, then judged."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.tables.documents import read_json
from kdbias.tables.embedding_table import EmbeddingTable

PIXELS = """
import numpy as np
from kdbias.teachers.preprocessing import Preprocessing

class Pixels:
    preprocessing = Preprocessing(size=(8, 8), color="L", mean=(0,), std=(1,))

    def embed(self, batch):
        return batch.reshape(len(batch), -1).astype(np.float32) - 128 + 1e-3

def factory(device):
    return Pixels()
"""


@pytest.fixture
def teacher(tmp_path):
    (tmp_path / "pixels.py").write_text(PIXELS)
    return f"python:{tmp_path / 'pixels.py'}:factory"


def _faces(people, images, noise, seed=0):
    """uint8 pictures, image i of person p at [p, i]: a pattern a person and noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(60, 200, (people, 1, 8, 8))
    pictures = patterns + rng.normal(0, noise, (people, images, 8, 8))
    return np.clip(pictures, 0, 255).astype(np.uint8)


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for p, pictures in enumerate(_faces(4, 6, 10)):
        for i, pixels in enumerate(pictures):
            path = tmp_path / "images" / f"person{p}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_png(pixels))
    return tmp_path / "images"


def test_images_are_embedded_and_judged_in_one_call(folder, teacher, tmp_path, capsys):
    call = dict(protocol="knn", data=folder, device="cpu", workers=0, k=3, bootstrap=20, group_by=["label"])
    result = evaluate(teacher, tmp_path / "out", **call)
    assert result.value("knn_accuracy") == result.value("centroid_accuracy") == 1.0
    assert EmbeddingTable.open(tmp_path / "out" / "embeddings").n == 24
    capsys.readouterr()
    assert evaluate(teacher, tmp_path / "out", **call).document == result.document
    assert "finished already" in capsys.readouterr().err
    (folder / "person0" / "0.png").rename(folder / "person0" / "other.png")
    with pytest.raises(KdbiasError, match="input data"):
        evaluate(teacher, tmp_path / "out", **call)


def test_a_mistake_in_starting_over_keeps_the_answer_and_its_embeddings(folder, teacher, tmp_path, capsys):
    call = dict(protocol="knn", data=folder, device="cpu", workers=0, k=3, bootstrap=0)
    first = evaluate(teacher, tmp_path / "out", **call)
    for mistake in ({"group_by": ["shoe"]}, {"where": ["label=nobody"]}):
        with pytest.raises(KdbiasError):
            evaluate(teacher, tmp_path / "out", overwrite=True, **call, **mistake)
    assert EmbeddingTable.open(tmp_path / "out" / "embeddings").n == 24
    capsys.readouterr()
    assert evaluate(teacher, tmp_path / "out", **call).document == first.document
    assert "finished already" in capsys.readouterr().err


def test_a_model_that_was_moved_is_the_same_model(folder, teacher, tmp_path, capsys):
    call = dict(protocol="knn", data=folder, device="cpu", workers=0, k=3, bootstrap=0)
    first = evaluate(teacher, tmp_path / "out", **call)
    assert read_json(tmp_path / "out" / "run.json")["paths"] == {"model": teacher, "data": str(folder)}
    (tmp_path / "moved.py").write_text(PIXELS)
    again = evaluate(f"python:{tmp_path / 'moved.py'}:factory", tmp_path / "out", **call)
    assert again.document == first.document
    assert "finished already" in capsys.readouterr().err


def test_a_changed_side_car_is_another_model(folder, tmp_path):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1) + 1

    model, side_car = tmp_path / "flat.pt", tmp_path / "flat.toml"
    torch.jit.trace(Flat(), torch.zeros(1, 3, 8, 8)).save(str(model))
    text = '[preprocessing]\nsize = [8, 8]\ncolor = "RGB"\nmean = [0]\nstd = [255]\n'
    side_car.write_text(text)
    call = dict(protocol="knn", data=folder, device="cpu", workers=0, k=1, bootstrap=0)
    evaluate(f"torchscript:{model}", tmp_path / "out", **call)
    evaluate(f"torchscript:{model}", tmp_path / "out", **call)
    side_car.write_text(text.replace("RGB", "BGR"))
    with pytest.raises(KdbiasError, match="input model"):
        evaluate(f"torchscript:{model}", tmp_path / "out", **call)


def test_filters_apply_before_embedding(folder, teacher, tmp_path):
    result = evaluate(
        teacher,
        tmp_path / "out",
        protocol="knn",
        data=folder,
        where=["label!=person3"],
        device="cpu",
        workers=0,
        k=1,
        bootstrap=0,
    )
    assert EmbeddingTable.open(tmp_path / "out" / "embeddings").n == 18
    assert result.document["details"]["gallery"]["classes"] == 3


def _write_bin(file, seed):
    """60 pairs of 30 people, half of them genuine."""
    pictures = _faces(30, 4, 25, seed)
    images, same = [], []
    for i in range(60):
        genuine = i % 2 == 0
        other = pictures[i // 2, 1 + i % 3] if genuine else pictures[(i // 2 + 7) % 30, i % 4]
        images += [_png(pictures[i // 2, 0]), _png(other)]
        same.append(genuine)
    file.write_bytes(pickle.dumps((images, same)))
    return file


def test_a_folder_of_bins_is_data_and_one_list_of_pairs_a_group(teacher, tmp_path):
    folder = tmp_path / "rfw"
    folder.mkdir()
    for seed, name in enumerate(("African", "Asian")):
        _write_bin(folder / f"{name}_test.bin", seed)
    machine = dict(device="cpu", workers=0, bootstrap=0)
    result = evaluate(teacher, tmp_path / "out", protocol="rfw", data=folder, pairs=folder, **machine)
    groups = result.document["groups"]["group"]
    assert {name: group["n"] for name, group in groups.items()} == {"African": 60, "Asian": 60}
    file = folder / "Asian_test.bin"
    alone = evaluate(teacher, tmp_path / "alone", protocol="verification", data=file, pairs=file, **machine)
    assert groups["Asian"]["metrics"]["accuracy"]["value"] == alone.value("accuracy")


def test_an_insightface_bin_is_data_and_list_of_pairs_at_once(teacher, tmp_path):
    file = _write_bin(tmp_path / "tiny.bin", 3)
    result = evaluate(
        teacher,
        tmp_path / "out",
        protocol="verification",
        data=file,
        pairs=file,
        flip=True,
        device="cpu",
        workers=0,
        bootstrap=10,
    )
    assert result.document["n"] == 60
    assert result.document["details"]["views"] == "image + mirror"
    assert result.document["details"]["flip_fusion"] == "raw"
    assert len(result.document["details"]["folds"]) == 10
    assert result.value("accuracy") > 0.9
    assert result.document["interval"]["resampled"] == "pair"  # such a file names nobody
