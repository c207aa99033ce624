"""One order a machine: filled once, the same to the bit, gone with the last process however that ends."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kdbias.sampler import IdentitySampler, ManifestSampler, epochs, machine_memory
from kdbias.sampler.epoch_order import EpochOrder
from kdbias.sampler.machine_memory import in_machine_memory

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no locks of that kind")
WEIGHTS = np.random.default_rng(0).lognormal(size=20_011)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for the machine's shared memory."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(machine_memory, "_SHARED", str(tmp_path / "shm"))
    return tmp_path / "shm"


def filled(value: int, memory: np.ndarray) -> None:
    memory[:] = value


@pytest.mark.parametrize("mode", ["systematic", "iid"])
def test_the_order_is_the_one_that_a_process_makes_for_itself(shared: Path, mode: str) -> None:
    own = ManifestSampler(WEIGHTS, seed=3, mode=mode, rank=1, world_size=2, shared_memory=False)
    one, other = (
        ManifestSampler(WEIGHTS.copy(), seed=3, mode=mode, rank=1, world_size=2, shared_memory=True)
        for _ in range(2)
    )
    for _ in range(2):  # epochs
        assert list(one) == list(other) == list(own)
        assert len(list(shared.iterdir())) == 2  # the weights, and the epoch's order: none of the last one
    assert np.array_equal(one.weights, WEIGHTS)
    assert one.state_dict() == own.state_dict()
    assert one.drawn(1) == own.drawn(1)
    del one
    assert len(list(shared.iterdir())) == 2
    del other
    assert not list(shared.iterdir())


def test_batches_of_identities_are_shared_too(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(len(WEIGHTS)) % 50
    own = IdentitySampler(WEIGHTS, labels, identities=4, instances=2, rank=0, world_size=2)
    batches = list(own)
    monkeypatch.setattr(epochs, "_SHARED_FROM", 1)
    sampler = IdentitySampler(WEIGHTS, labels, identities=4, instances=2, rank=0, world_size=2)
    assert list(sampler) == batches
    assert len(list(shared.iterdir())) == 1


def test_it_is_done_by_itself_where_several_processes_draw_long_epochs(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(**place: int) -> bool:
        sampler = ManifestSampler(WEIGHTS, **place)
        next(iter(sampler))
        return bool(list(shared.iterdir()))

    assert not used(rank=0, world_size=2)
    monkeypatch.setattr(epochs, "_SHARED_FROM", len(WEIGHTS))
    assert not used()
    assert used(rank=0, world_size=2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert not used(rank=0, world_size=2)


def test_what_killed_processes_left_is_never_read(shared: Path) -> None:
    stale = shared / f"{machine_memory._prefix()}abc"
    stale.write_bytes(b"\x07" * 8 + machine_memory._WHOLE)  # whole, but nobody's
    (shared / f"{machine_memory._prefix()}def").write_bytes(b"half")
    (shared / "theirs").write_bytes(b"")
    memory = in_machine_memory("abc", 8, partial(filled, 5))
    assert memory.tolist() == [5] * 8
    assert {file.name for file in shared.iterdir()} == {stale.name, "theirs"}
    assert in_machine_memory("abc", 8, partial(filled, 6)).tolist() == [5] * 8  # it is held: read as it is
    memory[0] = 1
    assert in_machine_memory("abc", 8, partial(filled, 6)).tolist() == [5] * 8  # it is this process's alone


def test_a_refusal_or_interrupt_leaves_nothing(shared: Path) -> None:
    def interrupted(memory: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_machine_memory("abc", 8, interrupted)
    assert not list(shared.iterdir())


def test_without_room_each_process_has_its_own_and_says_so(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    full = {str(shared)}

    def reserve(descriptor: int, size: int) -> None:
        if any(os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{folder}/") for folder in full):
            raise OSError(28, "No space left on device")
        os.truncate(descriptor, size)

    monkeypatch.setattr(machine_memory, "reserve", reserve)
    memory = in_machine_memory("abc", 8, partial(filled, 5))
    assert [len(list(folder.iterdir())) for folder in (shared, tmp_path / "tmp")] == [0, 1]
    assert memory.tolist() == [5] * 8
    full.add(str(tmp_path / "tmp"))
    assert in_machine_memory("def", 8, partial(filled, 5)).tolist() == [5] * 8
    assert "neither" in capsys.readouterr().err
    assert len(list((tmp_path / "tmp").iterdir())) == 1


# Draws an epoch of one of three ranks; the one that fills the order says so.
PROCESS = """
import sys
import numpy as np
from kdbias.sampler import machine_memory
from kdbias.sampler.epoch_order import EpochOrder
machine_memory._SHARED = sys.argv[1]
def held(size, fill):
    def told(memory):
        print("filling", flush=True)
        if sys.argv[3] == "to die":
            sys.stdin.readline()
        fill(memory)
    return machine_memory.in_machine_memory("abc", size, told)
weights = np.random.default_rng(0).lognormal(size=20_011)
order = EpochOrder(weights, len(weights), seed=3, held=held)
print(order.at(np.arange(int(sys.argv[2]), len(weights), 3)).sum(), flush=True)
sys.stdin.readline()
"""


def test_processes_wait_for_the_one_that_fills_it_and_one_that_dies_is_replaced(
    shared: Path, tmp_path: Path
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(PROCESS)

    def start(rank: int, fate: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), str(shared), str(rank), fate],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    first = start(0, "to die")
    assert first.stdout.readline() == "filling\n"
    waiting = start(1, "to live")
    first.send_signal(signal.SIGKILL)
    first.wait()
    ranks = [start(0, "to live"), waiting, start(2, "to live")]
    said = [process.stdout.readline() for process in ranks]
    filling = said.index("filling\n")
    said[filling] = ranks[filling].stdout.readline()
    order = EpochOrder(WEIGHTS, len(WEIGHTS), seed=3)
    expected = [order.at(np.arange(rank, len(WEIGHTS), 3)).sum() for rank in range(3)]
    assert [int(line) for line in said] == expected  # one has filled it
    assert len(list(shared.iterdir())) == 1
    for process in ranks[:2]:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ranks[2].communicate("\n")
    assert not list(shared.iterdir())  # the last of them removed it as it ended
