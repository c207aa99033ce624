"""Stored teacher vectors: those that are trained on and no others; many are mapped from a nameless file."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.training import targets
from kdbias.training.processes import Processes
from kdbias.training.targets import StoredTargets, read_targets

ALONE = Processes(0, 1, torch.device("cpu"))
ROWS = np.array([90, 3, 4, 77, 41, 0])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingTable:
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    ids = pa.array([f"s{i}" for i in range(100)])
    made = write_embedding_table(tmp_path / "emb", ids, vectors, rows_per_part=40)
    monkeypatch.setattr(targets, "_NUMBERS", 8 * 7)  # seven rows at a time
    return made


def test_only_the_rows_that_are_trained_on_are_kept(table: EmbeddingTable, monkeypatch: Any) -> None:
    expected = table.vectors()[ROWS]
    monkeypatch.setattr(EmbeddingTable, "vectors", None)  # all of them at once are never needed
    found = read_targets(table, ROWS, ALONE, flipped=False, norms=True)
    assert np.array_equal(found.vectors, expected)
    assert np.array_equal(found.norms, table.norms()[ROWS])
    vectors, norms = found.at(np.array([5, 1]), None)
    assert np.array_equal(vectors, expected[[5, 1]])
    assert np.array_equal(norms, table.norms()[ROWS[[5, 1]]])


def test_large_ones_are_mapped_from_a_file_without_a_name(
    table: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(targets, "_FLOAT32_BYTES", 100)
    found = read_targets(table, ROWS, ALONE, flipped=False, norms=False)
    assert isinstance(found.vectors.base, np.memmap)
    assert not list((tmp_path / "tmp").iterdir())
    assert np.array_equal(found.vectors, table.vectors(np.float16)[ROWS])
    vectors, norms = found.at(np.array([3, 0]), None)
    assert norms is None
    assert vectors == pytest.approx(table.vectors()[ROWS[[3, 0]]], abs=1e-3)


def test_a_disk_without_room_for_them_is_named(
    table: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(targets, "_FLOAT32_BYTES", 100)
    monkeypatch.setattr(targets, "reserve", full)
    with pytest.raises(KdbiasError, match=r"0\.0 GB .*/tmp \(No space left on device\): set TMPDIR"):
        read_targets(table, ROWS, ALONE, flipped=False, norms=False)
    assert not list((tmp_path / "tmp").iterdir())


def test_half_precision_comes_back_as_unit_float32() -> None:
    vectors, _ = StoredTargets(np.array([[0.6, 0.8]] * 2, np.float16)).at(np.array([1]), None)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors) == pytest.approx(1, abs=1e-6)
