"""The embedding table: what goes in comes out, and nothing half-made is read as whole."""

import json
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_parts import normalise, widen, write_part
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.listing import part_name


def ids_of(n: int) -> pa.Array:
    return pa.array([f"s{i}" for i in range(n)])


def random_vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_every_float16_is_widened_to_the_bit():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    np.testing.assert_array_equal(widen(every).view(np.uint32), every.astype(np.float32).view(np.uint32))
    finite = every[np.isfinite(every).all(axis=1)]
    into = np.empty((len(finite), 64), np.float32)
    assert widen(finite, into) is into
    np.testing.assert_array_equal(into.view(np.uint32), finite.astype(np.float32).view(np.uint32))
    assert widen(np.empty((0, 3), np.float16)).shape == (0, 3)


@pytest.mark.parametrize("positions", [None, np.arange(0, 60_000, 200)])
def test_reading_takes_little_more_than_the_result(tmp_path, positions):
    table = write_embedding_table(tmp_path / "emb", ids_of(60_000), random_vectors(60_000, 64))
    kept = 60_000 if positions is None else len(positions)
    payload, whole = 4 * kept * 64, 4 * 60_000 * 64
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        x = table.vectors(positions=positions)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert x.nbytes == payload
    assert peak - payload + pool.max_memory() < 0.9 * whole


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("positions", [[], [0], [3, 4, 5, 11], [19], list(range(20))])
def test_vectors_at_some_positions(tmp_path, dtype, positions):
    table = write_embedding_table(tmp_path / "emb", ids_of(20), random_vectors(20, 3), rows_per_part=4)
    x = table.vectors(dtype, positions=np.array(positions, np.int64))
    np.testing.assert_array_equal(x, table.vectors(dtype)[positions])
    assert x.dtype == dtype
    bad = table.vectors()
    bad[[5, 18]] = np.nan
    write_part(table.parts[1], ids_of(20).slice(4, 4), None, {}, table.norms()[4:8], bad[4:8], {})
    if 5 in positions:
        with pytest.raises(KdbiasError, match="changed while it was read"):
            table.vectors(positions=np.array(positions))
        table = EmbeddingTable.open(table.path, require_finished=False)  # whose record knows other parts
        with pytest.raises(KdbiasError, match=r"1 vector is zero or not finite .'s5'"):
            table.vectors(positions=np.array(positions))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [3e38, 1e-40, 1e-44, 1.0])
def test_very_long_and_very_short_vectors_keep_their_direction(dtype, scale):
    x = np.array([[1, -1, 0.5, 1], [1, 2, 3, 4]], dtype=np.float64)
    x[0] *= scale
    x = x.astype(dtype)
    unit, norms = normalise(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(unit, wide / np.linalg.norm(wide, axis=1)[:, None], rtol=1e-6)
    expected = np.minimum(np.linalg.norm(wide, axis=1), np.finfo(np.float32).max)
    np.testing.assert_allclose(norms, expected, rtol=1e-6 if scale > 1e-38 else 0.3)
    assert np.isfinite(norms).all()
    assert norms.all()


def test_beyond_float32_is_no_infinity():
    unit, norms = normalise(np.array([[1e300, 0.0], [0.0, 1e-300]]))
    assert unit.tolist() == [[1, 0], [0, 1]]
    assert norms[0] == np.finfo(np.float32).max
    assert norms[1] > 0


@pytest.mark.parametrize(("store", "tolerance"), [("float16", 6e-4), ("float32", 1e-6)])
@pytest.mark.parametrize("rows_per_part", [7, 100])
def test_round_trip(tmp_path, store, tolerance, rows_per_part):
    x = 3 * random_vectors(50, 8)
    labels = pa.array([None if i % 5 == 0 else f"p{i % 3}" for i in range(50)])
    groups = {"camera": pa.array(np.arange(50) % 2)}
    table = write_embedding_table(
        tmp_path / "emb", ids_of(50), x, labels, groups, store, rows_per_part=rows_per_part
    )
    assert (table.n, table.d, table.group_columns) == (50, 8, ["camera"])
    assert len(table.parts) == -(-50 // rows_per_part)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    vectors = table.vectors()
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, expected, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(table.norms(), np.linalg.norm(x, axis=1), rtol=1e-6)
    assert table.ids().to_pylist() == ids_of(50).to_pylist()
    assert table.labels().to_pylist() == labels.to_pylist()
    assert table.column("camera").to_pylist() == groups["camera"].to_pylist()
    streamed = np.concatenate([block for _, block in table.batches(rows=6)])
    np.testing.assert_array_equal(streamed, vectors)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=20, unique=True))
def test_any_text_is_an_id(tmp_path_factory, names):
    out = tmp_path_factory.mktemp("emb") / "t"
    table = write_embedding_table(out, pa.array(names), random_vectors(len(names), 3), rows_per_part=4)
    assert table.ids().to_pylist() == names


def test_pandas_shows_vectors_and_provenance(tmp_path):
    write_embedding_table(
        tmp_path / "emb", ids_of(4), random_vectors(4, 3), config={"teacher": "precomputed:x"}
    )
    frame = pd.read_parquet(tmp_path / "emb" / part_name(0))
    assert frame.embedding[0].shape == (3,)
    assert frame.attrs["kdbias"]["config"]["teacher"] == "precomputed:x"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_bad_vectors_are_refused_by_id(tmp_path, bad):
    x = random_vectors(6, 3)
    x[4] = bad
    with pytest.raises(KdbiasError, match=r"1 of 6 vectors.*'s4'"):
        write_embedding_table(tmp_path / "emb", ids_of(6), x)


def test_bad_vectors_in_a_file_are_refused_by_id(tmp_path):
    table = write_embedding_table(tmp_path / "emb", ids_of(6), random_vectors(6, 3))
    x = table.vectors()
    x[2] = np.nan
    content = write_part(table.parts[0], ids_of(6), None, {}, table.norms(), x, {"stage": "embed"})
    fingerprint = fingerprints.of_json([content])
    write_json(table.path / "run.json", {**table.provenance, "fingerprint": fingerprint})
    with pytest.raises(KdbiasError, match="'s2'"):
        EmbeddingTable.open(tmp_path / "emb").vectors()


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (3, 0)])
def test_wrong_shape_is_refused(shape):
    with pytest.raises(KdbiasError, match="expected an"):
        normalise(np.ones(shape))


def test_a_row_without_a_vector_does_not_shift_the_others(tmp_path):
    table = write_embedding_table(tmp_path / "emb", ids_of(6), random_vectors(6, 3), rows_per_part=3)
    part = pq.read_table(table.parts[0])
    vectors = pa.array([None, *part["embedding"].to_pylist()[1:]], part["embedding"].type)
    place = part.column_names.index("embedding")
    pq.write_table(part.set_column(place, part.schema.field(place), vectors), table.parts[0])
    with pytest.raises(KdbiasError, match=r"part-00000\.parquet: row 0 has no vector"):
        EmbeddingTable.open(table.path).vectors()


def test_a_column_that_became_the_label_is_named_so(tmp_path):
    config = {"label_column": "race"}
    table = write_embedding_table(
        tmp_path / "emb", ids_of(3), random_vectors(3, 2), groups={"age": pa.array([1, 2, 3])}, config=config
    )
    with pytest.raises(KdbiasError, match="no column 'race'; 'race' is its label: name it 'label'"):
        table.column("race")
    with pytest.raises(KdbiasError, match="no column 'gender'; it has: label, age"):
        table.column("gender")


def test_integers_are_refused():
    with pytest.raises(KdbiasError, match="int64"):
        normalise(np.ones((2, 2), dtype=np.int64))


def test_repeated_ids_are_refused(tmp_path):
    with pytest.raises(KdbiasError, match=r"1 sample_id.*'a'"):
        write_embedding_table(tmp_path / "emb", pa.array(["a", "b", "a"]), random_vectors(3, 2))


def test_unfinished_missing_and_foreign_parts_are_refused(tmp_path):
    out = tmp_path / "emb"
    write_embedding_table(out, ids_of(20), random_vectors(20, 4), rows_per_part=5)
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "running"}))
    with pytest.raises(KdbiasError, match="unfinished"):
        EmbeddingTable.open(out)
    (out / "run.json").write_text(json.dumps(record))
    kept = pq.read_table(out / part_name(3))
    (out / part_name(3)).unlink()
    with pytest.raises(KdbiasError, match=r"15 samples, its record says 20"):
        EmbeddingTable.open(out)
    wide = kept.set_column(4, "embedding", pa.array([[1.0, 2.0]] * 5, pa.list_(pa.float16(), 2)))
    pq.write_table(wide, out / part_name(3))
    with pytest.raises(KdbiasError, match="differ"):
        EmbeddingTable.open(out)


def test_same_again_is_found_finished_and_other_vectors_are_refused(tmp_path):
    x = random_vectors(8, 4)
    first = write_embedding_table(tmp_path / "emb", ids_of(8), x)
    written = first.parts[0].stat().st_mtime_ns
    assert write_embedding_table(tmp_path / "emb", ids_of(8), x).parts[0].stat().st_mtime_ns == written
    with pytest.raises(ConfigChangedError, match="input vectors"):
        write_embedding_table(tmp_path / "emb", ids_of(8), x + 1)
    again = write_embedding_table(tmp_path / "emb", ids_of(8), x + 1, overwrite=True)
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"labels": pa.array(["x", "z"])},
        {"groups": {"cam": pa.array([1, 3])}},
        {"groups": {"camera": pa.array([1, 2])}},
        {"groups": {}},
        {"dtype": "float32"},
    ],
)
def test_other_columns_or_storage_are_refused(tmp_path, other):
    columns = {"labels": pa.array(["x", "y"]), "groups": {"cam": pa.array([1, 2])}}
    x = random_vectors(2, 2)
    write_embedding_table(tmp_path / "emb", ids_of(2), x, **columns)
    write_embedding_table(tmp_path / "emb", ids_of(2), x, **columns)
    with pytest.raises(ConfigChangedError, match="input columns"):
        write_embedding_table(tmp_path / "emb", ids_of(2), x, **{**columns, **other})


@pytest.mark.parametrize("n", [1, 3])
def test_columns_of_another_length_are_refused(tmp_path, n):
    values = pa.array(["a", "b", "c"][:n])
    for columns in ({"labels": values}, {"groups": {"labels": values}}):
        with pytest.raises(KdbiasError, match=f"2 sample ids, but {n} labels"):
            write_embedding_table(tmp_path / "emb", ids_of(2), random_vectors(2, 2), **columns)


def test_group_named_like_a_column_is_refused(tmp_path):
    with pytest.raises(KdbiasError, match="'norm'"):
        write_embedding_table(
            tmp_path / "emb", ids_of(2), random_vectors(2, 2), groups={"norm": pa.array([1, 2])}
        )


def test_groups_are_plain_values(tmp_path):
    groups = {"site": pa.nulls(2), "race": pa.array(["x", None], pa.string_view())}
    table = write_embedding_table(tmp_path / "emb", ids_of(2), random_vectors(2, 2), groups=groups)
    assert table.column("site").to_pylist() == [None, None]
    assert table.column("race").take([1, 0]).to_pylist() == [None, "x"]
    with pytest.raises(KdbiasError, match=r"group column 'box' holds list<item: int64>"):
        write_embedding_table(
            tmp_path / "no", ids_of(2), random_vectors(2, 2), groups={"box": pa.array([[1], [2]])}
        )


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_not_a_table(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(KdbiasError, match="not an embedding table"):
        EmbeddingTable.open(tmp_path / name)


def test_digests_of_images_are_exact_beside_parts_without_any(tmp_path):
    table = write_embedding_table(tmp_path / "emb", ids_of(6), random_vectors(6, 3), rows_per_part=3)
    digests = np.array([2**64 - 1, 0, 2**53 + 1], np.uint64)
    part = [ids_of(6).slice(3, 3), None, {}, table.norms()[3:], table.vectors()[3:], {}]
    write_part(table.parts[1], *part, facts=np.full((3, 6), 8, np.float32), digests=digests)
    mixed = EmbeddingTable.open(table.path, require_finished=False)
    assert mixed.image_digests().tolist() == [0, 0, 0, *digests.tolist()]
    facts = mixed.image_facts()
    assert np.isnan(facts[:3]).all()
    assert (facts[3:] == 8).all()
