"""The network of a run, and its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdbias.errors import KdbiasError
from kdbias.losses import WeightedSum, build_loss, needs_equal_dim
from kdbias.networks import build_network
from kdbias.training.data import TrainingSet
from kdbias.training.settings import TrainingSettings
from kdbias.training.step import Learner


def build_learner(
    samples: TrainingSet, cfg: TrainingSettings, device: torch.device
) -> tuple[dict[str, Any], nn.Module, WeightedSum, Learner]:
    """The arguments that build the network again, the network, its loss, and both as one module.

    Raises:
        KdbiasError: a --dim that the loss cannot hold against the teacher's.
    """
    prepare, dim = samples.preprocessing, cfg.dim or samples.dim or 128
    if samples.dim is not None and samples.dim != dim and needs_equal_dim(cfg.loss):
        raise KdbiasError(
            f"--dim {dim}, but the teacher's vectors have {samples.dim} numbers; leave --dim out, or use a "
            "loss that compares within each alone (rkd)"
        )
    how: dict[str, Any] = {"dim": dim, "channels": prepare.channels, "image_size": list(prepare.size)}
    torch.manual_seed(cfg.seed)  # whatever else was opened, the seed decides the first weights
    network = build_network(cfg.student, **how).to(memory_format=torch.channels_last).to(device)
    given = {name: value for name in ("scale", "margin") if (value := getattr(cfg, name)) is not None}
    loss_of = build_loss(cfg.loss, dim=dim, classes=len(samples.classes) or None, options=given)
    return how, network, loss_of, Learner(network, loss_of.to(device), cfg.precision)
