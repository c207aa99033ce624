"""Arrays in an .npz."""

import pickle

import numpy as np
import pytest

from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

ENTRIES = """
[[arrays]]
images = "a"
labels = "ya"
split = "train"
[[arrays]]
images = "b"
labels = "yb"
split = "test"
"""


@pytest.fixture
def described(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 6), np.uint8)
    np.savez(tmp_path / "x.npz", a=images[:3], ya=[0, 1, 1], b=images[3:], yb=[1, 0])
    (tmp_path / "x.toml").write_text('name = "x"\nsource = "x.npz"\n' + ENTRIES)
    return tmp_path / "x.toml", images


def test_parts_follow_one_another(described):
    file, images = described
    source = pickle.loads(pickle.dumps(open_data(file)))
    assert source.ids.to_pylist() == ["a/000000", "a/000001", "a/000002", "b/000000", "b/000001"]
    assert source.labels.to_pylist() == ["0", "1", "1", "1", "0"]
    for i in range(5):
        np.testing.assert_array_equal(source.read(i), images[i])
    test = open_data(file, where=["split=test"])
    np.testing.assert_array_equal(test.read(0), images[3])
    assert test.location(1) == "x.npz[b][1]"


def test_parts_may_label_by_number_text_and_truth(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", a=images, ya=[True, False], b=images, yb=["cat", "7"])
    (tmp_path / "x.toml").write_text('name = "x"\nsource = "x.npz"\n' + ENTRIES)
    assert open_data(tmp_path / "x.toml").labels.to_pylist() == ["1", "0", "cat", "7"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 4, 4), np.float32), "ya": [0, 1]}, "images are uint8"),
        ({"a": np.zeros((2, 4, 4), np.uint8), "ya": [0]}, "one for each of the 2 images"),
        ({"a": np.zeros((2, 4, 4), np.uint8)}, "no array 'ya' for labels; it has a"),
        ({"a": np.zeros((2, 4, 4), np.uint8), "ya": np.array([{}, {}], object)}, "not a plain .npz file"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    (tmp_path / "x.toml").write_text('name = "x"\nsource = "x.npz"\n' + ENTRIES)
    with pytest.raises(KdbiasError, match=message):
        open_data(tmp_path / "x.toml")


def test_needs_a_description(described):
    with pytest.raises(KdbiasError, match=r"needs a \.toml description"):
        open_data(described[0].with_suffix(".npz"))


def test_label_names_must_cover_the_labels(described):
    file, _ = described
    file.write_text('label_names = ["only one"]\n' + file.read_text())
    with pytest.raises(KdbiasError, match="labels run from 0 to 1, but label_names has 1 name"):
        open_data(file)
