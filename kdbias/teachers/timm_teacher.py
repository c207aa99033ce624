"""`timm:NAME[@WEIGHTS]`: any image network of timm, its pooled features as the embedding.

WEIGHTS is a local state dict or `random[:SEED]`; without it timm downloads its pretrained set (a tag belongs
to the name: `timm:vit_small_patch14_dinov2.lvd142m`). The preprocessing is the one timm states for them.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from kdbias.errors import KdbiasError, first_line
from kdbias.optional import require
from kdbias.teachers.preprocessing import INTERPOLATIONS, Preprocessing
from kdbias.teachers.state_files import load_into, random_seed, read_state
from kdbias.teachers.teacher import TeacherOptions, split_weights
from kdbias.teachers.torch_module import TorchTeacher


def open_timm(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `timm:REST`."""
    timm = require("timm", extra="timm")
    name, weights = split_weights(rest)
    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('.')[0][:8]}*")[:6]
        raise KdbiasError(f"timm has no network {name!r}; similar: {', '.join(close) or 'none'}")
    seed = random_seed(weights)
    # A local generator state: opening a teacher must not disturb the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        network = _create(timm, name, pretrained=weights is None)
    if weights is not None and seed is None:
        load_into(network, read_state(weights, or_one_of=["random"]), weights)
    preprocessing = options.preprocessing or stated_preprocessing(timm, network, rest)
    return TorchTeacher(f"timm:{rest}", network, preprocessing, options, kind=f"timm:{name.split('.')[0]}")


def stated_preprocessing(timm: Any, network: torch.nn.Module, rest: str) -> Preprocessing:
    """What timm's own data configuration says about a network's input."""
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    mode, share = config.get("crop_mode", "center"), config.get("crop_pct", 1.0)
    squashed = mode == "squash" and share == 1.0
    if config["interpolation"] not in INTERPOLATIONS or not (squashed or mode == "center"):
        raise KdbiasError(
            f"timm:{rest} wants {config['interpolation']} interpolation and a {mode!r} crop, which kdbias "
            "does not do; give --preprocessing FILE.toml"
        )
    return Preprocessing(
        size=(height, width),
        color="L" if channels == 1 else "RGB",
        interpolation=config["interpolation"],
        shorter_side=None if squashed else math.floor(min(height, width) / share),
        mean=tuple(round(255.0 * v, 6) for v in config["mean"]),
        std=tuple(round(255.0 * v, 6) for v in config["std"]),
    )


def _create(timm: Any, name: str, pretrained: bool) -> torch.nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub's client raises errors of its own when it is offline
        if not pretrained:
            raise KdbiasError(f"timm cannot make {name!r}: {first_line(error)}") from error
        reason = first_line(error)
        raise KdbiasError(
            f"cannot get the pretrained weights of timm:{name} ({reason}); download them elsewhere and name "
            f"the file: timm:{name}@FILE"
        ) from error
