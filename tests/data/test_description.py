"""Descriptions: keys, roots, counts; and those that ship with kdbias, on the data where it is there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.opening import open_data, read_description, shipped_descriptions
from kdbias.errors import KdbiasError

FIRST_LINES = 'name = "toy"\nsource = "sub/toy.parquet"\n'


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    table = {
        "key": ["a", "b", "c"],
        "who": [0, 1, 1],
        "split": ["x", "y", "y"],
        "jpg": [b"0", b"1", b"2"],
        "z": [1, 2, 3],
    }
    pq.write_table(pa.table(table), tmp_path / "sub/toy.parquet")
    (tmp_path / "toy.toml").write_text(
        FIRST_LINES
        + 'groups = ["split"]\nlabel_names = ["zero", "one"]\nwhere = ["split=y"]\nterms = "free"\n'
        '[columns]\nid = "key"\nlabel = "who"\nimage = "jpg"\n'
        '[expect]\nsamples = 3\nlabels = 2\nsplit = 2\n"split=y" = 2\n'
        '[embeddings]\nfile = "sub/toy.npy"\nteacher = "t"\n'
    )
    return tmp_path / "toy.toml"


def test_everything_together(toy):
    source = open_data(toy)
    assert source.ids.to_pylist() == ["b", "c"]
    assert source.labels.to_pylist() == ["one", "one"]
    assert list(source.groups) == ["split"]
    assert source.read(1) == b"2"
    assert (source.total, source.positions.tolist()) == (3, [1, 2])
    assert source.about["terms"] == "free"
    assert source.about["embeddings"]["file"] == str(toy.parent / "sub/toy.npy")
    assert "toy (table): 2 of 3 samples" in source.describe()


def test_the_command_line_comes_first(toy):
    source = open_data(toy, label_column="split", id_column="z", where=["z=3"])
    assert source.labels.to_pylist() == ["y"]
    assert source.ids.to_pylist() == ["3"]


def test_root_by_option_and_environment(toy, tmp_path, monkeypatch):
    elsewhere = tmp_path / "descriptions/toy.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(toy.read_text())
    with pytest.raises(KdbiasError, match=r"has no sub/toy.parquet; give another --root"):
        open_data(elsewhere)
    assert open_data(elsewhere, root=tmp_path).n == 2
    elsewhere.write_text('root = "$TOY_ROOT"\n' + toy.read_text())
    monkeypatch.delenv("TOY_ROOT", raising=False)
    with pytest.raises(KdbiasError, match="Give --root or set TOY_ROOT"):
        open_data(elsewhere)
    monkeypatch.setenv("TOY_ROOT", str(tmp_path))
    assert open_data(elsewhere).n == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("colums = 3\n", "unknown key colums; did you mean 'columns'.*; known: name, "),
        ("where = 'split=y'\n", "where is 'split=y', should be a list of texts"),
        ("groups = ['a', 1]\n", r"groups is \['a', 1\], should be a list of texts"),
        ("terms = 3\n", "toy.toml: description: terms is 3, should be a text"),
        ("[[lists]]\nfile = 'x'\nprefix = ['a']\n", "lists is .*'prefix': .*should be a table of texts"),
        ("[[lists]]\nfile = 'x'\ncolumns = 'path'\n", "lists is 'path', should be a list of texts"),
        ("[[lists]]\ncolumns = ['path']\n", "lists is .* should be a table of texts, a file among them"),
        ("lists = 'x'\n", "lists is 'x', should be a list of tables"),
        ("[[arrays]]\nimages = 1\n", "arrays is {'images': 1}, should be a table of texts"),
        ("[embeddings]\nfile = 'x'\ntecher = 'y'\n", "should be a table of texts, a file and a teacher"),
        ("[embeddings]\nteacher = 'y'\n", "should be a table of texts, a file and a teacher"),
        ("[columns]\nidd = 'key'\n", "a table of column names, for id, label, path, image"),
        ("[expect]\nsamples = '3'\n", "expect is {'samples': '3'}, should be a table of whole numbers"),
        ("[expect]\nsamples = true\n", "expect is {'samples': True}, should be a table of whole numbers"),
        ("kind = 'tabel'\n", "unknown kind 'tabel'; known are"),
        ("this is not toml\n", "not a TOML file"),
    ],
)
def test_mistakes_in_the_file(toy, lines, message):
    toy.write_text(FIRST_LINES + lines)
    with pytest.raises(KdbiasError, match=message) as caught:
        open_data(toy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", ["samples = 4", "labels = 3", '"split=y" = 3', "split = 1"])
def test_wrong_counts_are_refused(toy, count):
    text = toy.read_text()
    toy.write_text(text[: text.index("[expect]")] + f"[expect]\n{count}\n")
    with pytest.raises(KdbiasError, match=r"found .* the description expects"):
        open_data(toy)


@pytest.mark.parametrize("source", ["../x.parquet", "/etc/passwd"])
def test_a_source_that_leaves_the_root_is_refused(tmp_path, source):
    (tmp_path / "evil.toml").write_text(f'name = "evil"\nsource = "{source}"\n')
    with pytest.raises(KdbiasError, match="leaves the data root"):
        open_data(tmp_path / "evil.toml")


def test_unknown_name_lists_what_ships():
    with pytest.raises(KdbiasError, match=r"none that ships with kdbias \(.*demo.toml.*lfw112.toml"):
        open_data("nothing.toml")


def test_shipped_descriptions_are_well_formed():
    shipped = shipped_descriptions()
    assert {"demo.toml", "lfw112.toml", "fashion_mnist_12k.toml"} <= set(shipped)
    for path in shipped.values():
        description = read_description(path)
        assert description.terms, path
        assert description.citation, path
        assert description.expect, path


REAL = ["lfw112", "fairface8k", "market1501_train", "cifar10_30k", "fashion_mnist_12k"]


@pytest.mark.parametrize("name", REAL)
def test_shipped_descriptions_on_real_data(real_data, name):
    from kdbias.data.decode import decode_image

    source = open_data(f"{name}.toml", root=real_data)  # checks the counts
    assert source.labels is None or source.labels.null_count == 0
    for row in np.linspace(0, source.n - 1, 5).astype(int):
        image = decode_image(source.read(row))
        assert image.shape[2] == 3
        assert image.std() > 1
    if "embeddings" in source.about:
        assert len(np.load(source.about["embeddings"]["file"], mmap_mode="r")) == source.total
