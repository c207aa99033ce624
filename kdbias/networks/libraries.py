"""Any classification network of torchvision, any network of timm: found by name, built as an embedding."""

from __future__ import annotations

import inspect
import pickle
import socket
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbias.errors import KdbiasError, first_line
from kdbias.networks import require_size, unknown
from kdbias.networks.plain_values import why_refused
from kdbias.optional import require

# Stems of ImageNet networks shrink their input 32-fold in all: smaller images leave no feature map.
_SMALLEST = 32
# Seconds without a byte after which a server is out of reach; torchvision itself would wait for ever.
_SILENCE = 10.0


def torchvision_network(
    name: str,
    *,
    dim: int,
    channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    small_stem: bool | None = None,
) -> nn.Module:
    """Return `torchvision.models.NAME` (random weights), its last linear layer a new one with `dim` outputs.

    `small_stem` (default: when the longer side is at most 64 pixels) keeps the resolution in the stem of a
    ResNet: a 3x3 convolution of stride 1 and no pooling, as is usual for CIFAR-sized images.
    """
    models = models_with(name)
    network = models.get_model(name, weights=None, **plain_arguments(name))
    small = max(image_size) <= 64 if small_stem is None else small_stem
    is_resnet = isinstance(network, models.ResNet)
    if not (is_resnet and small):
        require_size(f"torchvision:{name}", image_size, _SMALLEST)
    linear = _layers(network, nn.Linear)
    if not linear:
        raise KdbiasError(
            f"torchvision:{name} has no linear classifier that an embedding layer could replace"
        )
    path, last = linear[-1]
    _put(network, path, nn.Linear(last.in_features, dim))
    if is_resnet and small:
        network.conv1 = nn.Conv2d(channels, 64, 3, 1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        _replace_first_convolution(network, channels)
    return network


def models_with(name: str) -> Any:
    """The module `torchvision.models`, which has a classification network NAME.

    Raises:
        KdbiasError: it has none.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision has no classification network", name, known)
    return models


def published_network(name: str, member: Any) -> nn.Module:
    """`torchvision.models.NAME` as torchvision builds it for a published set of weights, and with them.

    Some need other arguments than others, or keys renamed.

    Args:
        member: of the network's enumeration of weights.

    Raises:
        KdbiasError: the file cannot be fetched, or holds more than tensors.
    """
    usual = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_SILENCE)
        # Torchvision would unpickle anything; this fetches the file and refuses what is more than tensors.
        member.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise KdbiasError(
            f"cannot get {member} from {member.url} ({why_refused(error)}); download that file elsewhere and "
            f"copy it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from error
    finally:
        socket.setdefaulttimeout(usual)
    return models_with(name).get_model(name, weights=member, progress=False)


def cut_classifier(network: nn.Module, name: str, classes: int = 1000) -> str:
    """Replace the last layer with `classes` outputs (linear or 1x1 convolution) by the identity, in place.

    Returns:
        The layer's name.
    """
    for path, module in reversed(_layers(network, nn.Linear | nn.Conv2d)):
        if classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None)):
            _put(network, path, nn.Identity())
            return path
    raise KdbiasError(f"torchvision:{name}: no classification layer with {classes} outputs found to cut off")


def plain_arguments(name: str, init_weights: bool = True) -> dict[str, Any]:
    """What to build `torchvision.models.NAME` without weights with, so that it has one output.

    `init_weights` False saves the seconds that the Inceptions take to draw weights that are replaced anyway.
    """
    # Their auxiliary heads return a tuple in training mode.
    inception = name in ("googlenet", "inception_v3")
    return {"aux_logits": False, "init_weights": init_weights} if inception else {}


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    """Let the network take images of so many channels."""
    path, first = _layers(network, nn.Conv2d)[0]
    same = {k: getattr(first, k) for k in ("kernel_size", "stride", "padding", "dilation", "groups")}
    _put(network, path, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **same))


def _layers(network: nn.Module, kind: Any) -> list[tuple[str, Any]]:
    """Path and module of every layer of a kind."""
    return [(path, module) for path, module in network.named_modules() if isinstance(module, kind)]


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at a path."""
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def timm_network(
    name: str, *, dim: int, channels: int = 3, image_size: tuple[int, int] = (224, 224)
) -> nn.Module:
    """Return timm's NAME with random weights and `dim` outputs; transformers are built for `image_size`."""
    timm, name = timm_with(name)
    options: dict[str, Any] = {"num_classes": dim, "in_chans": channels}
    if _takes_image_size(timm, name):
        options["img_size"] = tuple(image_size)
    try:
        return timm.create_model(name, pretrained=False, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise KdbiasError(
            f"timm:{name} cannot be built for {channels}x{image_size} -> {dim}: {first_line(error)}"
        ) from error


def timm_with(name: str, or_hub: bool = False) -> tuple[Any, str]:
    """The library timm, and the name there of its network NAME (a tag may follow: NAME.TAG).

    `hf-hub:timm/NAME` and `timm/NAME`, as the hub writes timm's own networks, are NAME.

    Args:
        or_hub: also take `hf-hub:OWNER/NAME`, of others on the hub, as it is.

    Raises:
        KdbiasError: timm is not installed, or has no such network.
    """
    timm = require("timm", extra="timm")
    for source in ("hf-hub:timm/", "hf_hub:timm/", "timm/"):
        name = name.removeprefix(source)
    if not (or_hub and name.startswith(("hf-hub:", "hf_hub:"))) and not timm.is_model(name):
        raise unknown("timm has no network", name, timm.list_models())
    return timm, name


def _takes_image_size(timm: Any, name: str) -> bool:
    """Whether a timm network is built for one size of images."""
    # Builders take **kwargs; the network's class says whether it is built for one size (a fixed position
    # grid).
    network = timm.create_model(name, pretrained=False, num_classes=0)
    return "img_size" in inspect.signature(type(network).__init__).parameters
