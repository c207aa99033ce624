"""Embeddings that exist already: read as they are needed, whatever their order and number."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.opening import open_data
from kdbias.embedding.batches import take_precomputed
from kdbias.embedding.parts import Plan
from kdbias.embedding.stage import embed
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.teachers.precomputed import open_precomputed


def write_parts(folder: Path, vectors: np.ndarray, parts: int = 4, fixed: bool = True) -> None:
    folder.mkdir()
    for k, rows in enumerate(np.array_split(np.arange(len(vectors)), parts)):
        flat = pa.array(vectors[rows].ravel())
        lists = (
            pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            if fixed
            else pa.array(vectors[rows].tolist(), pa.list_(flat.type))
        )
        pq.write_table(
            pa.table({"sample_id": [f"{i:06d}" for i in rows], "vector": lists}), folder / f"{k}.parquet"
        )


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_vectors_come_in_any_order_of_the_data(tmp_path, fixed) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    write_parts(tmp_path / "v", vectors, fixed=fixed)
    stored = open_precomputed(str(tmp_path / "v"))
    assert (stored.dim, stored.vectors.shape, stored.vectors.dtype) == (5, (60, 5), np.float32)
    rows = np.random.default_rng(1).permutation(60)[:47]
    parts = Plan(47, 5, 8, "float32", False).parts[1:]  # the first is done
    found = list(take_precomputed(stored, rows, parts, tmp_path))
    assert np.array_equal(np.concatenate([result.vectors for _, result in found]), vectors[rows[8:]])
    assert [len(result.vectors) for _, result in found] == [8, 8, 8, 8, 7]
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_memory_does_not_grow_with_the_parquet_files(tmp_path) -> None:
    n, d = 20_000, 512
    write_parts(tmp_path / "v", np.ones((n, d), np.float32))
    stored = open_precomputed(str(tmp_path / "v"))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in stored.vectors.blocks()]
    assert max(held) < 0.25 * n * d * 4
    tracemalloc.start()  # NumPy's arrays, but not what is mapped
    try:
        vectors, places = stored.within_reach(np.arange(n)[::-1], tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 0.25 * n * d * 4
    finally:
        tracemalloc.stop()
    assert vectors.shape == (n, d)
    assert np.array_equal(places, np.arange(n)[::-1])


def test_parts_that_do_not_fit_together_are_refused(tmp_path) -> None:
    write_parts(tmp_path / "v", np.ones((6, 3), np.float32), fixed=False)
    pq.write_table(pa.table({"sample_id": ["x"], "vector": [[1.0] * 4]}), tmp_path / "v" / "9.parquet")
    stored = open_precomputed(str(tmp_path / "v"))
    with pytest.raises(KdbiasError, match=r"9\.parquet: row 0 has a vector of length 4, not 3"):
        stored.within_reach(np.arange(7), tmp_path)
    pq.write_table(pa.table({"sample_id": ["x"]}), tmp_path / "v" / "9.parquet")
    with pytest.raises(KdbiasError, match=r"9\.parquet: should have the columns 'sample_id' and 'vector'"):
        open_precomputed(str(tmp_path / "v"))


@pytest.fixture
def data(tmp_path):
    """Six samples, the first five by way of a filter; labels of their own for some tests."""
    (tmp_path / "d.csv").write_text("sample_id,keep\n" + "".join(f"s{i},{int(i < 5)}\n" for i in range(6)))
    return open_data(tmp_path / "d.csv", where=["keep=1"], images=False)


VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4) + 1


def taken(stored, data, folder, same_order=False) -> np.ndarray:
    vectors, places = stored.within_reach(stored.rows_for(data, same_order), folder)
    return np.asarray(vectors[places])


@pytest.mark.parametrize(
    "arrays",
    [
        {"features": VECTORS, "labels": [0, 0, 0, 1, 1, 1]},
        {"features": VECTORS, "labels": np.arange(6)},
        {"x": VECTORS, "y": np.arange(6)},
        {"x": VECTORS, "targets": np.array(list("pqrstu"))},
        {"x": VECTORS, "person": np.array(list("ppqqrr"))},
        {"x": VECTORS, "camera": np.arange(6), "more": np.arange(6)},
        {"x": VECTORS, "ids": np.array([f"other{i}" for i in range(6)])},
    ],
)
def test_no_array_of_labels_plays_the_ids(tmp_path, data, arrays) -> None:
    np.savez(tmp_path / "v.npz", **arrays)
    stored = open_precomputed(str(tmp_path / "v.npz"))
    assert np.array_equal(taken(stored, data, tmp_path, same_order=True), VECTORS[:5])
    with pytest.raises(KdbiasError, match=r"6 vectors without ids|are not among the 6 ids"):
        stored.rows_for(data, False)


@pytest.mark.parametrize("name", ["sample_id", "ids", "filenames", "who"])
@pytest.mark.parametrize("kind", ["U", "S"])
def test_arrays_of_ids_join(tmp_path, data, name, kind) -> None:
    ids = np.array([f"s{i}" for i in range(6)][::-1], kind)
    np.savez(tmp_path / "v.npz", emb=VECTORS[::-1], labels=np.arange(6), **{name: ids})
    stored = open_precomputed(str(tmp_path / "v.npz"))
    for same_order in (False, True):  # the same ids in another order are joined, whatever is asserted
        assert np.array_equal(taken(stored, data, tmp_path, same_order), VECTORS[:5])


def test_labels_beside_vectors_are_taken_where_the_data_has_none(tmp_path, data) -> None:
    np.savez(tmp_path / "v.npz", features=VECTORS, labels=[7, 7, 8, 8, 9, 9])
    stored = open_precomputed(str(tmp_path / "v.npz"))
    rows = stored.rows_for(data, True)
    found, remark = stored.label(data, rows)
    assert found.labels.to_pylist() == ["7", "7", "8", "8", "9"]
    assert "as the data has none" in remark
    own = open_data(data.origin, label_column="keep", images=False)
    kept, remark = stored.label(own, np.arange(6))
    assert kept.labels.to_pylist() == ["1"] * 5 + ["0"]
    assert "differ in 6 of 6 samples" in remark


def clip(folder: Path, numbers: list[int], ids: bool = True) -> None:
    """What clip-retrieval writes: sample 2k and 2k + 1 in the k-th file."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for k, number in enumerate(numbers):
        rows = slice(2 * k, 2 * k + 2)
        np.save(folder / f"img_emb/img_emb_{number}.npy", VECTORS[rows].astype(np.float16))
        names = pa.table({"image_path": [f"s{2 * k}", f"s{2 * k + 1}"], "caption": ["x", "y"]})
        if ids:
            pq.write_table(names, folder / f"metadata/metadata_{number}.parquet")


@pytest.mark.parametrize("place", ["clip", "clip/img_emb"])
@pytest.mark.parametrize("ids", [True, False])
def test_folders_of_clip_retrieval_in_the_order_of_numbers(tmp_path, data, place, ids) -> None:
    clip(tmp_path / "clip", [2, 9, 10], ids)
    stored = open_precomputed(str(tmp_path / place))
    assert stored.vectors.shape == (6, 4)
    assert stored.vectors.dtype == np.float16
    assert np.array_equal(taken(stored, data, tmp_path, same_order=not ids), VECTORS[:5])
    if not ids:
        with pytest.raises(KdbiasError, match="6 vectors without ids"):
            stored.rows_for(data, False)


def test_folders_of_clip_retrieval_that_do_not_fit(tmp_path) -> None:
    clip(tmp_path / "c", [0, 1, 2])
    np.save(tmp_path / "c/img_emb/img_emb_1.npy", VECTORS[:3])
    with pytest.raises(KdbiasError, match=r"metadata_1\.parquet: 2 rows, but img_emb_1\.npy holds 3 vectors"):
        open_precomputed(str(tmp_path / "c"))
    np.save(tmp_path / "c/img_emb/img_emb_1.npy", VECTORS[:2, :3])
    with pytest.raises(
        KdbiasError, match=r"img_emb_1\.npy: holds float32 \(2, 3\), but img_emb_0\.npy float16"
    ):
        open_precomputed(str(tmp_path / "c"))
    (tmp_path / "c/img_emb/img_emb_1.npy").unlink()
    with pytest.raises(KdbiasError, match=r"metadata_1\.parquet: nothing in .*img_emb bears its number"):
        open_precomputed(str(tmp_path / "c"))
    np.save(tmp_path / "c/img_emb/text_emb_2.npy", VECTORS[:2])
    with pytest.raises(KdbiasError, match=r"bears the number of .*one kind of vectors"):
        open_precomputed(str(tmp_path / "c"))


def lists(kind: str) -> pa.Array:
    if kind == "tensor":
        return pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)
    value = {"16": pa.float16(), "32": pa.float32(), "64": pa.float64()}[kind[-2:]]
    of = {"fixed": pa.list_(value, 4), "list_": pa.list_(value), "large": pa.large_list(value)}[kind[:5]]
    return pa.array(list(VECTORS.astype(value.to_pandas_dtype())), of)


@pytest.mark.parametrize(
    "kind", ["tensor", *(f"{a}{b}" for a in ("fixed", "list_", "large") for b in ("16", "32", "64"))]
)
def test_every_kind_of_list_of_floats(tmp_path, data, kind) -> None:
    ids = [f"s{i}" for i in range(6)]
    table = pa.table({"sample_id": ids, "box": [[1, 2]] * 6, "vec": lists(kind), "label": list("ppqqrr")})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=2)
    stored = open_precomputed(str(tmp_path / "v.parquet"))
    assert np.array_equal(taken(stored, data, tmp_path), VECTORS[:5])
    assert stored.label(data, np.arange(5))[0].labels.to_pylist() == list("ppqqr")
    pq.write_table(table.drop_columns(["sample_id"]), tmp_path / "v.parquet")
    stored = open_precomputed(str(tmp_path / "v.parquet"))
    assert np.array_equal(taken(stored, data, tmp_path, same_order=True), VECTORS[:5])
    with pytest.raises(KdbiasError, match="6 vectors without ids"):
        stored.rows_for(data, False)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]]), "row 2 has a vector of length 1, not 2"),
        (pa.array([[1.0, 2.0], None, [5.0, 6.0]]), "row 1 has no vector"),
        (pa.array([[1.0, 2.0], [3.0, None], [5.0, 6.0]]), "row 1 has a vector with a missing number"),
        (
            pa.array([[1, 2]] * 3),
            "no column 'embedding' of vectors among sample_id .string., embedding .list",
        ),
        (pa.array([[[1.0]]] * 3), "no column 'embedding' of vectors"),
        (
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((3, 2, 2))),
            r"fixed_shape_tensor.*shape=\[2,2\]",
        ),
    ],
)
def test_vectors_that_are_none(tmp_path, vectors, message) -> None:
    table = pa.table({"sample_id": list("abc"), "embedding": vectors})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=1)
    with pytest.raises(KdbiasError, match=message):
        open_precomputed(str(tmp_path / "v.parquet")).within_reach(np.arange(3), tmp_path)


def test_another_format_is_named(tmp_path) -> None:
    import pandas as pd

    pd.DataFrame({"sample_id": ["a"]}).to_feather(tmp_path / "v.parquet")
    with pytest.raises(KdbiasError, match=r"an Arrow \(Feather\) file, not a Parquet file"):
        open_precomputed(str(tmp_path / "v.parquet"))
    (tmp_path / "v.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(KdbiasError, match="not an array of plain numbers"):
        open_precomputed(str(tmp_path / "v.npz"))


def test_a_table_of_vectors_and_labels_is_data_and_teacher(tmp_path) -> None:
    table = pa.table({"sample_id": list("abcdef"), "label": list("ppqqrr"), "cam": [1, 1, 2, 2, 3, 3]})
    table = table.append_column("embedding", lists("fixed32"))
    pq.write_table(table, tmp_path / "v.parquet")
    embed(
        tmp_path / "v.parquet",
        tmp_path / "out",
        teacher=f"precomputed:{tmp_path / 'v.parquet'}",
        store="float32",
    )
    found = EmbeddingTable.open(tmp_path / "out")
    assert found.ids().to_pylist() == list("abcdef")
    assert found.labels().to_pylist() == list("ppqqrr")
    assert found.column("cam").to_pylist() == [1, 1, 2, 2, 3, 3]
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors(), unit, atol=1e-6)
    with pytest.raises(KdbiasError, match="no column 'image'"):
        embed(tmp_path / "v.parquet", tmp_path / "no", teacher="torchvision:resnet18@random")


def test_ids_that_are_not_utf8(tmp_path) -> None:
    np.savez(tmp_path / "v.npz", x=VECTORS[:1], ids=np.array([b"\xe9"]))
    with pytest.raises(KdbiasError, match=r"not an array of plain numbers .'utf-8'"):
        open_precomputed(str(tmp_path / "v.npz"))
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"sample_id": bad, "embedding": [[1.0, 2.0]]}), tmp_path / "v.parquet")
    with pytest.raises(KdbiasError, match="UTF8"):
        open_precomputed(str(tmp_path / "v.parquet"))


def test_an_array_and_an_archive_under_each_others_name(tmp_path) -> None:
    vectors = np.eye(4, dtype=np.float32)
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, vectors)
    assert open_precomputed(str(tmp_path / "a.npz")).ids is None
    with open(tmp_path / "b.npy", "wb") as file:
        np.savez(file, embedding=vectors, ids=list("abcd"))
    stored = open_precomputed(str(tmp_path / "b.npy"))
    assert stored.ids.to_pylist() == list("abcd")
    assert np.array_equal(stored.vectors, vectors)
    folder = tmp_path / "img_emb"
    folder.mkdir()
    (tmp_path / "b.npy").rename(folder / "img_emb_0.npy")
    with pytest.raises(KdbiasError, match=r"img_emb_0.npy: not an array .*an archive of arrays"):
        open_precomputed(str(tmp_path))
