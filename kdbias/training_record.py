"""What a run leaves while it works: checkpoint.pt, metrics.csv and config.toml, each whole or absent."""

from __future__ import annotations

import csv
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdbias.errors import KdbiasError
from kdbias.networks.saved import read_checkpoint
from kdbias.sampler import ManifestSampler
from kdbias.tables.files import atomic_path
from kdbias.training_config import TrainingConfig

FORMAT = "kdbias-checkpoint-1"


@dataclass
class Meter:
    """Where a run stands and what it has measured.

    step      steps done; position = draws of the current epoch that are used up
    history   one row an epoch, the columns of metrics.csv
    """

    step: int = 0
    position: int = 0
    loss_sum: torch.Tensor | float = 0.0
    wait_seconds: float = 0.0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    _mark: float = field(default_factory=time.perf_counter)

    def waited(self, seconds: float) -> None:
        self.wait_seconds += seconds

    def add(self, loss: torch.Tensor, images: int) -> None:
        """Count a step; the sum stays on the device, so that no step waits for its loss to arrive."""
        self.loss_sum = self.loss_sum + loss.double() * images
        self.position += images
        self.step += 1

    def tick(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._mark
        self.epoch_seconds += now - self._mark
        self._mark = now

    def end_epoch(self, epoch: int, rate: float, drawn: dict[str, float]) -> None:
        """Close the epoch's row. Raises KdbiasError where the loss is no number any more."""
        loss = float(self.loss_sum) / self.position
        self.tick()
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise KdbiasError(
                f"the loss of epoch {epoch + 1} is {loss}: lower --lr (now {rate:g}) or clip harder"
            )
        self.history.append(
            {
                "epoch": epoch + 1,
                "step": self.step,
                "loss": loss,
                "lr": rate,
                "images_per_second": self.position / self.epoch_seconds,
                "data_wait": self.wait_seconds / self.epoch_seconds,
                **drawn,
                "seconds": self.seconds,
            }
        )
        self.position, self.loss_sum, self.wait_seconds, self.epoch_seconds = 0, 0.0, 0.0, 0.0

    def to_dict(self) -> dict[str, Any]:
        self.tick()
        kept = ("step", "position", "wait_seconds", "seconds", "epoch_seconds", "history")
        return {**{k: getattr(self, k) for k in kept}, "loss_sum": float(self.loss_sum)}


class Record:
    """The files of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._checkpoint = folder / "checkpoint.pt"
        self._saved_at = time.monotonic()

    @property
    def has_checkpoint(self) -> bool:
        return self._checkpoint.is_file()

    def due(self, seconds: float) -> bool:
        return time.monotonic() - self._saved_at >= seconds

    def save(self, learned: dict[str, Any], sampler: dict[str, Any], meter: Meter) -> None:
        """Write checkpoint.pt: everything that the next step depends on."""
        content = {
            "format": FORMAT,
            "state": {name: part.state_dict() for name, part in learned.items()},
            "sampler": sampler,
            "meter": meter.to_dict(),
            "random": {"cpu": torch.get_rng_state(), "cuda": _cuda_states()},
        }
        with atomic_path(self._checkpoint) as temporary:
            torch.save(content, temporary)
        self._saved_at = time.monotonic()

    def load(self, learned: dict[str, Any], sampler: ManifestSampler) -> Meter:
        """Put the run back to where checkpoint.pt left it."""
        content = read_checkpoint(self._checkpoint)
        if content.get("format") != FORMAT:
            raise KdbiasError(
                f"{self._checkpoint} is no checkpoint of kdbias train; use --overwrite to start over"
            )
        for name, part in learned.items():
            part.load_state_dict(content["state"][name])
        sampler.load_state_dict(content["sampler"])
        torch.set_rng_state(content["random"]["cpu"])
        states = content["random"]["cuda"]
        if states and len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states)
        return Meter(**content["meter"])

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        with atomic_path(self.folder / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(history[0]))
            writer.writeheader()
            writer.writerows({k: f"{v:.8g}" for k, v in row.items()} for row in history)

    def write_config(self, config: TrainingConfig, data: str | os.PathLike[str]) -> None:
        remark = f"kdbias train {data} -o {self.folder} --config {self.folder / 'config.toml'}"
        config.write(self.folder / "config.toml", remark)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
