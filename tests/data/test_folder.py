"""Image folders: ids, classes, order, and what must not be followed."""

import os
import pickle
from pathlib import Path

import pytest

from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.tables.run_record import Run
from tests.stages import EVALUATE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ["b/2.png", "b/1.PNG", "a-b/x.jpg", "a/deep/y.jpeg", "top.webp"]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for name in [".hidden.png", ".git/z.png", "b/notes.txt", "b/.DS_Store"]:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no")
    return tmp_path / "images"


def test_ids_labels_and_bytes(folder):
    source = open_data(folder)
    assert source.ids.to_pylist() == ["a-b/x.jpg", "a/deep/y.jpeg", "b/1.PNG", "b/2.png", "top.webp"]
    assert source.labels.to_pylist() == ["a-b", "a", "b", "b", None]
    assert [source.read(i).decode() for i in range(source.n)] == source.ids.to_pylist()
    assert "1 file of other kinds left out: 1 .txt" in source.describe()
    assert "photograph" not in source.describe()


def test_photographs_that_are_not_read_are_told_from_other_files(folder):
    others = [f"b/{i}.x{i % 7}" for i in range(20)]
    for name in ["a/IMG_1.HEIC", "a/IMG_2.heic", "b/raw.nef", "b/plain", *others]:
        (folder / name).write_bytes(b"no")
    told = open_data(folder).describe()
    assert "25 files of other kinds left out: 3 .x" in told
    assert "3 of these are photographs of a kind that is not read (.heic, .nef), so" in told
    assert "mogrify -format jpg *.heic" in told


def test_a_heif_photograph_is_told_whatever_its_name():
    with pytest.raises(UnreadableImage, match=r"HEIF .*make it a \.jpg"):
        decode_image(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(300), "RGB")
    with pytest.raises(UnreadableImage, match="not an image: 300 bytes"):
        decode_image(bytes(300), "RGB")


def test_plots_of_outputs_that_lie_among_the_images_are_left_out(folder):
    before = open_data(folder)
    Run.open(folder / "scores" / "knn", EVALUATE, {}, {}).finish({}, 0.0)
    (folder / "scores" / "knn" / "accuracy.png").write_bytes(b"a plot")
    (folder / "b" / "run.json").write_text("{}")  # no record of kdbias
    source = open_data(folder)
    assert source.ids.equals(before.ids)
    assert source.fingerprint == before.fingerprint
    assert "outputs of kdbias left out (scores/knn)" in source.describe()
    with pytest.raises(KdbiasError, match="is an output of kdbias evaluate; name the folder of the images"):
        open_data(folder / "scores" / "knn")


def test_root_above_makes_longer_ids_but_the_same_classes(folder):
    source = open_data(folder, root=folder.parent)
    assert source.ids[0].as_py() == "images/a-b/x.jpg"
    assert source.labels[0].as_py() == "a-b"
    assert source.read(0) == b"a-b/x.jpg"


def test_fingerprint_follows_content_not_place(folder, tmp_path):
    before = open_data(folder).fingerprint
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert open_data(moved).fingerprint == before
    (moved / "b/2.png").write_bytes(b"longer than it was")
    assert open_data(moved).fingerprint != before


def test_pickle_and_select(folder):
    import numpy as np

    source = pickle.loads(pickle.dumps(open_data(folder))).select(np.array([3, 0]))
    assert source.ids.to_pylist() == ["b/2.png", "a-b/x.jpg"]
    assert source.read(0) == b"b/2.png"
    assert source.positions.tolist() == [3, 0]
    again = source.select(np.array([False, True]))
    assert again.ids.to_pylist() == ["a-b/x.jpg"]
    assert again.positions.tolist() == [0]
    assert again.fingerprint != source.fingerprint
    with pytest.raises(IndexError):
        again.read(1)
    with pytest.raises(KdbiasError):
        again.select(np.array([1]))


def test_links_inside_the_root_are_followed(folder):
    (folder / "c").mkdir()
    (folder / "c/link.png").symlink_to(folder / "b/2.png")
    source = open_data(folder, where=["label=c"])
    assert source.read(0) == b"b/2.png"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_links_that_leave_the_root_are_refused(folder, tmp_path, kind):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.png").write_bytes(b"secret")
    link = folder / "b/out.png" if kind == "file" else folder / "out"
    link.symlink_to(secret / "s.png" if kind == "file" else secret)
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(folder)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_swapped_in_after_opening_is_not_read(folder, tmp_path, kind):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/2.png").write_bytes(b"secret")
    source = open_data(folder)
    row = source.ids.to_pylist().index("b/2.png")
    if kind == "file":
        (folder / "b/2.png").unlink()
        (folder / "b/2.png").symlink_to(tmp_path / "secret/2.png")
    else:
        (folder / "b").rename(folder / "was-b")
        (folder / "b").symlink_to(tmp_path / "secret")
    with pytest.raises(UnreadableImage, match="leaves the data root"):
        source.read(row)


def test_link_loops_are_refused(folder):
    (folder / "b/loop").symlink_to(folder)
    with pytest.raises(KdbiasError, match="leads back"):
        open_data(folder)


def test_missing_and_odd_files_have_reasons(folder):
    source = open_data(folder)
    os.unlink(folder / "b/2.png")
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(3)
    os.mkfifo(folder / "b/2.png")  # opening a pipe must not hang
    with pytest.raises(UnreadableImage, match="not a regular file"):
        source.read(3)


def test_empty_and_absent(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(KdbiasError, match=r"no images below this folder \(1 file of other .*: 1 \.txt\)"):
        open_data(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(KdbiasError, match=r"no images below this folder \(no files\)"):
        open_data(tmp_path / "empty")
    with pytest.raises(KdbiasError, match="no such file or folder"):
        open_data(tmp_path / "absent")


def test_columns_make_no_sense_for_a_folder(folder):
    with pytest.raises(KdbiasError, match="id_column is 'name', but folder data"):
        open_data(folder, id_column="name")
