"""The descriptions of large public sets, on toy copies of their layouts (their expected counts left out)."""

import pickle
import struct
from pathlib import Path

import pytest

from kdbias.data.opening import open_data, read_description, shipped_descriptions
from kdbias.errors import KdbiasError


def described(folder: Path, name: str) -> Path:
    """A copy of a shipped description beside the toy data, without its counts."""
    text = shipped_descriptions()[f"{name}.toml"].read_text()
    file = folder / f"{name}.toml"
    file.write_text(text[: text.index("[expect]")].replace('root = "$KDBIAS_DATA"', 'root = "."'))
    return file


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_market1501(tmp_path):
    folder = tmp_path / "Market-1501-v15.09.15"
    touch(folder, "bounding_box_train/0002_c1s1_000451_03.jpg", "query/0001_c1s1_001051_00.jpg", "readme.txt")
    touch(folder, "bounding_box_test/0000_c1s1_000151_01.jpg", "bounding_box_test/-1_c1s1_000401_03.jpg")
    touch(folder, "bounding_box_test/0001_c3s1_000551_00.jpg", "gt_bbox/0001_c1s1_001051_00.jpg")
    source = open_data(described(tmp_path, "market1501"))
    found = sorted(zip(source.column("part").to_pylist(), source.labels.to_pylist(), strict=True))
    assert found == [
        ("bounding_box_test", "0000"),
        ("bounding_box_test", "0001"),
        ("bounding_box_train", "0002"),
        ("query", "0001"),
    ]
    assert sorted(source.column("cam").to_pylist()) == ["1", "1", "1", "3"]


def test_msmt17(tmp_path):
    folder = tmp_path / "MSMT17_V1"
    names = {
        "train": "0000/0000_000_01_0303morning_0008_0.jpg",
        "val": "0000/0000_016_12_0302afternoon_0008_0.jpg",
        "query": "0000/0000_002_05_0303noon_0025_0.jpg",
        "gallery": "0001/0001_002_15_0303noon_0025_0.jpg",
    }
    for role, name in names.items():
        touch(folder, f"{'train' if role in ('train', 'val') else 'test'}/{name}")
        (folder / f"list_{role}.txt").write_text(f"{name} {int(name[:4])}\n")
    source = open_data(described(tmp_path, "msmt17"))
    assert source.labels.to_pylist() == ["train-0", "train-0", "test-0", "test-1"]
    assert source.column("role").to_pylist() == ["train", "val", "query", "gallery"]
    assert source.column("cam").to_pylist() == ["01", "12", "05", "15"]
    assert source.read(3) == f"test/{names['gallery']}".encode()


def test_vggface2(tmp_path):
    touch(tmp_path / "vggface2", "train/n000002/0001_01.jpg", "test/n000001/0001_01.jpg", "meta/x.png")
    source = open_data(described(tmp_path, "vggface2"))
    assert source.labels.to_pylist() == ["n000001", "n000002"]
    assert source.column("split").to_pylist() == ["test", "train"]


def test_ijbc(tmp_path):
    touch(tmp_path / "IJBC", "loose_crop/1.jpg", "loose_crop/2.jpg")
    (tmp_path / "IJBC/meta").mkdir()
    (tmp_path / "IJBC/meta/ijbc_face_tid_mid.txt").write_text("1.jpg 1 69544\n2.jpg 1 69545\n")
    source = open_data(described(tmp_path, "ijbc"))
    assert source.ids.to_pylist() == ["IJBC/loose_crop/1.jpg", "IJBC/loose_crop/2.jpg"]
    assert source.column("template").to_pylist() == [1, 1]
    assert source.column("media").to_pylist() == [69544, 69545]


@pytest.mark.parametrize("name", ["ms1mv3", "glint360k", "webface4m", "webface12m", "webface42m"])
def test_recordio_sets(tmp_path, name):
    folder = tmp_path / read_description(f"{name}.toml").source
    folder.mkdir()
    payload = struct.pack("<IfQQ", 0, 5.0, 0, 0) + b"jpeg"
    (folder / "train.rec").write_bytes(struct.pack("<II", 0xCED7230A, len(payload)) + payload)
    (folder / "train.idx").write_text("0\t0\n")
    assert open_data(described(tmp_path, name)).labels.to_pylist() == ["5"]
    with pytest.raises(KdbiasError, match="found 1 for 'samples', the description expects"):
        open_data(f"{name}.toml", root=tmp_path)


@pytest.mark.parametrize("name", ["lfw_bin", "cfp_fp_bin", "agedb_30_bin"])
def test_verification_sets(tmp_path, name):
    file = tmp_path / read_description(f"{name}.toml").source
    file.write_bytes(pickle.dumps(([b"a", b"b"], [True])))
    source = open_data(described(tmp_path, name))
    assert source.column("same").to_pylist() == [True, True]
    assert source.ids[0].as_py() == f"{file.stem}/000000"
