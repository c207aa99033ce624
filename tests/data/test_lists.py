"""Lists of paths, and patterns that find labels and groups in paths."""

from pathlib import Path

import pytest

from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

MSMT = """
name = "toy MSMT17"
source = "MSMT17_V1"
kind = "lists"
pattern = '_(?P<cam>\\d\\d)_\\d{4}(?P<time>morning|noon)_'

[[lists]]
file = "list_train.txt"
prefix = "train"
label_prefix = "train-"
role = "train"

[[lists]]
file = "list_query.txt"
prefix = "test"
label_prefix = "test-"
role = "query"
"""


@pytest.fixture
def msmt(tmp_path: Path) -> Path:
    folder = tmp_path / "MSMT17_V1"
    lists = {"train": ["0000/0000_000_01_0303morning_0.jpg 0", "0001/0001_000_14_0303noon_0.jpg 1"]}
    lists["query"] = ["0000/0000_002_05_0303noon_0.jpg 0"]
    for role, lines in lists.items():
        (folder / f"list_{role}.txt").parent.mkdir(exist_ok=True)
        (folder / f"list_{role}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            path = folder / ("train" if role == "train" else "test") / line.split()[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(line.encode())
    (tmp_path / "toy.toml").write_text(MSMT)
    return tmp_path / "toy.toml"


def test_lists_with_prefixes_groups_and_pattern(msmt):
    source = open_data(msmt)
    assert source.ids.to_pylist()[0] == "MSMT17_V1/train/0000/0000_000_01_0303morning_0.jpg"
    assert source.labels.to_pylist() == ["train-0", "train-1", "test-0"]
    assert source.column("role").to_pylist() == ["train", "train", "query"]
    assert source.column("cam").to_pylist() == ["01", "14", "05"]
    assert source.column("time").to_pylist() == ["morning", "noon", "noon"]
    assert source.read(2) == b"0000/0000_002_05_0303noon_0.jpg 0"
    assert open_data(msmt, where=["role=query"]).n == 1


def test_more_columns(tmp_path):
    (tmp_path / "meta.txt").write_text("1.jpg\t7\t100\n2.jpg\t7\t101\n")
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "x.toml").write_text(
        'name = "x"\nsource = "."\nkind = "lists"\n'
        '[[lists]]\nfile = "meta.txt"\ncolumns = ["path", "template", "media"]\n'
    )
    source = open_data(tmp_path / "x.toml")
    assert source.labels is None
    assert source.column("template").to_pylist() == [7, 7]
    assert source.column("media").to_pylist() == [100, 101]
    assert source.read(1) == b"2.jpg"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('prefix = "test"', 'prefix = "../other"', "leaves the data root"),
        ('file = "list_query.txt"', 'file = "../../etc/passwd"', "leaves the data root"),
        ('file = "list_query.txt"', 'file = "gone.txt"', "not a list of path, label"),
        ('role = "query"', 'columns = ["path"]', "not a list of path"),
        ('role = "query"', 'columns = ["name", "label"]', "must include path"),
        ('role = "query"', 'label = "query"', r"occur twice \(path, label, .*label\)"),
        ('role = "query"', 'columns = ["path", "path"]', r"occur twice \(path, path"),
        ("(?P<cam>", "(?P<cam>(", "is not usable"),
        ("morning|noon", "evening", "no path fits the pattern"),
        ("morning|noon", "noon", "does not fit the pattern"),
    ],
)
def test_mistakes(msmt, old, new, message):
    assert old in msmt.read_text()
    msmt.write_text(msmt.read_text().replace(old, new, 1) if old != "file" else "")
    with pytest.raises(KdbiasError, match=message):
        open_data(msmt)


def test_lists_need_a_description(msmt):
    msmt.write_text('name = "x"\nsource = "MSMT17_V1"\nkind = "lists"\n')
    with pytest.raises(KdbiasError, match=r"need a \.toml description with \[\[lists\]\]"):
        open_data(msmt)


def test_pattern_on_a_folder(tmp_path):
    names = [
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "query/0003_c2s1_1.jpg",
        "bounding_box_test/-1_c1s1_2.jpg",
    ]
    for name in names:
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(name.encode())
    pattern = r"^(?P<role>bounding_box_train|query|bounding_box_test)/(?P<label>\d+)_c(?P<cam>\d)"
    (tmp_path / "m.toml").write_text(f'name = "m"\nsource = "m"\npattern = \'{pattern}\'\n')
    source = open_data(tmp_path / "m.toml")
    assert source.ids.to_pylist() == [f"m/{names[0]}", f"m/{names[1]}"]
    assert source.labels.to_pylist() == ["0002", "0003"]
    assert source.column("cam").to_pylist() == ["1", "2"]
    assert source.column("role").to_pylist() == ["bounding_box_train", "query"]
    assert "1 image left out: no fit for the pattern" in source.describe()
    assert source.read(1) == names[1].encode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "lines", ["a b.jpg 007\nc.jpg  8 \n", "a b.jpg\t007\r\nc.jpg\t 8\r\n", "a b.jpg 007\n\nc.jpg 8"]
)
def test_marks_and_blanks(tmp_path, encoding, lines):
    (tmp_path / "list.txt").write_bytes(lines.encode(encoding))
    (tmp_path / "x.toml").write_text(
        'name = "x"\nsource = "."\nkind = "lists"\n[[lists]]\nfile = "list.txt"\n'
    )
    source = open_data(tmp_path / "x.toml")
    assert source.ids.to_pylist() == ["a b.jpg", "c.jpg"]
    assert source.labels.to_pylist() == ["007", "8"]


def test_a_column_that_nobody_named_is_no_part_of_a_path(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg 7 3\nb.jpg 7 4\n")
    (tmp_path / "x.toml").write_text(
        'name = "x"\nsource = "."\nkind = "lists"\n[[lists]]\nfile = "list.txt"\n'
    )
    with pytest.raises(KdbiasError, match="not a list of path, label"):
        open_data(tmp_path / "x.toml")
