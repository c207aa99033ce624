"""What other tools and people hand over: vectors and columns in memory, files of another format."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import kdbias
from kdbias.errors import KdbiasError
from kdbias.tables.density_table import read_density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.given import command_for
from kdbias.tables.weight_manifest import read_manifest

ROWS = [[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]
UNIT = [[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    "vectors",
    [
        ROWS,
        [[3, 4], [0, 2], [1, 0]],
        tuple(np.array(row, np.float16) for row in ROWS),
        np.array(ROWS),
        torch.tensor(ROWS, requires_grad=True),
        pd.Series([np.array(row) for row in ROWS], index=[7, 8, 9]),
        pd.DataFrame(ROWS),
        pa.array(ROWS),
        pa.chunked_array([pa.array(ROWS[:1]), pa.array(ROWS[1:])]),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(ROWS, np.float32)),
    ],
)
def test_vectors_in_any_form(tmp_path, vectors):
    table = kdbias.write_embedding_table(tmp_path / "t", ["a", "b", "c"], vectors, dtype="float32")
    np.testing.assert_allclose(table.vectors(), UNIT, atol=1e-6)
    assert table.ids().to_pylist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([7, None, 8], ["7", None, "8"]),
        (np.array([7, np.nan, 8]), ["7", None, "8"]),
        (np.array([1e10, np.nan, 8]), ["10000000000", None, "8"]),
        (pd.Series([7, None, 8], index=[2, 1, 0]), ["7", None, "8"]),
        (pd.Series(["x", np.nan, "y"]).astype(str), ["x", None, "y"]),
        (pd.Series(["x", None, "y"], dtype="category"), ["x", None, "y"]),
        (["x", "", "NULL"], ["x", None, None]),
        (torch.tensor([7, 7, 8]), ["7", "7", "8"]),
        (np.array(["x", "y", "z"]), ["x", "y", "z"]),
        (pa.chunked_array([["x"], ["y", None]]), ["x", "y", None]),
        (None, [None] * 3),
    ],
)
def test_labels_and_groups_in_any_form(tmp_path, labels, found):
    groups = {"cam": [1, 2, None], "age": pd.Series([1.5, np.nan, 2.0]), "race": np.array(["p", "q", "nan"])}
    table = kdbias.write_embedding_table(tmp_path / "t", np.array([3, 1, 2]), ROWS, labels, groups)
    assert table.labels().to_pylist() == found
    assert table.ids().to_pylist() == ["3", "1", "2"]
    assert table.column("cam").to_pylist() == [1, 2, None]
    assert table.column("age").to_pylist() == [1.5, None, 2.0]
    assert table.column("race").to_pylist() == ["p", "q", None]


@pytest.mark.parametrize(
    ("ids", "vectors", "more", "message"),
    [
        (["a", "b"], [[1.0, 2.0], [1.0]], {}, "vectors: not all of one length"),
        (["a", "b"], [[1.0, 2.0], None], {}, "vectors: not all of one length"),
        (["a", "b"], [1.0, 2.0], {}, r"expected an \(n, d\) array"),
        (["a", None], ROWS[:2], {}, "1 row has no sample_id"),
        (["a", 1], ROWS[:2], {}, "sample ids: not one plain value"),
        (np.ones((2, 2)), ROWS[:2], {}, "sample ids: not one plain value"),
        (["a", "b"], ROWS, {}, "2 sample ids, but 3 vectors"),
        (["a", "b"], ROWS[:2], {"labels": ["x"]}, "2 sample ids, but 1 labels"),
        (["a", "b"], ROWS[:2], {"groups": {"g": [[1], [2]]}}, "the group column 'g' holds list"),
        ([{}, {}], ROWS[:2], {}, "sample ids holds struct"),
        (["a", "b"], None, {}, "vectors: not all of one length"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, ids, vectors, more, message):
    with pytest.raises(KdbiasError, match=message) as caught:
        kdbias.write_embedding_table(tmp_path / "t", ids, vectors, **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_stage_says_how_to_make_a_table_of_vectors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"sample_id": ["a", "b"], "embedding": ROWS[:2]}).to_parquet("plain.parquet")
    with pytest.raises(
        KdbiasError, match=r"kdbias embed plain\.parquet -o plain-embeddings --teacher precomp"
    ):
        EmbeddingTable.open("plain.parquet")
    pd.DataFrame({"who": ["a", "b"], "v": ROWS[:2]}).to_parquet("my vectors.parquet")
    told = command_for("my vectors.parquet")
    assert told == (
        "kdbias embed 'my vectors.parquet' -o 'my vectors-embeddings' "
        "--teacher 'precomputed:my vectors.parquet' --same-order"
    )
    np.save("x.npy", np.ones((2, 2)))
    assert (
        command_for("x.npy") == "kdbias embed DATA -o x-embeddings --teacher precomputed:x.npy --same-order"
    )
    pd.DataFrame({"sample_id": ["a"], "weight": [1.0]}).to_parquet("w.parquet")
    assert command_for("w.parquet") is command_for("gone.parquet") is None
    (tmp_path / "f").mkdir()
    (tmp_path / "plain.parquet").rename("f/0.parquet")
    with pytest.raises(
        KdbiasError, match=r"no run.json\); make one of its vectors with: kdbias embed f -o f-emb"
    ):
        EmbeddingTable.open("f")


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (
            lambda f: pd.DataFrame({"sample_id": ["a"], "weight": [1.0]}).to_feather(f),
            "an Arrow .Feather. file",
        ),
        (lambda f: pd.DataFrame({"sample_id": ["a"], "weight": [1.0]}).to_csv(f), "a text file"),
        (lambda f: f.write_bytes(pickle.dumps({"a": 1})), "a pickle"),
        (lambda f: f.write_text('{"a": 1}\n'), "a JSON document"),
        (lambda f: np.save(f.open("wb"), np.ones(3)), "a NumPy array"),
        (lambda f: np.savez(f.open("wb"), a=np.ones(3)), "a ZIP archive"),
    ],
)
@pytest.mark.parametrize("name", ["w.feather", "density.parquet"])
def test_another_format_is_called_by_its_name(tmp_path, write, what, name):
    file = tmp_path / name
    write(file)
    for read in (read_manifest, read_density):
        with pytest.raises(KdbiasError, match=f"{what}.*, not a Parquet file; ") as caught:
            read(file)
        assert "overwrite" not in str(caught.value)


def test_a_damaged_file_is_no_other_format(tmp_path):
    pq.write_table(pa.table({"sample_id": ["a"], "weight": [1.0]}), tmp_path / "w.parquet")
    content = (tmp_path / "w.parquet").read_bytes()
    (tmp_path / "w.parquet").write_bytes(content[:-20])
    with pytest.raises(KdbiasError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "w.parquet")


def test_a_manifest_in_any_csv(tmp_path):
    (tmp_path / "w.csv").write_bytes("sample_id;weight;label\na;1;nan\nb;3;x\n".encode("utf-16"))
    manifest = read_manifest(tmp_path / "w.csv")
    assert manifest.ids.to_pylist() == ["a", "b"]
    assert manifest.labels.to_pylist() == [None, "x"]
    assert manifest.weights.tolist() == [0.5, 1.5]
