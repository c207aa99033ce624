"""Re-identification: worked by hand, against a plain ranking, on Market-1501."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.evaluation.reid import cmc, rank
from kdbias.tables.embedding_table import write_embedding_table


def _at(*cosines):
    """Gallery rows at these cosines to the query (1, 0)."""
    c = np.array(cosines, dtype=np.float32)
    return np.stack([c, np.sqrt(1 - c**2)], axis=1)


QUERY = np.array([[1, 0]], dtype=np.float32)


def test_one_query_by_hand():
    # ranked: x(1), A(2, other camera), A(same camera: dropped), x(3), A(4), x
    gallery = _at(0.9, 0.8, 0.75, 0.7, 0.6, 0.5)
    people = np.array([7, 0, 0, 8, 0, 9])
    cameras = np.array([1, 2, 1, 2, 3, 1])
    found = rank(QUERY, gallery, np.array([0]), people, np.array([1]), cameras)
    assert found["matches"][0] == 2
    assert found["first_rank"][0] == 2
    assert found["ap"][0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["inp"][0] == pytest.approx(2 / 4)


def test_other_people_of_the_same_camera_stay_and_unlabelled_ones_distract():
    found = rank(
        QUERY, _at(0.9, 0.8, 0.7), np.array([0]), np.array([5, -1, 0]), np.array([1]), np.array([1, 1, 2])
    )
    assert found["first_rank"][0] == 3


def test_a_query_without_a_match_from_another_camera_has_none():
    found = rank(QUERY, _at(0.9, 0.8), np.array([0]), np.array([0, 1]), np.array([1]), np.array([1, 2]))
    assert found["matches"][0] == 0


def test_a_collapsed_model_gains_nothing():
    gallery = np.repeat(QUERY, 10, axis=0)
    found = rank(QUERY, gallery, np.array([0]), np.array([0] + [1] * 9), np.array([0]), np.ones(10, np.int64))
    assert found["first_rank"][0] == 10
    assert found["ap"][0] == pytest.approx(0.1)


def test_ranks_equal_a_plain_sort_of_every_query():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(300, 12)).astype(np.float32)
    queries = rng.normal(size=(60, 12)).astype(np.float32)
    for x in (gallery, queries):
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    people, others = rng.integers(8, size=60), rng.integers(8, size=300)
    cameras, other_cameras = rng.integers(3, size=60), rng.integers(3, size=300)
    found = rank(queries, gallery, people, others, cameras, other_cameras)
    for i in range(60):
        kept = ~((others == people[i]) & (other_cameras == cameras[i]))
        order = np.argsort(-(queries[i] @ gallery[kept].T))
        hits = np.flatnonzero(others[kept][order] == people[i])
        precision = np.arange(1, len(hits) + 1) / (hits + 1)
        assert found["first_rank"][i] == hits[0] + 1
        assert found["ap"][i] == pytest.approx(precision.mean())
        assert found["inp"][i] == pytest.approx(len(hits) / (hits[-1] + 1))


def test_curve_counts_queries_matched_so_far():
    assert cmc(np.array([1, 1, 3, 9]), 4) == [0.5, 0.5, 0.75, 0.75]


def test_stage_with_one_table_for_queries_and_gallery(tmp_path):
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(10), 6)
    x = rng.normal(size=(10, 16))[who] + 0.3 * rng.normal(size=(60, 16))
    groups = {
        "cam": pa.array(np.tile([1, 2, 3], 20)),
        "role": pa.array((["query"] + ["gallery"] * 5) * 10),
    }
    labels = pa.array(["-1" if p == 9 else f"p{p}" for p in who])
    write_embedding_table(tmp_path / "emb", pa.array([f"i{i}" for i in range(60)]), x, labels, groups)
    call = dict(protocol="reid", where=["role=query", "label!=-1"], gallery_where=["role=gallery"])
    result = evaluate(tmp_path / "emb", tmp_path / "out", bootstrap=50, **call)
    assert result.document["n"] == 9
    assert result.document["details"]["gallery"]["n"] == 45  # junk is dropped
    assert result.document["details"]["camera_column"] == "cam"
    assert result.value("rank1") == result.value("mAP") == 1.0
    assert (tmp_path / "out" / "cmc.png").exists()
    with pytest.raises(KdbiasError, match="no column 'lens'"):
        evaluate(tmp_path / "emb", tmp_path / "o", camera_column="lens", **call)


def test_no_camera_column_has_to_be_said(tmp_path):
    labels = pa.array(["a", "a", "b", "b"])
    write_embedding_table(tmp_path / "emb", pa.array(list("1234")), np.eye(4) + 0.1, labels)
    with pytest.raises(KdbiasError, match="give --camera-column NAME, or none"):
        evaluate(tmp_path / "emb", tmp_path / "out", protocol="reid")
    result = evaluate(tmp_path / "emb", tmp_path / "out", protocol="reid", camera_column="none", bootstrap=0)
    assert result.document["n"] == 4  # each found among the three others, never itself
    assert result.value("rank5") == 1


def test_market_1501_with_the_stored_teacher_embeddings(real_data, tmp_path):
    """The expected figures come from a plain argsort of each query's distances."""
    folder = real_data / "market1501_train"
    table = pq.read_table(folder / "market1501_train.parquet", columns=["file", "pid", "cam", "role"])
    x = np.load(folder / "market_ov0277_f16.npy").astype(np.float32)
    rows = np.flatnonzero(table["role"].to_numpy(zero_copy_only=False) != "train")
    table, x = table.take(rows), x[rows]
    write_embedding_table(
        tmp_path / "emb",
        table["file"].combine_chunks(),
        x,
        table["pid"].combine_chunks().cast(pa.string()),
        {name: table[name].combine_chunks() for name in ("cam", "role")},
    )
    result = evaluate(
        tmp_path / "emb",
        tmp_path / "out",
        protocol="reid",
        where=["role=query"],
        gallery_where=["role=gallery"],
        bootstrap=0,
    )
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    role, pid, cam = (table[name].to_numpy(zero_copy_only=False) for name in ("role", "pid", "cam"))
    gallery = role == "gallery"
    firsts, precisions = [], []
    for i in np.flatnonzero(role == "query"):
        kept = gallery & ~((pid == pid[i]) & (cam == cam[i]))
        hits = np.flatnonzero(pid[kept][np.argsort(np.linalg.norm(x[kept] - x[i], axis=1))] == pid[i])
        if len(hits):
            firsts.append(hits[0] == 0)
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
    assert result.document["n"] == len(firsts)
    assert result.value("rank1") == pytest.approx(np.mean(firsts), abs=2e-3)
    assert result.value("mAP") == pytest.approx(np.mean(precisions), abs=1e-3)
    assert result.value("rank1") > 0.95
