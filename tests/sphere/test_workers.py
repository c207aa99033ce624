"""Work is done once, errors surface, scratch memory is used again."""

import threading

import numpy as np
import pytest

from kdbias.sphere.workers import Workspace, available_threads, each, over_rows


@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_once(threads: int) -> None:
    done: list[int] = []
    each(range(50), lambda item, workspace: done.append(item), threads)
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize(("n", "rows"), [(0, 8), (1, 8), (16, 8), (17, 8)])
def test_rows_are_covered(n: int, rows: int) -> None:
    seen = np.zeros(n, dtype=int)

    def work(part: slice, workspace: Workspace) -> None:
        seen[part] += 1

    over_rows(n, work, 2, rows)
    assert (seen == 1).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_stops_the_others(threads: int) -> None:
    calls: list[int] = []
    lock = threading.Lock()

    def work(item: int, workspace: Workspace) -> None:
        with lock:
            calls.append(item)
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        each(range(1000), work, threads)
    assert len(calls) <= threads


def test_threads_of_this_process() -> None:
    assert available_threads() >= 1


def test_workspace_reuses_memory() -> None:
    workspace = Workspace()
    first = workspace.array("a", (4, 4))
    assert np.shares_memory(first, workspace.array("a", (2, 3)))
    assert not np.shares_memory(first, workspace.array("b", (4, 4)))


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = available_threads()
    for value, count in [("1", 1), ("1,4", 1), ("9999", every), ("0", every), ("many", every), ("", every)]:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert available_threads() == count
