"""What is said of a data set is honoured or refused by every kind of data, never overlooked."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError


def _rec(folder: Path) -> None:
    folder.mkdir()
    content = b""
    for label in (0.0, 1.0):
        payload = struct.pack("<IfQQ", 0, label, 0, 0) + b"abcd"
        content += struct.pack("<II", 0xCED7230A, len(payload)) + payload
    (folder / "train.rec").write_bytes(content)


def _tar(file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        for name, text in {"0.jpg": b"x", "0.cls": b"0", "1.jpg": b"x", "1.cls": b"1", "1.id": b"7"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Opens the two samples of one kind of data by a description with more lines."""
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))
    for name in ("0/c1_a.png", "1/c2_a.png"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True)
        (tmp_path / "folder" / name).write_bytes(b"x")
    (tmp_path / "folder/list.txt").write_text("0/c1_a.png 0\n1/c2_a.png 1\n")
    (tmp_path / "table.csv").write_text("path,label,cam,box\na.png,0,1,2\nb.png,1,1,2\n")
    _rec(tmp_path / "rec")
    _tar(tmp_path / "shard.tar")
    np.savez(tmp_path / "arrays.npz", x=np.zeros((2, 4, 4), np.uint8), y=np.arange(2))
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps(([b"a", b"b"], [True])))
    sources = {
        "folder": ("folder", ""),
        "pattern": ("folder", 'pattern = "^(?P<label>.)/(?P<cam>c.)_(?P<seq>.)"'),
        "lists": ("folder", 'kind = "lists"\n[[lists]]\nfile = "list.txt"\ncam = "x"'),
        "table": ("table.csv", ""),
        "recordio": ("rec", ""),
        "webdataset": ("shard.tar", ""),
        "arrays": ("arrays.npz", '[[arrays]]\nimages = "x"\nlabels = "y"\ncam = "x"\nseq = "y"'),
        "bin": ("pairs.bin", ""),
    }

    def open_described(kind: str, lines: str = "", **options):
        source, more = sources[kind]
        file = tmp_path / "data.toml"
        file.write_text(f'name = "toy"\nsource = "{source}"\n{lines}\n{more}\n')
        return open_data(file, **options)

    return open_described


KINDS = ["folder", "pattern", "lists", "table", "recordio", "webdataset", "arrays", "bin"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bin"])
def test_label_names_name_the_labels_of_every_kind(describe, kind):
    source = describe(kind, 'label_names = ["man", "woman"]')
    assert source.labels.to_pylist() == ["man", "woman"]
    with pytest.raises(KdbiasError, match="labels run from 0 to 1, but label_names has 1 name"):
        describe(kind, 'label_names = ["man"]')


def test_label_names_without_integer_labels_are_refused(describe, tmp_path):
    with pytest.raises(KdbiasError, match=r"label_names has 2 names, but there are no labels"):
        describe("bin", 'label_names = ["man", "woman"]')
    (tmp_path / "folder/0").rename(tmp_path / "folder/man")
    with pytest.raises(KdbiasError, match=r"label_names need integer labels .*'man'"):
        describe("folder", 'label_names = ["man", "woman"]')


@pytest.mark.parametrize(
    ("kind", "kept"), [("pattern", "cam"), ("table", "cam"), ("webdataset", "id"), ("arrays", "cam")]
)
def test_groups_choose_among_those_of_every_kind(describe, kind, kept):
    every = describe(kind)
    chosen = describe(kind, f'groups = ["{kept}"]')
    assert list(chosen.groups) == [kept]
    assert kept in every.groups
    assert len(every.groups) == 1 or every.fingerprint != chosen.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_groups_that_do_not_exist_are_refused(describe, kind):
    with pytest.raises(KdbiasError, match="no column 'nonsense' for groups; it has"):
        describe(kind, 'groups = ["nonsense"]')


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("folder", "pattern", "lists")])
def test_a_pattern_without_paths_is_refused(describe, kind):
    with pytest.raises(KdbiasError, match=r"pattern is '\^x', but \w+ data .* makes no use of it"):
        describe(kind, 'pattern = "^x"')


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "table"])
def test_columns_of_data_without_any_are_refused(describe, kind):
    with pytest.raises(KdbiasError, match=r"path_column is 'where', but \w+ data .* makes no use of it"):
        describe(kind, path_column="where")


def test_parts_of_another_kind_are_refused(describe):
    with pytest.raises(KdbiasError, match=r"lists is \[{'file': 'x'}\], but table .* makes no use of it"):
        describe("table", '[[lists]]\nfile = "x"')
    with pytest.raises(KdbiasError, match=r"arrays is \[{'images': 'x'}\], but folder .* makes no use of it"):
        describe("folder", '[[arrays]]\nimages = "x"')


def test_a_root_for_images_that_lie_in_the_data_is_refused(describe, tmp_path):
    assert describe("recordio", root=tmp_path).n == 2  # the description's source lies below it
    for name in ("rec", "shard.tar", "pairs.bin"):
        with pytest.raises(KdbiasError, match="leave out --root /nowhere"):
            open_data(tmp_path / name, root="/nowhere")
