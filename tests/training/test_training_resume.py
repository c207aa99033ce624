"""Going on with another number of processes: the same draws, every epoch whole, one schedule."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbias.errors import KdbiasError, UnwritableError
from kdbias.sampler.manifest_sampler import ManifestSampler
from kdbias.training import loop
from kdbias.training.processes import Processes
from kdbias.training.record import Meter, Record

EPOCHS, ROWS, BATCH = 3, 50, 16  # one process takes 16, 16, 16 and 2; two or four leave out the last 2


class Alike(Processes):
    """The first of several processes, whose others are supposed to see what it sees."""

    def wrap(self, module: torch.nn.Module) -> torch.nn.Module:
        return module

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return self.world_size * values

    def on_main(self, work: Any) -> Any:
        return work()

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.world_size


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (1, 4)])
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 8])
def test_another_number_of_processes_goes_on_where_the_first_stopped(
    lab: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    schedule: str,
    before: int,
    after: int,
    stop: int,
) -> None:
    steps: list[tuple[int, float]] = []  # draws and learning rate of each
    add, save = Meter.add, Record.save

    def add_and_note(
        self: Meter, parts: Any, images: int, rate: float, processes: Processes, *more: int
    ) -> None:
        add(self, parts, images, rate, processes, *more)
        steps.append((images * processes.world_size, rate))

    def save_and_stop(self: Record, *what: Any) -> None:
        save(self, *what)
        if len(steps) == stop:
            raise Stopped

    def run(processes: int) -> None:
        @contextlib.contextmanager
        def join(device: str) -> Iterator[Processes]:
            yield Alike(0, processes, torch.device("cpu"))

        monkeypatch.setattr(loop, "join_processes", join)
        options = {"epochs": EPOCHS, "batch_size": BATCH, "schedule": schedule, "warmup": 0.0}
        lab.run(tmp_path / "run", **options, weights=str(manifest), checkpoint_seconds=0)

    manifest = tmp_path / "weights.csv"
    manifest.write_text("\n".join(["sample_id,weight", *(f"{i},1" for i in lab.ids[:ROWS])]))
    monkeypatch.setattr(Meter, "add", add_and_note)
    monkeypatch.setattr(Record, "save", save_and_stop)
    with pytest.raises(Stopped):
        run(before)
    monkeypatch.setattr(Record, "save", save)
    run(after)

    rows = lab.metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    ends = [int(row["step"]) for row in rows]
    assert ends[-1] == len(steps)
    epochs = [steps[a:b] for a, b in itertools.pairwise([0, *ends])]
    for row, taken in zip(rows, epochs, strict=True):
        assert sum(draws for draws, _ in taken) in (ROWS - 2, ROWS)
        assert row["unique_fraction"] >= 1 - 2 / ROWS  # no draw twice
        assert row["lr"] == pytest.approx(taken[-1][1])
    rates = [rate for _, rate in steps]
    assert rates[0] == 0.05
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.2 * rates[0]  # the schedule ends with the run


@pytest.mark.parametrize(
    ("elsewhere", "words"),
    [(None, "is at step 8 for process 0, but process 1 finds none"), (3, "process 1 finds one at step 3")],
)
def test_machines_that_do_not_share_the_folder_are_told_so(
    lab: Any, tmp_path: Path, elsewhere: int | None, words: str
) -> None:
    class Apart(Alike):
        def gather(self, value: Any) -> list[Any]:
            return [value, elsewhere]

    sampler, learned = ManifestSampler(torch.ones(50)), {"learner": torch.nn.Linear(2, 2)}
    record = Record(tmp_path)
    assert record.resume(learned, sampler, Alike(0, 2, torch.device("cpu"))) is None
    record.save(learned, sampler.state_dict(), Meter(["l2e"], step=8))
    assert record.resume(learned, sampler, Alike(0, 2, torch.device("cpu"))).step == 8
    with pytest.raises(KdbiasError, match=f"{words}.*must be on a disk that all machines share"):
        record.resume(learned, sampler, Apart(0, 2, torch.device("cpu")))


def test_the_main_process_decides_whether_there_is_something_to_resume(tmp_path: Path) -> None:
    class Nothing(Alike):
        def on_main(self, work: Any) -> Any:
            return False

    sampler, learned = ManifestSampler(torch.ones(50)), {"learner": torch.nn.Linear(2, 2)}
    Record(tmp_path).save(learned, sampler.state_dict(), Meter(["l2e"], step=8))
    assert Record(tmp_path).resume(learned, sampler, Nothing(1, 2, torch.device("cpu"))) is None


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_student_that_was_lost_comes_back_from_the_checkpoint(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    lab.run(tmp_path / "whole")
    lab.run(tmp_path / "run")
    student = tmp_path / "run" / "student.pt"
    student.unlink() if damage == "gone" else student.write_bytes(student.read_bytes()[:-200])
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", None)  # no step is taken again
        assert not lab.run(tmp_path / "run").already_finished
    assert lab.same(tmp_path / "run", tmp_path / "whole")
    assert lab.timeless(tmp_path / "run") == lab.timeless(tmp_path / "whole")
    (tmp_path / "run" / "checkpoint.pt").unlink()  # needed to go on alone
    assert lab.run(tmp_path / "run").already_finished
    student.unlink()
    assert not lab.run(tmp_path / "run").already_finished
    assert lab.same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="no limits of a process")
def test_a_disk_that_is_full_stops_a_run_that_goes_on_later(lab: Any, tmp_path: Path) -> None:
    import resource

    lab.run(tmp_path / "whole")
    lab.break_off(5, tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (tmp_path / "run" / "checkpoint.pt").stat().st_size // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UnwritableError) as caught:
            lab.run(tmp_path / "run", checkpoint_seconds=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "run" / "checkpoint.pt")
    assert not list((tmp_path / "run").glob("*.kdbias-tmp"))
    lab.run(tmp_path / "run")
    assert lab.same(tmp_path / "run", tmp_path / "whole")
