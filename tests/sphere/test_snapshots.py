"""A pass that is killed and goes on gives what an uninterrupted one gives."""

import weakref
from pathlib import Path

import numpy as np
import pytest

from kdbias.sphere import all_pairs as module
from kdbias.sphere.all_pairs import all_pairs
from kdbias.sphere.snapshots import Snapshots
from tests import reference

OPTIONS = {"k": 7, "near": 0.9, "tile": 32, "threads": 2}


class Killed(BaseException):
    """As abrupt as an interrupt: nothing handles it."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every wave."""
    monkeypatch.setattr(module, "Snapshots", lambda path, key: Snapshots(path, key, every=0.0))


def test_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    x = reference.clustered_sphere(400, 12, 9)
    whole = all_pairs(x, [2.0, 4.0], **OPTIONS)
    snapshot = tmp_path / "pass.npz"
    shown: list[int] = []

    def kill(pairs: int) -> None:
        shown.append(pairs)
        if sum(shown) > 0.6 * 400**2:
            raise Killed

    with pytest.raises(Killed):
        all_pairs(x, [2.0, 4.0], **OPTIONS, progress=kill, snapshot=snapshot)
    assert snapshot.exists()
    again: list[int] = []
    resumed = all_pairs(x, [2.0, 4.0], **OPTIONS, progress=again.append, snapshot=snapshot)
    assert sum(again) == 400**2
    assert again[0] > 0.3 * 400**2  # told at once what was there
    np.testing.assert_allclose(resumed.potentials, whole.potentials, rtol=1e-12)
    np.testing.assert_array_equal(resumed.ids, whole.ids)
    np.testing.assert_array_equal(resumed.counts, whole.counts)
    assert snapshot.exists()  # its owner removes it, once the results are written


def test_what_was_loaded_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = reference.random_sphere(300, 8)
    snapshot, loaded = tmp_path / "pass.npz", []

    def kill(pairs: int) -> None:
        if snapshot.exists():
            raise Killed

    with pytest.raises(Killed):
        all_pairs(x, [3.0], **OPTIONS, progress=kill, snapshot=snapshot)
    load = Snapshots.load

    def watched(snapshots: Snapshots) -> tuple[int, list[dict[str, np.ndarray]]] | None:
        found = load(snapshots)
        assert found is not None
        loaded.extend(weakref.ref(array) for state in found[1] for array in state.values())
        return found

    alive: list[int] = []
    monkeypatch.setattr(Snapshots, "load", watched)
    all_pairs(
        x,
        [3.0],
        **OPTIONS,
        progress=lambda pairs: alive.append(sum(ref() is not None for ref in loaded)),
        snapshot=snapshot,
    )
    assert loaded
    assert not alive[-1]


def test_snapshot_of_other_data_is_ignored(tmp_path: Path) -> None:
    x, other = reference.random_sphere(200, 8), reference.random_sphere(200, 8, seed=1)
    snapshot = tmp_path / "pass.npz"

    def kill(pairs: int) -> None:
        if snapshot.exists():
            raise Killed

    with pytest.raises(Killed):
        all_pairs(other, [3.0], **OPTIONS, progress=kill, snapshot=snapshot)
    found = all_pairs(x, [3.0], **OPTIONS, snapshot=snapshot)
    np.testing.assert_allclose(found.potentials[0, 0], reference.potentials(x, 3.0), rtol=1e-5)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut"])
def test_damaged_snapshot_is_ignored(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pass.npz"
    path.write_bytes(content)
    assert Snapshots(path, "key").load() is None


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "pass.npz", "key")
    assert snapshots.load() is None
    snapshots.save(5, [{"a": np.arange(3)}, {}])
    done, states = snapshots.load() or (0, [])
    assert done == 5
    np.testing.assert_array_equal(states[0]["a"], np.arange(3))
    assert states[1] == {}
    assert Snapshots(tmp_path / "pass.npz", "other key").load() is None
    assert not snapshots.due()
