"""Distance to the teacher: by id, by group, by density decile."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.evaluation import evaluate
from kdbias.evaluation.fidelity import density_deciles
from kdbias.tables import provenance
from kdbias.tables.density_table import write_density
from kdbias.tables.embedding_table import write_embedding_table


def _ids(n):
    return pa.array([f"s{i:03d}" for i in range(n)])


def _density(path, ids, log_density):
    n = len(ids)
    table = pa.table(
        {
            "sample_id": ids,
            "label": pa.nulls(n, pa.string()),
            "knn_distance": np.ones(n),
            "potential_t5": np.exp(log_density),
            "log_density": log_density,
            "duplicate_of": pa.nulls(n, pa.string()),
            "near_duplicates": np.zeros(n, np.int64),
        }
    )
    write_density(path, table, provenance.document("uniformity", {}, {}, {}, 0.0))
    return path


@pytest.fixture
def tables(tmp_path):
    """A student that is rotated away from its teacher by a known angle, larger where the density is low."""
    n = 200
    angle = np.linspace(0.1, 1.0, n)
    base = np.linspace(0, 5, n)
    teacher = np.stack([np.cos(base), np.sin(base), np.zeros(n)], 1).astype(np.float32)
    student = np.stack([np.cos(base + angle), np.sin(base + angle), np.zeros(n)], 1).astype(np.float32)
    groups = {"half": pa.array(["first"] * 100 + ["second"] * 100)}
    order = np.random.default_rng(0).permutation(n)
    write_embedding_table(tmp_path / "student", _ids(n), student, groups=groups, dtype="float32")
    write_embedding_table(
        tmp_path / "teacher", _ids(n).take(pa.array(order)), teacher[order], dtype="float32"
    )
    _density(tmp_path / "density.parquet", _ids(n), -angle)
    return tmp_path, angle


def test_distances_equal_the_chords_of_the_angles(tables):
    folder, angle = tables
    result = evaluate(
        folder / "student",
        folder / "out",
        protocol="fidelity",
        reference=folder / "teacher",
        density=folder / "density.parquet",
        group_by=["half"],
        bootstrap=200,
    )
    chord = 2 * np.sin(angle / 2)
    assert result.value("cosine") == pytest.approx(np.cos(angle).mean(), abs=1e-6)
    assert result.value("distance") == pytest.approx(chord.mean(), abs=1e-6)
    assert result.value("squared_distance") == pytest.approx((chord**2).mean(), abs=1e-6)
    halves = result.document["groups"]["half"]
    assert halves["first"]["n"] == 100
    assert halves["first"]["metrics"]["distance"]["value"] == pytest.approx(chord[:100].mean(), abs=1e-6)
    spread = result.document["spread"]["half"]["distance"]
    assert (spread["worst"], spread["best"]) == ("second", "first")
    deciles = result.document["groups"]["density_decile"]
    assert [group["n"] for group in deciles.values()] == [20] * 10
    distances = [group["metrics"]["distance"]["value"] for group in deciles.values()]
    assert distances == sorted(distances, reverse=True)  # decile 01 is the most isolated
    interval = result.document["metrics"]["distance"]
    assert interval["low"] < interval["value"] < interval["high"]
    assert (folder / "out" / result.document["plots"][0]).stat().st_size > 1000


def test_deciles_are_equal_in_size():
    deciles = density_deciles(np.random.default_rng(0).normal(size=103))
    assert set(np.bincount(deciles)[1:].tolist()) == {10, 11}


def test_missing_samples_and_other_spaces_are_refused(tables, tmp_path):
    folder, _ = tables
    few = write_embedding_table(tmp_path / "few", _ids(150), np.eye(150, 3) + 1.0).path
    with pytest.raises(KdbiasError, match="50 of the 200 ids"):
        evaluate(folder / "student", tmp_path / "o", protocol="fidelity", reference=few)
    wide = write_embedding_table(tmp_path / "wide", _ids(200), np.ones((200, 4))).path
    with pytest.raises(KdbiasError, match=r"3 dimensions, .* 4"):
        evaluate(folder / "student", tmp_path / "o2", protocol="fidelity", reference=wide)
    with pytest.raises(KdbiasError, match="reference is missing"):
        evaluate(folder / "student", tmp_path / "o3", protocol="fidelity")
