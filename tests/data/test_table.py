"""Manifests: columns, ids, lazily read images, and bad input."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.data.sharded import ParquetImages
from kdbias.errors import KdbiasError


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    for name in ["0001.png", "sub/0002.png", "sub/0003.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    file = tmp_path / "faces.csv"
    file.write_text(
        "path,label,cam,race\n0001.png,007,1,Asian\n./sub/0002.png,,2,\nsub/0003.png,010,1,White\n"
    )
    return file


def parquet(path: Path, n: int = 10, row_group_size: int = 3, **more) -> Path:
    """A manifest whose image i is the text ``image i``."""
    columns = {
        "sample_id": [f"s{i}" for i in range(n)],
        "label": [i // 2 for i in range(n)],
        "image": [f"image {i}".encode() for i in range(n)],
        **more,
    }
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


def test_csv_with_paths(csv):
    source = open_data(csv)
    assert source.ids.to_pylist() == ["0001.png", "sub/0002.png", "sub/0003.png"]
    assert source.labels.to_pylist() == ["007", None, "010"]
    assert source.column("cam").to_pylist() == [1, 2, 1]
    assert source.column("race").to_pylist() == ["Asian", None, "White"]
    assert [source.read(i) for i in range(3)] == [b"0001.png", b"sub/0002.png", b"sub/0003.png"]
    assert source.location(1) == "sub/0002.png"


def test_csv_columns_of_nothing_and_of_dates(csv):
    csv.write_text("path,site,taken\n0001.png,,\nsub/0002.png,,2020-01-02\n")
    source = open_data(csv)
    assert "site (0), taken (1)" in source.describe()
    assert source.column("site").to_pylist() == [None, None]
    assert open_data(csv, where=["site=", "taken=2020-01-02"]).ids.to_pylist() == ["sub/0002.png"]
    with pytest.raises(KdbiasError, match=r"no sample has this value; site has \(missing\)"):
        open_data(csv, where=["site=north"])


def test_row_numbers_that_pandas_wrote_are_no_group(csv):
    csv.write_text(",path,cam\n0,0001.png,1\n1,sub/0002.png,2\n")
    assert list(open_data(csv).groups) == ["cam"]


def test_csv_with_named_columns_and_id(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    file = tmp_path / "list.tsv"
    file.write_text("key\tfile\tperson\tlabel\n0012\tx.png\tBob\t3\n")
    source = open_data(file, id_column="key", path_column="file", label_column="person")
    assert source.ids.to_pylist() == ["0012"]
    assert source.labels.to_pylist() == ["Bob"]
    assert source.groups["data_label"].to_pylist() == [3]  # the column that was not chosen is kept, renamed
    assert "data_label" in source.describe()
    assert open_data(file, path_column="file", label_column="person", where=["person=Bob"]).n == 1


def test_absolute_paths_below_the_root_become_relative(csv, tmp_path):
    file = tmp_path / "absolute.csv"
    file.write_text(f"path\n{tmp_path}/sub/0002.png\n")
    source = open_data(file)
    assert source.ids.to_pylist() == ["sub/0002.png"]
    assert source.read(0) == b"sub/0002.png"


@pytest.mark.parametrize(
    "path", ["../x.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:/x.png", "a/.."]
)
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    file = tmp_path / "evil.csv"
    file.write_text(f"path\nfine.png\n{path}\n")
    with pytest.raises(KdbiasError, match=r"1 path leaves the data root .*--root"):
        open_data(file)


def test_root_given_above_lets_absolute_paths_in(csv, tmp_path):
    inner = tmp_path / "lists"
    inner.mkdir()
    (inner / "list.csv").write_text(f"path\n{tmp_path}/0001.png\n")
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(inner / "list.csv")
    assert open_data(inner / "list.csv", root=tmp_path).read(0) == b"0001.png"


def test_link_in_a_manifest_that_leaves_the_root_is_one_unreadable_image(csv, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(b"secret")
    (csv.parent / "0001.png").unlink()
    (csv.parent / "0001.png").symlink_to(outside)
    source = open_data(csv)
    with pytest.raises(UnreadableImage, match="leaves the data root"):
        source.read(0)
    assert source.read(1) == b"sub/0002.png"


def test_parquet_with_bytes(tmp_path):
    source = open_data(parquet(tmp_path / "m.parquet", quality=np.linspace(0, 1, 10)))
    assert source.labels.to_pylist() == [str(i // 2) for i in range(10)]
    assert list(source.groups) == ["quality"]
    order = np.random.default_rng(0).permutation(10)
    assert [source.select(order).read(i) for i in range(10)] == [f"image {i}".encode() for i in order]
    assert source.location(7) == "m.parquet#7"


def test_parquet_struct_images_and_folder_of_parts(tmp_path):
    for part in range(2):
        images = [{"bytes": f"{part}{i}".encode(), "path": f"{part}{i}.png"} for i in range(3)]
        images[1]["bytes"] = None
        table = pa.table({"key": [f"{part}-{i}" for i in range(3)], "image": images, "box": [[1, 2]] * 3})
        pq.write_table(table, tmp_path / f"train-{part}.parquet", row_group_size=2)
    source = open_data(tmp_path, id_column="key")
    assert source.ids[4].as_py() == "1-1"
    assert source.read(5) == b"12"
    assert source.location(5) == "train-1.parquet#2"
    assert "box" in source.describe()
    assert source.groups == {}
    with pytest.raises(UnreadableImage, match="null"):
        source.read(4)


def test_columns_that_are_no_plain_values_are_left_out(tmp_path):
    rich = {"digest": pa.array([b"0"], pa.binary(1)), "box": [[1, 2]], "raw": [b"0"]}
    coded = {"code": pa.array([b"0"]).dictionary_encode()}
    source = open_data(parquet(tmp_path / "m.parquet", n=1, **rich, **coded))
    assert source.groups == {}
    assert "columns of no plain values left out: digest, box, raw, code" in source.describe()


def test_images_and_texts_that_arrow_keeps_as_views(tmp_path):
    columns = {
        "sample_id": pa.array(["a", "b"], pa.string_view()),
        "label": pa.array(["x", None], pa.string_view()),
        "race": pa.array(["y", None], pa.string_view()),
        "image": pa.array([b"0", b"1"], pa.binary_view()),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet", where=["race=y"])
    assert (source.ids.to_pylist(), source.labels.to_pylist()) == (["a"], ["x"])
    assert source.read(0) == b"0"


def test_what_pandas_writes(tmp_path):
    import pandas as pd

    columns = {
        "sample_id": pd.Categorical(["a", "b"]),
        "label": pd.Categorical([3, 4]),
        "g": pd.Categorical(["x", "y"]),
    }
    pd.DataFrame({**columns, "image": [b"0", b"1"]}, index=[5, 7]).to_parquet(tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet", where=["g=y"])
    assert source.ids.to_pylist() == ["b"]
    assert source.labels.to_pylist() == ["4"]
    assert list(source.groups) == ["g"]  # the index is none
    assert source.read(0) == b"1"


def test_only_a_few_row_groups_stay_in_memory(tmp_path):
    file = tmp_path / "m.parquet"
    rows = [bytes(1000) for _ in range(100)]
    pq.write_table(pa.table({"image": rows}), file, row_group_size=10)
    images = ParquetImages([str(file)], "image", cache_bytes=35_000)
    for row in range(100):
        images.read(row)
    assert len(images._held) == 3


def test_large_row_groups_are_noted(tmp_path, monkeypatch):
    from kdbias.data import sharded

    file = parquet(tmp_path / "m.parquet", row_group_size=5)
    assert "slow" not in open_data(file).describe()
    monkeypatch.setattr(sharded.ParquetImages.__init__, "__defaults__", (40,))
    assert "slow" not in open_data(file).describe()  # beyond the cache, but a group is quickly read
    monkeypatch.setattr(sharded, "_LARGE_GROUP", 30)
    assert "random order, as training does, is slow" in open_data(file).describe()


def _read_in_child(source, rows, queue):
    queue.put([source.read(i) for i in rows])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_images(tmp_path, method):
    source = open_data(parquet(tmp_path / "m.parquet"))
    assert source.read(4) == b"image 4"  # the parent has the file open before it forks
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(source, [9, 4, 0], queue))
    child.start()
    assert queue.get(timeout=60) == [b"image 9", b"image 4", b"image 0"]
    child.join(60)
    assert child.exitcode == 0


def test_pickle_is_small(tmp_path):
    source = open_data(parquet(tmp_path / "m.parquet"))
    source.read(0)
    assert b"image 0" not in pickle.dumps(source)


def test_fingerprint_follows_content_and_columns(tmp_path):
    one = open_data(parquet(tmp_path / "a.parquet", person=["p"] * 10))
    same = open_data(parquet(tmp_path / "b.parquet", person=["p"] * 10))
    assert one.fingerprint == same.fingerprint
    assert open_data(tmp_path / "a.parquet", label_column="person").fingerprint != one.fingerprint
    assert open_data(parquet(tmp_path / "b.parquet", person=["q"] * 10)).fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"sample_id": ["a", "a", "b"], "image": [b"", b"", b""]},
            {},
            "1 sample_id value occurs more than once",
        ),
        ({"sample_id": ["a", None], "image": [b"", b""]}, {}, "1 row has no sample_id"),
        ({"sample_id": ["a"], "jpg": [b"x"]}, {}, "no column 'image'.*--image-column.*sample_id, jpg"),
        (
            {"sample_id": ["a"], "image": [b"x"]},
            {"label_column": "who"},
            "no column 'who' for --label-column",
        ),
        ({"sample_id": ["a"], "image": [b"x"]}, {"image_column": "sample_id"}, "not image bytes"),
        ({"sample_id": ["a"], "image": [b"x"]}, {"id_column": "image"}, "not plain values"),
        ({"sample_id": [b"a"], "image": [b"x"]}, {}, "'sample_id' for --id-column holds binary, not plain"),
        ({"path": ["a", None]}, {}, "1 row has no path"),
        (
            {"sample_id": pa.array([], pa.string()), "image": pa.array([], pa.binary())},
            {},
            "holds no samples",
        ),
    ],
)
def test_bad_tables_get_one_line(tmp_path, columns, options, message):
    file = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), file)
    with pytest.raises(KdbiasError, match=message) as caught:
        open_data(file, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; the first line must name the columns"),
        (b"path,label\n", "holds no samples"),
        (b"path,path\na,b\n", "occur twice"),
        (b"path,label\na.png\n", "not a readable CSV file"),
        (b"path\n\xff\xfe\n", "cannot be read|UTF-8"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(KdbiasError, match=message):
        open_data(tmp_path / "bad.csv")


def test_damaged_parquet(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(KdbiasError, match="not a readable Parquet file"):
        open_data(tmp_path / "bad.parquet")
    with pytest.raises(KdbiasError, match="not a kind of data"):
        open_data(parquet(tmp_path / "table.feather"))
