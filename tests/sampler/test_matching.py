"""What users give a sampler as the ids of their data, and what it says of such as do not match."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, random_split

from kdbias.errors import KdbiasError
from kdbias.sampler import IdentitySampler, ManifestSampler

IDS = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(4)]
WEIGHTS = np.arange(8) / 3.5


@pytest.fixture
def manifest(tmp_path):
    """Weights 0, 1, 2 ... (times 2 / 7, so that they are 1 in the mean) of IDS."""
    file = tmp_path / "w.csv"
    labels = [name[:3] for name in IDS]
    pd.DataFrame({"sample_id": IDS, "label": labels, "weight": range(8)}).to_csv(file, index=False)
    return file


def images(tmp_path, ids=IDS):
    """torchvision's view of a folder of images with these ids."""
    from torchvision.datasets import ImageFolder

    for name in ids:
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    return ImageFolder(tmp_path / "pets")


@pytest.mark.parametrize(
    "given",
    [
        lambda data: data,
        lambda data: data.samples,
        lambda data: [Path(path) for path, _ in data.samples],
        lambda data: [(Path(path), 0, None) for path, _ in data.samples],
        lambda data: (path for path, _ in data.samples),
        lambda data: pd.Series([Path(path) for path, _ in data.samples], dtype=object),
        lambda data: ConcatDataset([Subset(data, range(3)), Subset(data, [3, 4, 5, 6, 7])]),
    ],
)
def test_a_data_set_its_pairs_and_paths_are_taken_as_its_ids(tmp_path, manifest, given):
    sampler = ManifestSampler.from_manifest(manifest, given(images(tmp_path)))
    assert sampler.weights.tolist() == pytest.approx(WEIGHTS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("pets", "sample_ids are one str; give the id or path of each sample"),
        (Path("pets"), "sample_ids are one .*Path; give"),
        (None, "sample_ids are one NoneType; give"),
        (pd.DataFrame({"sample_id": IDS}), r"are one DataFrame; .* as table\['sample_id'\]"),
        (pa.table({"sample_id": IDS}), "are one Table; give"),
        (dict.fromkeys(IDS), "are one dict; give"),
        (set(IDS), "are one set; give"),
        ([{"path": name} for name in IDS], "are a list of such as {'path': 'cat/0.png'}; give"),
        ([(0, name) for name in IDS], r"are a list of such as \(0, 'cat/0.png'\); give"),
        ([torch.zeros(3)], r"are a list of such as tensor\(.*; give"),
        ([*IDS[:4], 5], "are a list of such as 'cat/0.png'; give"),
        (np.array([[name, 0] for name in IDS]), r"are a ndarray of shape \(8, 2\); give"),
    ],
)
def test_what_is_no_column_of_ids_is_refused_with_what_to_give(manifest, given, words):
    with pytest.raises(KdbiasError, match=words):
        ManifestSampler.from_manifest(manifest, given)


def test_a_train_split_is_refused_with_both_numbers_and_drawn_as_a_subset(tmp_path, manifest, capsys):
    train, _ = random_split(images(tmp_path), [5, 3], torch.Generator().manual_seed(3))
    with pytest.raises(KdbiasError, match=r"3 of the 8 ids .* the 5 ids of .*; 5 are there: .* subset=True"):
        ManifestSampler.from_manifest(manifest, train)
    sampler = ManifestSampler.from_manifest(manifest, train, subset=True, seed=1)
    assert sampler.weights.tolist() == pytest.approx(WEIGHTS[train.indices])
    assert len(list(sampler)) == 5
    told = capsys.readouterr().err
    assert re.search("3 of the 8 ids .* left out; an epoch has 5 draws", told)
    assert len(ManifestSampler.from_manifest(manifest, train, subset=True, num_samples=40)) == 40
    with pytest.raises(KdbiasError, match=r"8 of the 8 ids .*; are they from the same data"):
        ManifestSampler.from_manifest(manifest, ["x", "y"], subset=True)


def test_samples_that_the_manifest_lacks_are_told(tmp_path, manifest, capsys):
    have = [*IDS, "fox/0.png", "fox/1.png"]
    sampler = ManifestSampler.from_manifest(manifest, have)
    assert sampler.weights.tolist() == pytest.approx([*WEIGHTS, 0, 0])
    told = r"2 of the 10 samples of the data set are not in .* and never drawn \('fox/0.png', 'fox/1.png'\)"
    assert re.search(told, capsys.readouterr().err)


def test_an_image_that_the_class_folders_lack_does_not_make_up_a_folder(tmp_path, manifest):
    manifest.write_text(manifest.read_text() + "loose.png,,1\n")
    data = images(tmp_path)
    with pytest.raises(KdbiasError, match=r"1 of the 9 ids .* like 'loose.png'.*subset=True") as refused:
        ManifestSampler.from_manifest(manifest, data)
    assert "root=" not in str(refused.value)
    sampler = ManifestSampler.from_manifest(manifest, data, subset=True)
    assert sampler.weights.tolist() == pytest.approx(np.arange(8) * 9 / 29)


def test_both_sides_may_lack_some_below_a_folder_that_is_found(tmp_path, manifest, capsys):
    have = ["/d/" + name for name in [*IDS[2:], "fox/0.png"]]
    sampler = ManifestSampler.from_manifest(manifest, have, subset=True)
    assert sampler.weights.tolist() == pytest.approx([*WEIGHTS[2:], 0])
    assert "compared without the folder '/d'" in capsys.readouterr().err


def test_names_of_files_are_not_taken_for_paths(tmp_path, manifest):
    names = [name.replace("/", "_") for name in IDS]
    manifest.write_text("sample_id,weight\n" + "".join(f"{n[:3]}/{n},1\n" for n in names))
    with pytest.raises(KdbiasError, match=r"8 of the 8 ids .*; file names alone are not enough") as refused:
        ManifestSampler.from_manifest(manifest, [*names, *(f"{i}.png" for i in range(90))])
    assert "root=" not in str(refused.value)


def test_identities_are_drawn_by_a_manifest_with_its_labels_or_ones_given(tmp_path, manifest):
    data = images(tmp_path)
    sampler = IdentitySampler.from_manifest(manifest, data, identities=2, instances=2)
    batches = list(sampler)
    assert [sorted(i // 4 for i in batch) for batch in batches] == 2 * [[0, 0, 1, 1]]
    assert 0 not in np.concatenate(batches)
    odd = IdentitySampler.from_manifest(manifest, data, np.arange(8) % 2, identities=2, instances=2)
    assert all(sorted(i % 2 for i in batch) == [0, 0, 1, 1] for batch in odd)
    part = IdentitySampler.from_manifest(
        manifest, Subset(data, [1, 2, 5, 6]), identities=2, instances=1, subset=True
    )
    assert len(part) == 2
    manifest.write_text("sample_id,weight\n" + "".join(f"{name},1\n" for name in IDS))
    with pytest.raises(KdbiasError, match="have no labels; give labels="):
        IdentitySampler.from_manifest(manifest, data, identities=2, instances=2)


@pytest.mark.parametrize(
    "kind", [ManifestSampler, lambda w: IdentitySampler(w, [], identities=1, instances=1)]
)
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("w.parquet", r"weights are 'w.parquet', .* read by from_manifest"),
        (Path("w.parquet"), r"weights are 'w.parquet', .* read by from_manifest"),
        ([1.0, "x"], "weights are a list, but should be one number a sample"),
        (None, r"weights are of shape \(\), but should be"),
        (np.ones((3, 2)), r"weights are of shape \(3, 2\)"),
        (pd.DataFrame({"sample_id": IDS, "weight": 1.0}), "weights are a DataFrame, but should be"),
    ],
)
def test_weights_that_are_no_column_of_numbers_are_refused(kind, weights, words):
    with pytest.raises(KdbiasError, match=words):
        kind(weights)


def test_samplers_say_what_they_are_in_a_line(manifest):
    sampler = ManifestSampler.from_manifest(manifest, IDS, num_samples=2000)
    assert repr(sampler) == (
        "<ManifestSampler: 2,000 draws an epoch of 8 samples, 1 of them never; systematic, seed 0, epoch 0>"
    )
    identities = IdentitySampler.from_manifest(manifest, IDS, identities=2, instances=2)
    assert repr(identities) == (
        "<IdentitySampler: 2 batches an epoch of 2 identities x 2 images, from 2 identities and 7 of 8 "
        "samples; seed 0, epoch 0>"
    )
