"""WebDataset tars: keys, columns, random access, the kept index, and what is refused."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.data.webdataset import expand
from kdbias.errors import KdbiasError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def shards(folder: Path, count: int = 3, each: int = 4, offset: int = 4) -> Path:
    for shard in range(count):
        members = {}
        for i in range(each):
            key = f"{shard * offset + i:06d}"
            members[f"{key}.jpg"] = f"image {shard}-{i}".encode() * (i + 1)
            members[f"{key}.json"] = json.dumps(
                {"person": f"p{i % 2}", "age": 20 + i, "box": [1, 2]}
            ).encode()
            members[f"{key}.cls"] = f"{i % 2}\n".encode()
        write_tar(folder / f"shard-{shard:04d}.tar", members)
    return folder


def test_folder_of_tars(tmp_path):
    source = pickle.loads(pickle.dumps(open_data(shards(tmp_path / "s"))))
    assert source.ids.to_pylist() == [f"{i:06d}" for i in range(12)]
    assert source.labels.to_pylist() == ["0", "1"] * 6
    assert source.column("age").to_pylist() == [20, 21, 22, 23] * 3
    assert list(source.groups) == ["age", "person"]
    for i in np.random.default_rng(0).permutation(12):
        assert source.read(int(i)) == f"image {i // 4}-{i % 4}".encode() * (i % 4 + 1)
    assert source.location(5).startswith("shard-0001.tar@")


def test_label_id_and_image_by_name(tmp_path):
    write_tar(
        tmp_path / "a.tar", {"k.jpg": b"small", "k.seg.png": b"mask", "k.png": b"large", "k.id": b"nine"}
    )
    source = open_data(tmp_path / "a.tar", image_column="png", id_column="id")
    assert source.read(0) == b"large"
    assert source.ids.to_pylist() == ["nine"]
    assert source.labels is None
    assert open_data(tmp_path / "a.tar").read(0) == b"small"
    source = open_data(shards(tmp_path / "s"), label_column="person", where=["age=20"])
    assert source.labels.to_pylist() == ["p0"] * 3
    assert source.column("cls").to_pylist() == ["0"] * 3


def test_ranges_and_patterns(tmp_path):
    folder = shards(tmp_path / "s")
    assert open_data(f"{folder}/shard-{{0001..0002}}.tar").ids[0].as_py() == "000004"
    assert open_data(f"{folder}/shard-*.tar").n == 12
    assert expand(f"{folder}/shard-{{0002..0002}}.tar") == [f"{folder}/shard-0002.tar"]
    with pytest.raises(KdbiasError, match=r"1 of 2 tar files do not exist \(.*shard-0003.tar"):
        open_data(f"{folder}/shard-{{0002..0003}}.tar")


def test_keys_that_repeat_between_tars_get_the_tars_name(tmp_path):
    source = open_data(shards(tmp_path / "s", offset=0))
    assert source.ids[4].as_py() == "shard-0001/000000"
    assert "keys occur in several tars" in source.describe()


def test_folders_inside_a_tar_are_part_of_the_key(tmp_path):
    members = {"./a/x.jpg": b"1", "a/x.cls": b"0", "b/x.jpg": b"2", "b/.hidden.jpg": b"no", "README": b"no"}
    source = open_data(write_tar(tmp_path / "a.tar", members))
    assert source.ids.to_pylist() == ["a/x", "b/x"]
    assert source.labels.to_pylist() == ["0", None]


def test_columns_of_different_types_become_text(tmp_path):
    for number, value in enumerate([3, "three"]):
        content = {f"{number}.jpg": b"x", f"{number}.json": json.dumps({"v": value, "w": number}).encode()}
        write_tar(tmp_path / f"s/{number}.tar", content)
    mixed = {
        "2.jpg": b"x",
        "2.json": b'{"v": 1}',
        "3.jpg": b"x",
        "3.json": b'{"v": "a"}',
        "4.jpg": b"x",
        "4.json": b"{",
    }
    write_tar(tmp_path / "s/2.tar", mixed)
    source = open_data(tmp_path / "s")
    assert source.column("v").to_pylist() == ["3", "three", "1", "a", None]
    assert source.column("w").to_pylist() == [0, 1, None, None, None]


def test_the_index_is_kept_and_follows_the_file(tmp_path, cache, monkeypatch):
    from kdbias.data import webdataset

    folder = shards(tmp_path / "s")
    before = open_data(folder)
    assert len(list(cache.glob("*.parquet"))) == 3
    built = []
    original = webdataset.index_tar
    monkeypatch.setattr(webdataset, "index_tar", lambda *a: built.append(a[0]) or original(*a))
    assert open_data(folder).fingerprint == before.fingerprint
    assert built == []
    write_tar(folder / "shard-0001.tar", {"new.jpg": b"new"})
    assert open_data(folder).n == 9
    assert [Path(file).name for file in built] == ["shard-0001.tar"]
    for entry in cache.glob("*.parquet"):
        entry.write_bytes(b"damaged")
    assert open_data(folder).n == 9


def test_a_tar_replaced_with_its_time_kept_is_indexed_anew(tmp_path):
    file = write_tar(tmp_path / "a.tar", {"old.jpg": b"x"})
    assert open_data(file).ids.to_pylist() == ["old"]
    before = file.stat()
    write_tar(file, {"new.jpg": b"x"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_data(file).ids.to_pylist() == ["new"]


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "file/below"))
    assert open_data(shards(tmp_path / "s")).n == 12


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg"])
def test_members_that_leave_the_root_are_refused(tmp_path, name):
    with pytest.raises(KdbiasError, match=r"refused: the member .* leaves the data root"):
        open_data(write_tar(tmp_path / "evil.tar", {"fine.jpg": b"x", name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_never_images(tmp_path, kind):
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        for name, type_ in [("a.jpg", tarfile.REGTYPE), ("b.jpg", kind)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "/etc/passwd"
            archive.addfile(info)
    source = open_data(file)
    assert source.ids.to_pylist() == ["a", "b"]  # counted, but never followed
    assert source.read(0) == b""
    with pytest.raises(UnreadableImage, match="no image: a link or device; pack files"):
        source.read(1)


def test_nothing_is_ever_unpacked(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise AssertionError("extracted")

    for method in ("extract", "extractall", "_extract_member"):
        monkeypatch.setattr(tarfile.TarFile, method, refuse)
    before = set(tmp_path.rglob("*"))
    source = open_data(shards(tmp_path / "s"))
    assert source.read(3)
    assert not [p for p in set(tmp_path.rglob("*")) - before if p.suffix in (".jpg", ".json", ".cls")]


def test_sample_without_an_image_is_one_unreadable_image(tmp_path):
    source = open_data(write_tar(tmp_path / "a.tar", {"a.jpg": b"x", "b.cls": b"1"}))
    assert source.ids.to_pylist() == ["a", "b"]
    with pytest.raises(UnreadableImage, match="no image"):
        source.read(1)


def test_bad_tars(tmp_path):
    whole = shards(tmp_path / "s", 1, 40) / "shard-0000.tar"
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[: 512 * 3 + 100])
    with pytest.raises(KdbiasError, match=r"no whole .tar \(it ends without its end mark"):
        open_data(cut)
    zipped = write_tar(tmp_path / "zipped.tar", {"a.jpg": b"x"}, "w:gz")
    with pytest.raises(KdbiasError, match="compressed with gzip; decompress it first"):
        open_data(zipped)
    with pytest.raises(
        KdbiasError, match=r"no images in its tar files \(1\), whose members end in '.txt' \(1\)"
    ):
        open_data(write_tar(tmp_path / "text.tar", {"a.txt": b"x"}))
    with pytest.raises(KdbiasError, match=r"no column 'x' for --label-column; it has age, cls, person"):
        open_data(whole, label_column="x")
    with tarfile.open(tmp_path / "twice.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(KdbiasError, match=r"'a.jpg' occurs twice"):
        open_data(tmp_path / "twice.tar")


def test_a_tar_cut_after_opening_is_one_unreadable_image(tmp_path):
    file = shards(tmp_path / "s", 1) / "shard-0000.tar"
    source = open_data(file)
    file.write_bytes(file.read_bytes()[: int(source.images.offsets[3])])
    assert source.read(2)
    with pytest.raises(UnreadableImage, match="truncated"):
        source.read(3)
