"""What a run leaves while it works: checkpoint.pt, metrics.csv and config.toml, each whole or absent."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdbias.errors import DivergedError, KdbiasError, first_line
from kdbias.networks.saved import read_checkpoint, write_checkpoint
from kdbias.optional import require
from kdbias.sampler.epochs import Epochs
from kdbias.tables.documents import require_shape
from kdbias.tables.files import atomic_path
from kdbias.tables.mirrors import settle
from kdbias.tables.run_record import Stage
from kdbias.training.processes import Processes
from kdbias.training.settings import TrainingSettings

FORMAT = "kdbias-checkpoint-5"
METRICS = "metrics.csv"
STAGE = Stage(
    "train",
    files=("student.pt", "student.onnx", "student.onnx.toml", METRICS, "config.toml", "failures.parquet"),
    folders=("tensorboard",),
    passing=("checkpoint.pt",),
)
_SCALARS_EVERY = 10
_SHAPE: dict[str, dict[Any, Any]] = {
    "sampler": {str: object},
    "meter": {
        "terms": [str],
        **dict.fromkeys(("epoch", "position", "step"), int),
        **dict.fromkeys(("rate", "wait_seconds", "seconds", "epoch_seconds"), float),
        "sums": object,
        "unreadable": object,
        "history": [{str: float}],
    },
}


@dataclass
class Meter:
    """Where a run stands and what it has measured.

    terms     names of the summands of the loss
    epoch     epochs done; position = draws of the next one that all processes have used up
    step      steps done, by however many processes; rate = the learning rate of the last one
    sums      (terms + 1,) float64 of all processes, since the epoch began: summands of the loss times images,
              and the draws whose image could not be read
    unreadable  row of the training set -> why it cannot be read, of the samples met so far
    history   one row an epoch, the columns of metrics.csv
    """

    terms: list[str]
    epoch: int = 0
    position: int = 0
    step: int = 0
    rate: float = 0.0
    sums: torch.Tensor | None = None
    wait_seconds: float = 0.0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    wait_from: float = field(default_factory=time.perf_counter)
    _mark: float = field(default_factory=time.perf_counter)

    def waited(self) -> None:
        """Count the seconds since `wait_from` as waiting."""
        self.wait_seconds += time.perf_counter() - self.wait_from

    def place(self, batch_size: int, steps_an_epoch: int) -> int:
        """Steps from the run's start to here as these processes count them.

        Others may have had one step an epoch more or fewer: what is left of an epoch at its end is no batch
        for every number of processes. Draws count the same for all.
        """
        return self.epoch * steps_an_epoch + math.ceil(self.position / batch_size)

    def add(
        self, parts: torch.Tensor, images: int, rate: float, processes: Processes, unreadable: int = 0
    ) -> None:
        """Count a step at learning rate `rate` in which each process took `images`.

        `unreadable` of this one's were asked for and replaced by others.

        Sums stay on the device, so that no step waits for its loss to arrive, and are of all processes at
        every step: a checkpoint, which one of them writes, then holds what the others have seen as well.
        """
        here = torch.full((len(parts) + 1,), float(unreadable), dtype=torch.float64, device=parts.device)
        here[:-1] = parts * images
        here = processes.sum(here)
        self.sums = here if self.sums is None else self.sums.to(here.device) + here
        self.position += images * processes.world_size
        self.step += 1
        self.rate = rate
        self.wait_from = time.perf_counter()

    def tick(self) -> None:
        """Count the seconds since the last tick."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self.epoch_seconds += now - self._mark
        self._mark = now

    def end_epoch(self, drawn: dict[str, float]) -> None:
        """Close the epoch's row."""
        assert self.sums is not None
        *sums, unreadable = self.sums.tolist()
        parts = [value / self.position for value in sums]
        self.tick()
        self.epoch += 1
        row = {"epoch": self.epoch, "step": self.step, "loss": sum(parts)}
        if len(parts) > 1:
            row |= {f"loss_{name}": part for name, part in zip(self.terms, parts, strict=True)}
        row |= {
            "lr": self.rate,
            "images_per_second": self.position / self.epoch_seconds,
            "data_wait": self.wait_seconds / self.epoch_seconds,
        }
        self.history.append({**row, **drawn, "unreadable": unreadable, "seconds": self.seconds})
        self.position, self.sums = 0, None
        self.wait_seconds = self.epoch_seconds = 0.0

    def describe_last(self) -> str:
        """The last epoch's loss, with the share of each summand where there are several."""
        row = self.history[-1]
        if len(self.terms) == 1:
            return f"loss {row['loss']:.4f}"
        shares = [f"{t} {row[f'loss_{t}'] / row['loss']:.0%}" for t in self.terms]
        return f"loss {row['loss']:.4f} ({', '.join(shares)})"

    def to_dict(self) -> dict[str, Any]:
        """The meter's state, for a checkpoint."""
        self.tick()
        return {key: getattr(self, key) for key in _SHAPE["meter"]}


class Record:
    """The files of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checkpoint = folder / "checkpoint.pt"
        self._saved_at = time.monotonic()
        self._writer: Any = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self._checkpoint.is_file()

    def begin(self, config: TrainingSettings, data: str | os.PathLike[str], step: int) -> None:
        """Write config.toml, and open the TensorBoard log where it is wanted."""
        file = self.folder / "config.toml"
        config.write(file, f"kdbias train {data} -o {self.folder} --config {file}")
        if config.tensorboard:
            tensorboard = require("torch.utils.tensorboard", extra="tensorboard")
            self._writer = tensorboard.SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)

    def due(self, seconds: float) -> bool:
        """Whether the last checkpoint is at least so many seconds old."""
        return time.monotonic() - self._saved_at >= seconds

    def require_finite(self, meter: Meter, values: Iterable[torch.Tensor] = ()) -> None:
        """Raises DivergedError where the loss or a value is infinite or NaN."""
        losses = [] if meter.sums is None else [meter.sums]
        if not all(bool(torch.isfinite(value).all()) for value in (*losses, *values)):
            kept = f"; {self._checkpoint} still holds an earlier step" if self.has_checkpoint else ""
            raise DivergedError(
                f"the loss or a weight is infinite or NaN at step {meter.step:,} (learning rate "
                f"{meter.rate:g} there){kept}: start over (--overwrite) with a lower --lr or --clip-grad"
            )

    def save(self, learned: dict[str, Any], sampler: dict[str, Any], meter: Meter) -> None:
        """Write checkpoint.pt: everything that the next step depends on.

        What is random in a step (order, flips, dropout) is a function of seed and step, so no generator's
        state is needed. Raises DivergedError where the loss or a weight, or the average of one, is no number
        any more: what a run that diverged has learned must not replace what it had.
        """
        state = {name: part.state_dict() for name, part in learned.items() if part is not None}
        self.require_finite(meter, [*state["learner"].values(), *state.get("average", {}).values()])
        content = {"format": FORMAT, "state": state, "sampler": sampler, "meter": meter.to_dict()}
        write_checkpoint(self._checkpoint, content)
        self._saved_at = time.monotonic()

    def resume(self, learned: dict[str, Any], sampler: Epochs, processes: Processes) -> Meter | None:
        """Put the run back to where checkpoint.pt left it, on all processes; None where there is none.

        Raises KdbiasError where processes do not find the main one's checkpoint.
        """
        if not processes.on_main(lambda: self.has_checkpoint):
            return None
        meter = self._load(learned, sampler) if self.has_checkpoint else None
        steps = processes.gather(None if meter is None else meter.step)
        for rank, step in enumerate(steps):
            if step != steps[0]:
                found = "finds none" if step is None else f"finds one at step {step:,}"
                raise KdbiasError(
                    f"{self._checkpoint} is at step {steps[0]:,} for process 0, but process {rank} {found}: "
                    "the output folder must be on a disk that all machines share"
                )
        return meter

    def _load(self, learned: dict[str, Any], sampler: Epochs) -> Meter:
        content = read_checkpoint(self._checkpoint)
        if content.get("format") != FORMAT:
            raise KdbiasError(
                f"{self._checkpoint} is no checkpoint of this kdbias train ({content.get('format')!r}); "
                "use --overwrite to start over"
            )
        parts = {name: part for name, part in learned.items() if part is not None}
        state = {name: {str: object} for name in parts}
        require_shape(content, {**_SHAPE, "state": state}, self._checkpoint)
        try:
            for name, part in parts.items():
                part.load_state_dict(content["state"][name])
            sampler.load_state_dict(content["sampler"])
            return Meter(**content["meter"])
        except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise KdbiasError(f"{self._checkpoint} does not fit this run: {first_line(error)}") from error

    def scalars(self, meter: Meter, parts: torch.Tensor) -> None:
        """Add the step's loss to the TensorBoard log, now and then."""
        if self._writer is None or meter.step % _SCALARS_EVERY:
            return
        values = parts.tolist()
        self._writer.add_scalar("step/loss", sum(values), meter.step)
        self._writer.add_scalar("step/lr", meter.rate, meter.step)
        if len(values) > 1:
            for name, value in zip(meter.terms, values, strict=True):
                self._writer.add_scalar(f"step/loss_{name}", value, meter.step)

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Write all epochs' metrics, and the last one's to TensorBoard where asked for."""
        with atomic_path(self.folder / METRICS) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(history[0]))
            writer.writeheader()
            writer.writerows({k: f"{v:.8g}" for k, v in row.items()} for row in history)
        if self._writer is not None:
            for key, value in history[-1].items():
                self._writer.add_scalar(f"epoch/{key}", value, int(history[-1]["step"]))
            self._writer.flush()
            settle(self.folder / "tensorboard")
