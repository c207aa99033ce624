"""Parts of a training step: network with loss, optimiser, learning rate, running average, seeds, flips."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from kdbias.errors import KdbiasError
from kdbias.losses import Targets, WeightedSum
from kdbias.training.settings import TrainingSettings

# What autocast computes in; fp32 and tf32 are not autocast at all.
REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner(nn.Module):
    """Network and loss as one module, so that data-parallel training averages the gradients of both."""

    def __init__(self, network: nn.Module, loss: WeightedSum, precision: str) -> None:
        super().__init__()
        self.network, self.loss, self.precision = network, loss, precision

    def forward(self, pixels: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The loss, a scalar, of pixels (b, channels, height, width)."""
        dtype = REDUCED.get(self.precision)
        with torch.autocast(pixels.device.type, dtype, enabled=dtype is not None):
            embedding = self.network(pixels)
        return self.loss(embedding.float(), targets)


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average`, what --ema saves as the student, towards `network`, weights and statistics alike.

    The first steps move faster, so that the random start is soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - decay)
        else:
            mean.copy_(new)


def build_optimiser(learner: nn.Module, cfg: TrainingSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; biases and normalisation layers are not decayed."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=cfg.rate)
    return torch.optim.SGD(groups, lr=cfg.rate, momentum=cfg.momentum, nesterov=cfg.momentum > 0)


def descend(
    loss: torch.Tensor,
    learner: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    rate: float,
    clip_grad: float,
) -> None:
    """One step of the optimiser down `loss`, at learning rate `rate`, along gradients of norm <= `clip_grad`.

    `clip_grad` 0 leaves them as long as they are.
    """
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if clip_grad:
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(learner.parameters(), clip_grad)
    for group in optimiser.param_groups:
        group["lr"] = rate
    scaler.step(optimiser)
    scaler.update()


# name -> factor at progress 0 <= x <= 1 of the steps after the warm-up
DECAYS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "cosine": lambda x, milestones: 0.5 * (1 + math.cos(math.pi * x)),
    "linear": lambda x, milestones: 1 - x,
    "step": lambda x, milestones: 0.1 ** sum(x >= m for m in milestones),
    "constant": lambda x, milestones: 1.0,
}


def rate_factor(
    step: int, steps: int, schedule: str, warmup_steps: int = 0, milestones: Sequence[float] = ()
) -> float:
    """Factor in (0, 1] on the learning rate for `step` (0 .. steps-1).

    The rate rises linearly over the first `warmup_steps`, by 1 / (warmup_steps + 1) a step, so that the first
    step after them has the whole of it; then "cosine" and "linear" fall to nearly 0 at the end, "step"
    divides by ten at each milestone (fractions of the whole run).
    """
    if schedule not in DECAYS:
        raise KdbiasError(f"unknown schedule {schedule!r}; known: {', '.join(DECAYS)}")
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "step":
        return DECAYS["step"](step / steps, milestones)
    return DECAYS[schedule]((step - warmup_steps) / max(1, steps - warmup_steps), milestones)


@contextlib.contextmanager
def reproducible(cfg: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Seed torch, choose threads, algorithms and TF32 for the block; the caller's come back after it."""
    if cfg.deterministic and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # Deterministic mode would fill every new tensor, which only helps code that reads uninitialised memory
    # and costs a tenth of a step. Float32 means float32: torch alone would let convolutions round to TF32.
    # Batches have one size: the fastest kernels for it are worth a trial, unless they may not differ by run.
    settings: list[tuple[Any, str, bool]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
        (torch.backends.cudnn, "benchmark", not cfg.deterministic),
        (torch.backends.cudnn, "allow_tf32", cfg.precision == "tf32"),
        (torch.backends.cuda.matmul, "allow_tf32", cfg.precision == "tf32"),
    ]
    before = [getattr(owner, name) for owner, name, _ in settings]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(cfg.seed)
        torch.set_num_threads(cfg.threads or threads)
        torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)
        for owner, name, value in settings:
            setattr(owner, name, value)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(was_deterministic)
            for (owner, name, _), value in zip(settings, before, strict=True):
                setattr(owner, name, value)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what is random in a step (dropout) depend on the step alone: resuming needs no generator."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1))


def draw_flips(seed: int, step: int, batch: int, rank: int, world_size: int) -> np.ndarray:
    """Which images of this process's batch are mirrored (bool): half of them, a function of seed and step."""
    return np.random.default_rng((seed, step, 1)).random(batch * world_size)[rank::world_size] < 0.5


def mirror(images: torch.Tensor, flips: np.ndarray) -> torch.Tensor:
    """(b, h, w, c) with the chosen images mirrored left to right."""
    chosen = torch.from_numpy(flips).to(images.device, non_blocking=True)
    return torch.where(chosen[:, None, None, None], images.flip(2), images)
