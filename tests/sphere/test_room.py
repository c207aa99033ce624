"""Numbers of samples lie where their vectors do."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from kdbias.errors import MachineError
from kdbias.sphere import room as rooms
from kdbias.sphere.room import beside, filled, room


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    np.save(tmp_path / "x.npy", np.ones((5, 2), np.float32))
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def in_a_file(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_of_vectors_in_memory_it_is_in_memory() -> None:
    x, codes = np.ones((5, 2), np.float32), np.arange(5)
    assert not in_a_file(room(x, (3, 5)))
    assert beside(x, codes) is codes


def test_of_mapped_vectors_it_is_a_file_that_goes_with_it(mapped: np.memmap, tmp_path: Path) -> None:
    found, sevens = beside(mapped, np.arange(5)), filled(mapped, (2, 5), 7)
    assert in_a_file(found)
    assert in_a_file(sevens)
    assert type(found) is np.ndarray  # nothing takes it for the vectors' own file
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert sevens.tolist() == [[7.0] * 5] * 2
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


def test_a_full_disk_is_told_of(mapped: np.memmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rooms, "reserve", full)
    with pytest.raises(MachineError, match=r"no room for .* \(No space left on device\); make some"):
        room(mapped, 5)
