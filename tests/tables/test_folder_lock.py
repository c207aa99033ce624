"""Two processes and one output folder."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdbias.errors import KdbiasError
from kdbias.tables.folder_lock import LOCK, in_use, lock_folder
from kdbias.tables.run_record import Run
from tests.stages import EMBED

pytest.importorskip("fcntl")

OPEN_AND_WAIT = """
import os, sys, time
from kdbias.tables.run_record import Run, Stage
run = Run.open(sys.argv[1], Stage("embed"), {"a": 1}, {})
if os.fork() == 0:  # a decode worker, which may outlive its parent
    print("open", flush=True)
    time.sleep(60)
    os._exit(0)
os.wait()
"""


def begin(folder: Path) -> Run:
    return Run.open(folder, EMBED, {"a": 1}, {})


@pytest.fixture
def other(tmp_path: Path):
    """A process that has a run open in the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_process_is_refused_by_the_first_one_s_id_until_that_dies(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = sorted(entry.name for entry in (tmp_path / "run").iterdir())
    with pytest.raises(KdbiasError, match=rf"in use by another kdbias process \(pid {other.pid} on "):
        Run.open(tmp_path / "run", EMBED, {"a": 2}, {}, overwrite=True)
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == before
    other.kill()
    other.wait()  # its worker still runs
    assert begin(tmp_path / "run").state == "resumed"


def test_the_lock_goes_with_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    assert (tmp_path / "run" / LOCK).read_text().startswith(f"{os.getpid()} on ")
    assert begin(tmp_path / "run").state == "resumed"  # the same process may go on
    assert pickle.loads(pickle.dumps(run))._lock is None
    run.finish({}, 0.0)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["run.json"]
    with pytest.raises(KdbiasError, match="a: 1 -> 2"):
        Run.open(tmp_path / "run", EMBED, {"a": 2}, {})
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_that_cannot_be_written_is_not_locked(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "open", refuse)
    assert lock_folder(tmp_path) is None


def test_a_look_at_the_lock_neither_takes_it_nor_gives_it_back(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert in_use(tmp_path / "run")
    other.kill()
    other.wait()
    assert not in_use(tmp_path / "run")
    run = begin(tmp_path / "run")
    assert in_use(run.out)
    refused = subprocess.run([sys.executable, "-c", OPEN_AND_WAIT, str(run.out)], stderr=subprocess.PIPE)
    assert b"in use by another kdbias process" in refused.stderr
    run.unlock()
    assert not in_use(run.out)


@pytest.mark.parametrize("kind", ["link", "hard link", "file", "folder", "fifo"])
def test_what_is_no_lock_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("precious")
    makes = {
        "link": lambda path: path.symlink_to(victim),
        "hard link": lambda path: path.hardlink_to(victim),
        "file": lambda path: path.write_text("precious"),
        "folder": lambda path: path.mkdir(),
        "fifo": os.mkfifo,
    }
    makes[kind](out / LOCK)
    with pytest.raises(KdbiasError, match=r"\.lock is no lock that kdbias wrote"):
        begin(out)
    assert not in_use(out)
    assert victim.read_text() == "precious"
    assert [entry.name for entry in out.iterdir()] == [LOCK]
