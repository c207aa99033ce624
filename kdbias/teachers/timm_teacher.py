"""`timm:NAME[@WEIGHTS]`: any image network of timm, its pooled features as the embedding.

WEIGHTS is a local state dict or `random[:SEED]`; without it timm downloads its pretrained set (a tag belongs
to the name: `timm:vit_small_patch14_dinov2.lvd142m`; `hf-hub:OWNER/NAME` is one of the hub). The
preprocessing is the one timm states for them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from kdbias.errors import KdbiasError, first_line
from kdbias.networks.places import load_into
from kdbias.networks.timm_nets import timm_with
from kdbias.teachers.preprocessing import INTERPOLATIONS, Preprocessing
from kdbias.teachers.state_files import drawn_weights, read_state
from kdbias.teachers.teacher import TeacherOptions, split_weights
from kdbias.teachers.torch_module import TorchTeacher


def open_timm(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `timm:REST`."""
    name, weights = split_weights(rest)
    timm, name = timm_with(name, or_hub=True)
    with drawn_weights(weights) as seed:
        network = _create(timm, name, pretrained=weights is None)
    note = ""
    if weights is not None and seed is None:
        heads: Any = network.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        note = load_into(network, read_state(weights, or_one_of=["random"]), heads)
    preprocessing = options.preprocessing or stated_preprocessing(timm, network, rest)
    kind = f"timm:{name.split('.')[0]}"
    return TorchTeacher(f"timm:{rest}", network, preprocessing, options, kind=kind, note=note)


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
    """The timm network without its classifier."""
    try:
        with _no_vain_retries():
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub's client raises errors of its own when it is offline
        reason = first_line(error)
        if not pretrained:
            raise KdbiasError(f"timm cannot make {name!r}: {reason}") from error
        raise KdbiasError(
            f"cannot get the pretrained weights of timm:{name} ({reason}); download them elsewhere and name "
            f"the file: timm:{name}@FILE"
        ) from error


@contextlib.contextmanager
def _no_vain_retries() -> Iterator[None]:
    """Tell the hub's client where the hub is out of reach: it would try each file for half a minute."""
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session
    except ImportError:  # an older timm does without
        yield
        return
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception:  # of whichever library sends the request
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
