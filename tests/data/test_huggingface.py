"""Folders written by the datasets library: by hand here, and by the library itself where it is installed."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

IMAGES = [b"zero", b"one", b"two", b"three", b"four"]
LABELS = [0, 1, 1, 0, 1]


def save_by_hand(folder: Path, rows: slice, files: int = 1) -> None:
    folder.mkdir(parents=True)
    images = [{"bytes": image, "path": None} for image in IMAGES[rows]]
    table = pa.table({"picture": images, "label": LABELS[rows], "age": list(range(5))[rows]})
    names = []
    for number in range(files):
        names.append(f"data-{number:05d}-of-{files:05d}.arrow")
        part = table.slice(
            number * len(table) // files, (number + 1) * len(table) // files - number * len(table) // files
        )
        with pa.OSFile(str(folder / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "picture": {"_type": "Image"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def save_by_library(folder: Path, rows: slice, files: int = 1) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(decode=False),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "age": datasets.Value("int64"),
        }
    )
    images = [{"bytes": image, "path": None} for image in IMAGES[rows]]
    columns = {"picture": images, "label": LABELS[rows], "age": list(range(5))[rows]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder), num_shards=files)


@pytest.fixture(params=[save_by_hand, save_by_library])
def save(request):
    return request.param


@pytest.mark.parametrize("files", [1, 2])
def test_one_data_set(tmp_path, save, files):
    save(tmp_path / "d", slice(0, 5), files)
    source = pickle.loads(pickle.dumps(open_data(tmp_path / "d")))
    assert source.ids.to_pylist() == [f"{i:08d}" for i in range(5)]
    assert source.labels.to_pylist() == ["cat", "dog", "dog", "cat", "dog"]
    assert source.column("age").to_pylist() == [0, 1, 2, 3, 4]
    assert [source.read(i) for i in (4, 0, 3, 1, 2)] == [IMAGES[i] for i in (4, 0, 3, 1, 2)]


def test_splits_become_a_group(tmp_path, save):
    for name, rows in {"train": slice(0, 3), "test": slice(3, 5)}.items():
        save(tmp_path / "d" / name, rows)
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    source = open_data(tmp_path / "d", where=["split=test"])
    assert source.ids.to_pylist() == ["test/00000000", "test/00000001"]
    assert source.read(1) == b"four"
    assert source.location(1).startswith("test/")
    assert source.location(1).endswith(".arrow#1")
    assert open_data(tmp_path / "d", id_column="age").ids.to_pylist() == ["0", "1", "2", "3", "4"]


def test_fingerprint_follows_the_content(tmp_path):
    save_by_hand(tmp_path / "a", slice(0, 3))
    save_by_hand(tmp_path / "b", slice(0, 3))
    save_by_hand(tmp_path / "c", slice(1, 4))
    a, b, c = (open_data(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


def test_images_left_elsewhere_are_unreadable(tmp_path):
    save_by_hand(tmp_path / "d", slice(0, 1))
    table = pa.table({"picture": [{"bytes": None, "path": "/home/me/x.png"}], "label": [0]})
    file = next((tmp_path / "d").glob("*.arrow"))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    # The type of a column of nulls is no type of images, so it is named with bytes in the schema.
    schema = pa.schema(
        [("picture", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())]
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(table.cast(schema))
    with pytest.raises(UnreadableImage, match=r"left at '/home/me/x.png'"):
        open_data(tmp_path / "d").read(0)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd"])
def test_files_that_leave_the_folder_are_refused(tmp_path, name):
    save_by_hand(tmp_path / "d", slice(0, 3))
    (tmp_path / "d/state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(tmp_path / "d")
    (tmp_path / "e").mkdir()
    (tmp_path / "e/dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(tmp_path / "e")


def test_damaged_folders(tmp_path):
    save_by_hand(tmp_path / "d", slice(0, 3))
    file = next((tmp_path / "d").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(KdbiasError, match="cannot be read"):
        open_data(tmp_path / "d")
    file.unlink()
    with pytest.raises(KdbiasError, match="cannot be read"):
        open_data(tmp_path / "d")
    (tmp_path / "d/state.json").write_text("{")
    with pytest.raises(KdbiasError, match=r"state.json: not a JSON file"):
        open_data(tmp_path / "d")
    (tmp_path / "d/state.json").write_text("{}")
    with pytest.raises(KdbiasError, match=r"state.json: it lacks _data_files"):
        open_data(tmp_path / "d")
    (tmp_path / "d/state.json").write_text('{"_data_files": []}')
    with pytest.raises(KdbiasError, match="names no files"):
        open_data(tmp_path / "d")


def test_parquet_of_the_hub_keeps_its_class_names(tmp_path):
    import pyarrow.parquet as pq

    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"key": ["a", "b"], "image": [{"bytes": b"x", "path": "x.png"}] * 2, "label": [1, 0]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "train-00000-of-00001.parquet")
    source = open_data(tmp_path, id_column="key")
    assert source.labels.to_pylist() == ["dog", "cat"]


def write_split(folder: Path, labels: pa.Array, names: list[str], age: pa.Array) -> None:
    """Rows whose images are the texts 0, 1, ..."""
    save_by_hand(folder, slice(0, 1))
    images = pa.array([{"bytes": str(i).encode(), "path": None} for i in range(len(labels))])
    table = pa.table({"picture": images, "label": labels, "age": age})
    file = next(folder.glob("*.arrow"))
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    features = {"label": {"names": names, "_type": "ClassLabel"}, "picture": {"_type": "Image"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_a_split_with_hidden_labels_and_other_types(tmp_path):
    write_split(tmp_path / "d/train", pa.array([1, 0]), ["cat", "dog"], pa.array([30, 31]))
    write_split(tmp_path / "d/test", pa.array([-1, -1]), ["cat", "dog"], pa.array([np.nan, 0.5]))
    write_split(tmp_path / "d/blind", pa.nulls(1), ["cat", "dog"], pa.nulls(1))
    (tmp_path / "d/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "blind"]}))
    source = open_data(tmp_path / "d")
    assert source.labels.to_pylist() == ["dog", "cat", None, None, None]
    assert source.column("age").to_pylist() == [30, 31, None, 0.5, None]
    assert [source.read(i) for i in range(5)] == [b"0", b"1", b"0", b"1", b"0"]
    assert "2 labels of -1" in source.describe()
    write_split(tmp_path / "e/train", pa.array([1]), ["cat", "dog"], pa.array([30]))
    write_split(tmp_path / "e/test", pa.array([1]), ["dog", "cat"], pa.array([30]))
    (tmp_path / "e/dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(KdbiasError, match=r"names the classes of 'label' 'dog', 'cat', but .* 'cat', 'dog'"):
        open_data(tmp_path / "e")


def test_a_path_beside_missing_bytes_is_read_below_the_root(tmp_path):
    write_split(tmp_path / "d", pa.array([0]), ["cat"], pa.array([1]))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"picture": pa.array([{"bytes": None, "path": "x.png"}], kind), "label": [0]})
    file = str(next((tmp_path / "d").glob("*.arrow")))
    with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "x.png").write_bytes(b"found")
    assert open_data(tmp_path / "d", root=tmp_path).read(0) == b"found"
    with pytest.raises(UnreadableImage, match=r"left at 'x\.png'"):
        open_data(tmp_path / "d").read(0)
