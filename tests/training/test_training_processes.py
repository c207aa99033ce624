"""Real processes: two that train together under torchrun, and one that dies by SIGKILL."""

import contextlib
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from kdbias.errors import KdbiasError
from kdbias.networks import NETWORKS
from kdbias.training import processes
from kdbias.training.processes import Processes, join_processes
from tests.training.together import PLAIN, command, environment, together, torchrun


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that network, known in this process too."""
    module = types.ModuleType("kdbias.networks.plain")
    exec(PLAIN, module.__dict__)
    monkeypatch.setitem(sys.modules, "kdbias.networks.plain", module)
    monkeypatch.setitem(NETWORKS, "plain", "plain:plain")
    return "plain"


def test_two_processes_train_what_one_does(lab: Any, plain: str, tmp_path: Path) -> None:
    options = {"student": plain, "epochs": 3, "batch_size": 20, "flip": "same", "weights": None}
    options |= {"loss": "l2e+0.1*softmax"}  # 60 samples: full steps, and class centres to share
    lab.run(tmp_path / "one", **options)
    results = together(lab, tmp_path / "two", **options)
    assert [r.returncode for r in results] == [0, 0], results[0].stderr + results[1].stderr
    assert "2 processes" in results[0].stderr
    assert "train:" not in results[1].stderr
    one, two = lab.timeless(tmp_path / "one"), lab.timeless(tmp_path / "two")
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)
    weights = lab.student(tmp_path / "two")
    for key, value in lab.student(tmp_path / "one").items():
        assert torch.allclose(value, weights[key], rtol=1e-3, atol=1e-5), key


def test_two_processes_stopped_within_an_epoch_record_its_whole_loss(
    lab: Any, plain: str, tmp_path: Path
) -> None:
    options = {"student": plain, "epochs": 2, "batch_size": 20, "weights": None, "checkpoint_seconds": 0}
    assert [r.returncode for r in together(lab, tmp_path / "whole", **options)] == [0, 0]
    killed, left = together(lab, tmp_path / "broken", die_at=2, **options)  # of three steps an epoch
    assert killed.returncode == -signal.SIGKILL
    assert left.returncode != 0
    resumed = together(lab, tmp_path / "broken", resume=True, **options)
    assert [r.returncode for r in resumed] == [0, 0], resumed[0].stderr
    assert "resuming at step 2" in resumed[0].stderr
    for whole, broken in zip(
        lab.timeless(tmp_path / "whole"), lab.timeless(tmp_path / "broken"), strict=True
    ):
        assert broken == pytest.approx(whole, rel=1e-6)


def test_a_refusal_reaches_every_process(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", epochs=1)
    results = together(lab, tmp_path / "run", epochs=2)
    assert [r.returncode for r in results] == [1, 1]
    for result in results:
        assert "refused:" in result.stderr
        assert "epochs: 1 -> 2" in result.stderr
    with pytest.raises(KdbiasError, match="cannot be shared evenly by 3 processes"):
        Processes(0, 3, torch.device("cpu")).share(16, 100)


@pytest.mark.parametrize(
    ("device", "fails", "left"),
    [("cpu", False, 1), ("cpu", True, 1), ("cuda:0", False, 1), ("cuda:0", True, 0)],
)
def test_a_process_that_fails_does_not_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch, device: str, fails: bool, left: int
) -> None:
    destroyed: list[int] = []
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "resolve_device", lambda name: name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: None)
    monkeypatch.setattr(distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: destroyed.append(1))
    with contextlib.suppress(KdbiasError), join_processes(device) as place:
        assert (place.rank, place.world_size) == (0, 2)
        if fails:
            raise KdbiasError("this process alone")
    assert len(destroyed) == left


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_more_processes_than_gpus_are_refused_by_each(
    monkeypatch: pytest.MonkeyPatch, local_rank: str
) -> None:
    for name, value in (("RANK", local_rank), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    expected = r"2 processes on this machine, but torch sees 1 CUDA device\(s\).*--nproc-per-node 1"
    with pytest.raises(KdbiasError, match=expected), join_processes("auto"):
        pass


def test_a_batch_larger_than_the_data_is_all_that_the_processes_can_share(lab: Any, tmp_path: Path) -> None:
    eight = Processes(0, 8, torch.device("cpu"))
    assert eight.share(1000, 60) == 7
    assert eight.share(16, 60) == 2
    with pytest.raises(
        KdbiasError, match="--batch-size 1 and 60 images leave 1 a step for each of 1 process"
    ):
        lab.run(tmp_path / "run", batch_size=1, weights=None)


@pytest.mark.parametrize(("machines", "calls"), [(("a", "a"), 0), (("a", "b"), 1)])
def test_work_is_done_once_a_machine(machines: tuple[str, str], calls: int) -> None:
    done: list[int] = []

    class Second(Processes):
        def gather(self, value: Any) -> list[Any]:
            return list(machines) if isinstance(value, str) else [("the first's", None), value]

    def work() -> str:
        done.append(1)
        return "its own"

    found = Second(1, 2, torch.device("cpu")).once_a_machine(work)
    assert (found, len(done)) == (("its own", 1) if calls else ("the first's", 0))


def test_a_run_killed_by_the_system_resumes_to_the_same_student(lab: Any, tmp_path: Path) -> None:
    options = {"epochs": 60, "loss": "l2e+0.1*softmax", "flip": "same"}
    lab.run(tmp_path / "whole", **options)
    broken = tmp_path / "broken"
    call = [sys.executable, *command(lab, broken, **options, checkpoint_seconds=0)]
    deaths = 0
    for wait in (0.0, 0.15):
        process = subprocess.Popen(call, env=environment(), stderr=subprocess.DEVNULL)
        before = (broken / "checkpoint.pt").stat().st_mtime_ns if deaths else None
        while process.poll() is None:
            checkpoint = broken / "checkpoint.pt"
            if checkpoint.is_file() and checkpoint.stat().st_mtime_ns != before:
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        deaths += process.wait() == -signal.SIGKILL
    assert deaths == 2, "the run ended before it could be killed"
    assert not (broken / "student.pt").exists()
    result = lab.run(broken, **options, resume=True)
    assert result.steps == 180
    assert lab.same(tmp_path / "whole", broken)
    assert lab.timeless(tmp_path / "whole") == lab.timeless(broken)
    assert not list(broken.glob("*tmp*"))


def test_torchrun_starts_it_and_draws_that_cannot_be_shared_are_left_out(lab: Any, tmp_path: Path) -> None:
    # Vectors, weights and draws count as many: both processes map one file of each, which is gone afterwards.
    many = """
from kdbias.sampler import epochs, machine_memory
from kdbias.training import targets
targets._FLOAT32_BYTES, epochs._SHARED_FROM = 0, 1
machine_memory._SHARED = os.environ["TMPDIR"]
filled = machine_memory._filled
def told(path, *how):
    print("filled", path.name, file=sys.stderr)
    filled(path, *how)
machine_memory._filled = told
"""
    (tmp_path / "tmp").mkdir()
    more = {"BEFORE_TRAINING": many, "TMPDIR": str(tmp_path / "tmp")}
    printed = torchrun(lab, tmp_path / "run", more=more, epochs=2, ema=0.9)
    assert printed.count("filled kdbias-") == 3  # the weights, and the order of each epoch
    # 45 draws: two processes take 22 each in steps of 8, 8 and 6, with batch norm.
    assert [row[1] for row in lab.timeless(tmp_path / "run")] == [3, 6]
    assert (tmp_path / "run" / "student.pt").is_file()
    assert not list((tmp_path / "tmp").glob("kdbias*"))


def test_a_process_alone_opens_no_other_gpu_than_its_own(monkeypatch) -> None:
    chosen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    with join_processes("cuda:3") as processes:
        assert str(processes.device) == "cuda:3"
    assert chosen == ["cuda:3"]
