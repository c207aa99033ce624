"""Train a student: on the teacher's embeddings, or on labels, drawing samples as the weights say.

    kdbias train images/ -o student --embeddings emb --weights weights.parquet
    kdbias train images/ -o teacher --loss arcface --student torchvision:resnet18

One loop, without callbacks. What a step needs stands in `training_data`, what a run leaves in
`training_record`, the options and their defaults in `training_config`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbias.device import resolve_device
from kdbias.errors import KdbiasError
from kdbias.losses import build_loss, loss_needs
from kdbias.networks import build_network
from kdbias.networks.saved import save_network
from kdbias.progress import bar, say
from kdbias.sampler import ManifestSampler
from kdbias.schedules import rate_factor
from kdbias.tables import provenance
from kdbias.tables.run_record import Run
from kdbias.training_config import TrainingConfig
from kdbias.training_data import TrainingSet, index_batches, open_images, open_training_set
from kdbias.training_record import Meter, Record


@dataclass(frozen=True)
class TrainingResult:
    """What a run ended with.

    output   the run folder; `student` the file with the trained network
    loss     mean loss of the last epoch
    epochs, steps, seconds   how much was trained (seconds: all sessions of the run together)
    already_finished   True where the call found the run finished and did nothing
    """

    output: Path
    student: Path
    loss: float
    epochs: int
    steps: int
    seconds: float
    already_finished: bool = False

    def summary(self) -> str:
        """A line for people."""
        return (
            f"{self.student}: {self.epochs:,} epochs, {self.steps:,} steps, loss {self.loss:.4f}, "
            f"{self.seconds:.1f} s"
        )


def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> TrainingResult:
    """Train a student on `data` and leave student.pt, metrics.csv, config.toml and run.json in `output`.

    `options` are the fields of `kdbias.training_config.TrainingConfig` (student, loss, embeddings, weights,
    epochs, batch_size, lr, seed, device, ...); `config` names a TOML file with the same keys, and options win
    over it. The same call again resumes an interrupted run exactly, or finds it finished and does nothing.

    resume     refuse to begin a new run
    overwrite  begin anew whatever is there

    Raises KdbiasError for unknown keys, inputs that do not match by id, a changed configuration (the keys
    that differ are named), or a loss that is no longer a number.
    """
    cfg = TrainingConfig.read(config, options)
    needs = loss_needs(cfg.loss)
    device = torch.device(resolve_device(cfg.device))
    samples = open_training_set(Path(data), cfg, needs)
    run = Run.open(output, "train", cfg.identity(), samples.inputs, overwrite)
    if run.state == "finished":
        say(f"train: {run.out} is finished; nothing to do (--overwrite starts over)")
        return _result(run, already_finished=True)
    record = Record(run.out)
    if resume and not record.has_checkpoint:
        raise KdbiasError(f"--resume: {run.out} holds no checkpoint to resume; leave --resume out to start")

    with reproducible(cfg, device):
        dim = cfg.dim or (samples.targets.shape[1] if samples.targets is not None else 128)
        how: dict[str, Any] = {
            "dim": dim,
            "channels": samples.preprocessing.channels,
            "image_size": samples.preprocessing.size,
        }
        network = build_network(cfg.student, **how).to(memory_format=torch.channels_last).to(device)
        loss_of = build_loss(cfg.loss, dim=dim, classes=len(samples.classes) or None).to(device)
        if samples.targets is not None and samples.targets.shape[1] != dim:
            raise KdbiasError(
                f"--dim {dim}, but the teacher's vectors have {samples.targets.shape[1]} numbers"
            )
        optimiser = build_optimiser([network, loss_of], cfg)
        sampler = ManifestSampler(samples.weights, mode=cfg.sampling, seed=cfg.seed)
        batch_size = min(cfg.batch_size, samples.n)
        steps_an_epoch = -(-samples.n // batch_size) - (samples.n % batch_size == 1 and samples.n > 1)
        steps = cfg.epochs * steps_an_epoch
        images = open_images(samples, cfg, pin_memory=device.type == "cuda")

        learned = {"network": network, "loss": loss_of, "optimiser": optimiser}
        meter = Meter()
        if record.has_checkpoint:
            meter = record.load(learned, sampler)
        record.write_config(cfg, data)
        say(first_line(cfg, samples, device, batch_size, steps, meter.step, network))

        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        with bar(steps, "steps", "train") as progress:
            progress.update(meter.step)
            while meter.step < steps:
                epoch = meter.step // steps_an_epoch
                sampler.set_epoch(epoch)
                waiting = time.perf_counter()
                for batch in images.batches(index_batches(sampler.blocks(batch_size))):
                    pixels = batch.images.to(device, non_blocking=True)
                    target, label = to(device, samples.target(batch.rows), samples.label(batch.rows))
                    meter.waited(time.perf_counter() - waiting)

                    factor = rate_factor(
                        meter.step,
                        steps,
                        schedule=cfg.schedule,
                        warmup_steps=round(cfg.warmup * steps_an_epoch),
                        milestones=cfg.milestones,
                    )
                    for group in optimiser.param_groups:
                        group["lr"] = factor * group["initial_lr"]
                    loss = loss_of(
                        network(samples.preprocessing.normalise(pixels, channels_last=True)), target, label
                    )
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    if cfg.clip_grad:
                        nn.utils.clip_grad_norm_(parameters, cfg.clip_grad)
                    optimiser.step()

                    meter.add(loss.detach(), len(batch.rows))
                    progress.update(1)
                    if record.due(cfg.checkpoint_seconds) and meter.step % steps_an_epoch:
                        record.save(learned, sampler.state_dict(meter.position), meter)
                    waiting = time.perf_counter()
                meter.end_epoch(epoch, factor * cfg.rate, sampler.drawn(epoch, meter.position))
                progress.set_postfix_str(f"loss {meter.history[-1]['loss']:.4f}")
                record.write_metrics(meter.history)
                if record.due(cfg.checkpoint_seconds) or meter.step == steps:
                    record.save(learned, {**sampler.state_dict(0), "epoch": epoch + 1}, meter)

    counts = {"samples": samples.n, "steps": steps, "epochs": cfg.epochs, "classes": len(samples.classes)}
    doc = provenance.document("train", run.record["config"], samples.inputs, counts, meter.seconds)
    save_network(
        run.out / "student.pt",
        network,
        cfg.student,
        {**how, "image_size": list(samples.preprocessing.size)},
        samples.preprocessing.to_dict(),
        {**doc, "classes": samples.classes},
    )
    last = meter.history[-1]
    run.finish(counts, meter.seconds, results=last, classes=samples.classes, paths=paths_of(cfg, data))
    say(f"train: {cfg.epochs} epochs, loss {last['loss']:.4f}, {meter.seconds:.1f} s -> {run.out}")
    return _result(run)


def build_optimiser(modules: list[nn.Module], cfg: TrainingConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; biases and normalisation layers are not decayed."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    for group in groups:
        group["initial_lr"] = cfg.rate
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=cfg.rate)
    return torch.optim.SGD(groups, lr=cfg.rate, momentum=cfg.momentum, nesterov=cfg.momentum > 0)


@contextlib.contextmanager
def reproducible(cfg: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Seed torch and choose threads and algorithms for the block; the caller's come back after it."""
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(cfg.seed)
        torch.set_num_threads(cfg.threads or threads)
        torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_deterministic)


def to(device: torch.device, *tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [t if t is None else t.to(device, non_blocking=True) for t in tensors]


def first_line(
    cfg: TrainingConfig,
    samples: TrainingSet,
    device: torch.device,
    batch_size: int,
    steps: int,
    step: int,
    network: nn.Module,
) -> str:
    """What is about to run, in one line."""
    size, channels = samples.preprocessing.size, samples.preprocessing.channels
    parameters = sum(p.numel() for p in network.parameters())
    begun = f" (resuming at step {step:,})" if step else ""
    labels = f", {len(samples.classes):,} classes" if samples.classes else ""
    return (
        f"train: {device} float32, {torch.get_num_threads()} threads, batch {batch_size}, "
        f"{samples.n:,} images {size[0]}x{size[1]}x{channels}{labels}, {cfg.epochs} epochs, {steps:,} steps"
        f"{begun}; {cfg.student} ({parameters:,} parameters), loss {cfg.loss}"
    )


def paths_of(cfg: TrainingConfig, data: str | os.PathLike[str]) -> dict[str, str | None]:
    return {"data": str(data), "embeddings": cfg.embeddings, "weights": cfg.weights, "root": cfg.root}


def _result(run: Run, already_finished: bool = False) -> TrainingResult:
    counts, results = run.record["counts"], run.record["results"]
    return TrainingResult(
        output=run.out,
        student=run.out / "student.pt",
        loss=results["loss"],
        epochs=counts["epochs"],
        steps=counts["steps"],
        seconds=run.record["seconds"],
        already_finished=already_finished,
    )
