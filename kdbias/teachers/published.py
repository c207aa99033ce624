"""Published networks of torchvision and timm; their pooled features embed.

`torchvision:NAME[@WEIGHTS]`: a classification network. WEIGHTS is a published set by name (`IMAGENET1K_V2`;
downloaded by torchvision), a local state dict, or `random[:SEED]` (untrained: for tests and baselines).
Without it, torchvision's default set. The preprocessing is the one published with the weights; for local or
random ones that of the default set. What torchvision changes in a network for its published weights
(`transform_input` of the Inceptions) holds for all.

`timm:NAME[@WEIGHTS]`: any image network of timm. WEIGHTS is a local state dict or `random[:SEED]`; without it
timm downloads its pretrained set (a tag belongs to the name: `timm:vit_small_patch14_dinov2.lvd142m`;
`hf-hub:OWNER/NAME` is one of the hub). The preprocessing is the one timm states for them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from kdbias.errors import KdbiasError, first_line
from kdbias.networks.libraries import (
    cut_classifier,
    models_with,
    plain_arguments,
    published_network,
    timm_with,
)
from kdbias.networks.places import load_into
from kdbias.teachers.preprocessing import INTERPOLATIONS, Preprocessing
from kdbias.teachers.spec import split_weights
from kdbias.teachers.state_files import drawn_weights, read_state
from kdbias.teachers.teacher import TeacherOptions
from kdbias.teachers.torch_module import TorchTeacher


def open_torchvision(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `torchvision:REST`."""
    name, weights = split_weights(rest)
    models = models_with(name)
    published = models.get_model_weights(name)
    named = weights is None or weights in published.__members__
    member = published[weights or "DEFAULT"] if named else published.DEFAULT
    with drawn_weights(weights) as seed:
        if named:
            network = published_network(name, member)
        else:
            network = models.get_model(name, weights=None, **plain_arguments(name, seed is not None))
    # With the auxiliary heads of the Inceptions.
    heads = (cut_classifier(network, rest), "aux1", "aux2", "AuxLogits")
    if not named and hasattr(network, "transform_input"):
        network.transform_input = True  # type: ignore[assignment]
    file = None if named or seed is not None else weights
    note = _load(network, file, [*published.__members__, "random"], heads)
    preprocessing = options.preprocessing or published_preprocessing(member)
    kind = f"torchvision:{name}"
    return TorchTeacher(f"torchvision:{rest}", network, preprocessing, options, kind=kind, note=note)


def open_timm(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `timm:REST`."""
    name, weights = split_weights(rest)
    timm, name = timm_with(name, or_hub=True)
    with drawn_weights(weights) as seed:
        network = _create(timm, name, pretrained=weights is None)
    config: Any = network.pretrained_cfg
    heads = config.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    note = _load(network, None if seed is not None else weights, ["random"], heads)
    preprocessing = options.preprocessing or stated_preprocessing(timm, network, rest)
    kind = f"timm:{name.split('.')[0]}"
    return TorchTeacher(f"timm:{rest}", network, preprocessing, options, kind=kind, note=note)


def _load(network: nn.Module, file: str | None, or_one_of: Sequence[str], heads: Sequence[str]) -> str:
    """Load a file of weights, if there is one, into a network without its `heads`; what was taken."""
    return "" if file is None else load_into(network, read_state(file, or_one_of), heads)


def published_preprocessing(member: Any) -> Preprocessing:
    """The preprocessing that a torchvision weights enum member states for itself."""
    preset = member.transforms()
    return Preprocessing(
        size=(int(preset.crop_size[0]),) * 2,
        shorter_side=int(preset.resize_size[0]),
        interpolation=preset.interpolation.value,
        mean=_of_pixels(preset.mean),
        std=_of_pixels(preset.std),
    )


def stated_preprocessing(timm: Any, network: nn.Module, rest: str) -> Preprocessing:
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
        mean=_of_pixels(config["mean"]),
        std=_of_pixels(config["std"]),
    )


def _of_pixels(shares: Sequence[float]) -> tuple[float, ...]:
    """Means or deviations of pixels from 0 to 1 as those of pixels from 0 to 255."""
    return tuple(round(255.0 * share, 6) for share in shares)


def _create(timm: Any, name: str, pretrained: bool) -> nn.Module:
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
