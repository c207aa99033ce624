"""Embeddings that exist already: read as they are needed, whatever their order and number."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.embedding.engine import take_precomputed
from kdbias.embedding.plan import Plan
from kdbias.errors import KdbiasError
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
    units = Plan(47, 5, 8, "float32", False).units[1:]  # the first is done
    found = list(take_precomputed(stored, rows, units, tmp_path))
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
    with pytest.raises(KdbiasError, match=r"9\.parquet: vectors of different lengths \(3, 4\)"):
        stored.within_reach(np.arange(7), tmp_path)
    pq.write_table(pa.table({"sample_id": ["x"]}), tmp_path / "v" / "9.parquet")
    with pytest.raises(KdbiasError, match=r"9\.parquet: should have the columns 'sample_id' and 'vector'"):
        open_precomputed(str(tmp_path / "v"))
