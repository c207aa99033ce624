"""Parquet files as other tools leave them: splits, no ids, types that differ from file to file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import kind_of, open_data
from kdbias.data.table import splits_of
from kdbias.errors import KdbiasError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard(file: Path, images: list[bytes], labels: list, names=("cat", "dog"), image: str = "image") -> None:
    """A file as the Hub has them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    features = {image: {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    table = pa.table(
        {
            image: pa.array([{"bytes": b, "path": None} for b in images], IMAGE),
            "label": pa.array(labels, pa.int64()),
        }
    )
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), file)


@pytest.fixture
def snapshot(tmp_path):
    shard(tmp_path / "s/data/train-00000-of-00002.parquet", [b"a", b"b"], [0, 1])
    shard(tmp_path / "s/data/train-00001-of-00002.parquet", [b"c"], [1])
    shard(tmp_path / "s/data/test-00000-of-00001.parquet", [b"d", b"e"], [-1, -1])
    (tmp_path / "s/README.md").write_text("a card")
    (tmp_path / "s/.cache").mkdir()
    (tmp_path / "s/.cache/x.parquet").write_bytes(b"no")
    return tmp_path / "s"


def test_a_snapshot_of_the_hub(snapshot):
    source = open_data(snapshot)
    assert source.ids.to_pylist() == [
        "data/test-00000-of-00001/00000000",
        "data/test-00000-of-00001/00000001",
        "data/train-00000-of-00002/00000000",
        "data/train-00000-of-00002/00000001",
        "data/train-00001-of-00002/00000000",
    ]
    assert source.labels.to_pylist() == [None, None, "cat", "dog", "dog"]
    assert source.column("split").to_pylist() == ["test", "test", "train", "train", "train"]
    assert [source.read(i) for i in range(5)] == [b"d", b"e", b"a", b"b", b"c"]
    assert "no column of ids: they are the file's name and the row" in source.describe()
    assert "2 labels of -1 read as missing" in source.describe()
    assert open_data(snapshot, where=["split=train"]).labels.to_pylist() == ["cat", "dog", "dog"]


def test_one_file_of_it_has_its_name_in_the_ids(snapshot):
    source = open_data(snapshot / "data/train-00000-of-00002.parquet")
    assert source.ids.to_pylist() == ["train-00000-of-00002/00000000", "train-00000-of-00002/00000001"]
    assert source.column("split").to_pylist() == ["train", "train"]
    folder = open_data(snapshot / "data", where=["split=test"])
    assert folder.ids[0].as_py() == "test-00000-of-00001/00000000"
    assert open_data(snapshot).fingerprint != open_data(snapshot / "data").fingerprint  # other ids


def test_other_class_names_are_refused(snapshot):
    shard(snapshot / "data/test-00000-of-00001.parquet", [b"d"], [0], names=("dog", "cat"))
    with pytest.raises(
        KdbiasError, match=r"the classes of 'label' 'cat', 'dog', but .*test.* 'dog', 'cat'; the same"
    ):
        open_data(snapshot)
    shard(snapshot / "data/test-00000-of-00001.parquet", [b"d"], [-2])
    with pytest.raises(KdbiasError, match="labels run from -2 to 1"):
        open_data(snapshot)


def test_the_only_column_of_images_needs_no_usual_name(tmp_path):
    shard(tmp_path / "train.parquet", [b"a"], [1], image="img")
    assert open_data(tmp_path / "train.parquet").read(0) == b"a"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["train", "train"]),
        (["a/train-00000-of-00001-0123abcd.parquet", "a/b-00000-of-00001.parquet"], ["train", "b"]),
        (["default/train/0000.parquet", "default/test/0000.parquet"], ["train", "test"]),
        (["train.parquet", "validation.parquet"], ["train", "validation"]),
        (["data-00000-of-00002.parquet", "data-00001-of-00002.parquet"], None),
        (["00000.parquet", "00001.parquet"], None),
        (["train.parquet", "more.parquet"], None),
    ],
)
def test_splits_by_file_names(names, splits):
    assert splits_of(names) == splits


def test_folders_of_images_stay_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/0.jpg").write_bytes(b"x")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "meta.parquet")
    assert kind_of(str(tmp_path)) == "folder"
    assert "1 Parquet file among them" in open_data(tmp_path).describe()
    (tmp_path / "a/0.jpg").unlink()
    assert kind_of(str(tmp_path)) == "table"
    (tmp_path / "run.json").write_text("{}")
    assert kind_of(str(tmp_path)) == "folder"  # an output of kdbias


def write(folder: Path, *columns: dict) -> Path:
    for number, values in enumerate(columns):
        ids = [f"{number}"] * len(next(iter(values.values())))
        pq.write_table(
            pa.table({"sample_id": ids, "image": [b"x"] * len(ids), **values}), folder / f"{number}.parquet"
        )
    return folder


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (pa.nulls(1), pa.array(["x"]), [None, "x"]),
        (pa.array([3]), pa.nulls(1), [3, None]),
        (pa.array([3]), pa.array([np.nan]), [3.0, None]),
        (pa.array([3], pa.int16()), pa.array([70_000]), [3, 70_000]),
        (pa.array([0.5], pa.float32()), pa.array([0.25]), [0.5, 0.25]),
        (pa.array(["x"]), pa.array(["y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x"]), pa.array(["y"], pa.string_view()), ["x", "y"]),
        (pa.array(["x"]).dictionary_encode(), pa.array(["y"]), ["x", "y"]),
        (pa.array([[1]]), pa.array([["x"]]), None),  # left out
    ],
)
def test_types_that_go_together(tmp_path, one, other, found):
    for swap in (False, True):
        parts = [{"g": one}, {"g": other}][:: -1 if swap else 1]
        source = open_data(write(tmp_path, *parts))
        values = source.groups["g"].to_pylist() if found else None
        assert values == (found[::-1] if swap and found else found)
        assert source.n == 2


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            pa.array([3]),
            pa.array(["x"]),
            r"1\.parquet: its column 'g' holds string, that of .*0\.parquet int64",
        ),
        (pa.array([True]), pa.array([1]), "holds int64, that of .* bool"),
        (pa.array([[1]]), pa.array([1]), "holds int64, that of .* list"),
        (pa.array([2**60 + 1]), pa.array([0.5]), "'g' does not fit the double of the other files"),
    ],
)
def test_types_that_do_not_go_together(tmp_path, one, other, message):
    with pytest.raises(KdbiasError, match=message):
        open_data(write(tmp_path, {"g": one}, {"g": other}))


def test_columns_in_another_order_or_lacking(tmp_path):
    write(tmp_path, {"label": ["p"], "g": [1]})
    pq.write_table(
        pa.table({"g": [2], "label": ["q"], "image": [b"y"], "sample_id": ["1"]}), tmp_path / "1.parquet"
    )
    source = open_data(tmp_path)
    assert (source.labels.to_pylist(), source.column("g").to_pylist()) == (["p", "q"], [1, 2])
    assert source.read(1) == b"y"
    pq.write_table(pa.table({"g": [2], "image": [b"y"], "sample_id": ["1"]}), tmp_path / "1.parquet")
    with pytest.raises(KdbiasError, match=r"1\.parquet: other columns .* only one has label"):
        open_data(tmp_path)


def test_a_shard_of_nulls_has_unreadable_images(tmp_path):
    write(tmp_path, {"w": [1]})
    pq.write_table(
        pa.table({"sample_id": ["1"], "image": pa.nulls(1), "w": pa.nulls(1)}), tmp_path / "1.parquet"
    )
    source = open_data(tmp_path)
    assert source.read(0) == b"x"
    with pytest.raises(UnreadableImage, match="the value is null"):
        source.read(1)


def test_the_path_beside_missing_bytes_is_read_below_the_root(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/0.jpg").write_bytes(b"zero")
    (tmp_path.parent / "secret.jpg").write_bytes(b"secret")
    paths = ["photos/0.jpg", f"{tmp_path}/photos/0.jpg", "../secret.jpg", "/etc/passwd", "gone.jpg", None]
    images = pa.array([{"bytes": None, "path": path} for path in paths] + [None], IMAGE)
    pq.write_table(pa.table({"sample_id": list("abcdefg"), "image": images}), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet")
    assert source.read(0) == source.read(1) == b"zero"
    for row, message in (
        (2, "leaves the data root"),
        (3, "leaves the data root"),
        (4, "cannot read"),
        (5, "null"),
        (6, "null"),
    ):
        with pytest.raises(UnreadableImage, match=message):
            source.read(row)
    inner = open_data(tmp_path / "m.parquet", root=tmp_path / "photos")
    assert inner.read(1) == b"zero"
    with pytest.raises(UnreadableImage, match="cannot read"):
        inner.read(0)


def test_a_file_of_images_alone(tmp_path):
    pq.write_table(pa.table({"image": [b"x", b"y"]}), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet")
    assert source.ids.to_pylist() == ["m/00000000", "m/00000001"]
    assert source.read(1) == b"y"


def test_texts_that_are_not_utf8(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"sample_id": ["a"], "label": bad, "image": [b"x"]}), tmp_path / "m.parquet")
    with pytest.raises(KdbiasError, match=r"m.parquet: not a readable Parquet file .*UTF8"):
        open_data(tmp_path / "m.parquet")
