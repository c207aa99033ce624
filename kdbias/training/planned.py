"""What a training would take: a few of its steps are timed and thrown away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch

from kdbias.device import parse_bytes
from kdbias.losses import Targets
from kdbias.networks.saved import FILE_NAME
from kdbias.planning import Planned
from kdbias.training.data import TrainingSet, open_training_set
from kdbias.training.images import StreamedImages
from kdbias.training.learner import build_learner
from kdbias.training.loop import build_sampler, memory_wanting
from kdbias.training.processes import Processes, join_processes
from kdbias.training.result import TrainingResult
from kdbias.training.settings import TrainingSettings
from kdbias.training.step import Learner, build_optimiser, descend, reproducible
from kdbias.wording import counted, human_bytes

_TRIED = 8  # batches that are decoded
_STEPS = 3  # that are timed, after one that warms up


def plan_training(data: object, output: str | os.PathLike[str], cfg: TrainingSettings) -> TrainingResult:
    """The plan of a run of `kdbias.train`; one process, nothing is written."""
    with join_processes(cfg.device) as processes, reproducible(cfg, processes.device):
        samples = open_training_set(os.fspath(data), cfg, processes)  # type: ignore[call-overload]
        with memory_wanting(cfg.batch_size):
            planned = _planned(samples, cfg, processes, Path(output))
    return TrainingResult(Path(output), Path(output) / FILE_NAME, 0.0, cfg.epochs, 0, 0.0, planned=planned)


def _planned(samples: TrainingSet, cfg: TrainingSettings, processes: Processes, output: Path) -> Planned:
    device = processes.device
    share = processes.share(cfg.batch_size, cfg.batch_size if cfg.instances else samples.n)
    sampler = build_sampler(samples, cfg, processes)
    steps = cfg.epochs * sampler.steps(share)
    _, network, _, learner = build_learner(samples, cfg, device)
    decoded = [(time.perf_counter(), 0)]
    batch = None
    images = StreamedImages(samples.unreadable, samples.preprocessings, pin=False)
    rows = np.flatnonzero(samples.unreadable.drawn)
    some = (rows[i : i + share] for i in range(0, min(len(rows), _TRIED * share), share))
    for batch in images.batches(some):
        decoded.append((time.perf_counter(), decoded[-1][1] + len(batch.rows)))
    assert batch is not None
    (began, before), (ended, read) = decoded[min(1, len(decoded) - 2)], decoded[-1]
    decoding = (ended - began) / max(read - before, 1)  # seconds an image
    pixels = samples.preprocessing.normalise(batch.images[0].to(device), channels_last=True)
    targets = samples.targets_of(batch, None, device)
    step = _seconds_of_step(learner, cfg, pixels, targets) * share / len(batch.rows)
    size = samples.n * sum(int(np.prod(p.size)) * p.channels for p in samples.preprocessings)
    kept = cfg.cache.strip() != "0" and size <= parse_bytes(cfg.cache)
    seconds = steps * step + decoding * samples.n if kept else steps * max(step, decoding * share)
    parameters = sum(p.numel() for p in network.parameters())
    work = (
        f"{counted(samples.n, 'image')}, {counted(cfg.epochs, 'epoch')}, {counted(steps, 'step')} of "
        f"{share}; student {cfg.student} ({counted(parameters, 'parameter')})"
    )
    timed = (
        f"{_STEPS} steps of {step:.3f} s on {device}, {1 / max(decoding, 1e-9):,.0f} images/s decoded"
        f"{' once and kept' if kept else ''}"
    )
    vectors = 0 if samples.targets is None else samples.targets.vectors.nbytes
    memory = (size if kept else 0) + vectors + 16 * parameters
    files = [
        f"{output}/student.pt (about {human_bytes(4 * parameters)})",
        "checkpoint.pt, metrics.csv, run.json",
    ]
    return Planned("train", work, seconds, timed, memory, files)


def _seconds_of_step(
    learner: Learner, cfg: TrainingSettings, pixels: torch.Tensor, targets: Targets
) -> float:
    """Seconds of a step of the optimiser, without reading images."""
    device = pixels.device
    optimiser = build_optimiser(learner, cfg)
    scaler = torch.amp.GradScaler(device.type, enabled=cfg.precision == "fp16")
    began = 0.0
    for number in range(1 + _STEPS):
        if number == 1:
            _wait(device)
            began = time.perf_counter()
        descend(learner(pixels, targets), learner, optimiser, scaler, rate=cfg.rate, clip_grad=cfg.clip_grad)
    _wait(device)
    return (time.perf_counter() - began) / _STEPS


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
