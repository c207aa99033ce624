"""Digests of data files: every byte of what is small, a budget of bytes for what is large."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from kdbias.data import access
from kdbias.data.access import digest_of, digests_of


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three files of 1,000 random bytes and one of 10."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.bin" for i in range(4)]
    for path, size in zip(paths, (1000, 1000, 1000, 10), strict=True):
        path.write_bytes(rng.bytes(size))
    return paths


@pytest.fixture
def small_budget(monkeypatch) -> None:
    monkeypatch.setattr(access, "WHOLE_BYTES", 2500)
    monkeypatch.setattr(access, "SPREAD_BYTES", 240)
    monkeypatch.setattr(access, "_PIECE", 20)
    monkeypatch.setattr(access, "_SMALLEST_PIECE", 2)


def of(files: list[Path]) -> list[str]:
    return digests_of([str(file) for file in files])


def whole(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


class Counting(io.FileIO):
    total = 0

    def read(self, size: int = -1) -> bytes:
        piece = super().read(size)
        Counting.total += len(piece)
        return piece


def test_a_small_data_set_counts_by_every_byte(files):
    assert of(files) == [whole(file) for file in files]


@pytest.mark.parametrize("copies", [1, 20])
def test_the_budget_is_that_of_the_data_set_not_of_each_file(files, small_budget, monkeypatch, copies):
    monkeypatch.setattr(access, "open_input", Counting)
    Counting.total = 0
    assert of(files[:2]) == [whole(file) for file in files[:2]]
    of(files[:3] * copies)
    assert 200 < Counting.total <= 2 * 240


def test_sizes_ends_and_pieces_count_in_a_large_data_set(files, small_budget):
    before = of(files)
    assert before[3] == whole(files[3])
    content = files[1].read_bytes()
    pieces = [b"#" + content[1:], content[:-1] + b"#", content[:333] + b"#" + content[334:]]
    for changed in (*pieces, content + b"#"):
        files[1].write_bytes(changed)
        assert [a == b for a, b in zip(of(files), before, strict=True)] == [True, False, True, True]


def test_one_large_file_counts_as_it_always_did(tmp_path, monkeypatch):
    for name, size in {"WHOLE_BYTES": 1000, "SPREAD_BYTES": 64 * 16, "_PIECE": 16}.items():
        monkeypatch.setattr(access, name, size)
    (tmp_path / "big.rec").write_bytes(np.random.default_rng(1).bytes(5000))
    assert digest_of(str(tmp_path / "big.rec")) == "6df289dfbdf5349105eb53b6a4a01415"


def test_a_file_in_a_store_is_digested_like_a_local_one(files):
    pytest.importorskip("fsspec")
    assert digest_of(f"local://{files[0]}") == digest_of(str(files[0]))
