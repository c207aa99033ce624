"""Any classification network of torchvision with an embedding layer in place of its classifier."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdbias.errors import KdbiasError

# Stems of ImageNet networks shrink their input 32-fold in all: smaller images leave no feature map.
_SMALLEST = 32


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
    from torchvision import models

    if name not in models.list_models(module=models):
        near = [m for m in models.list_models(module=models) if m.startswith(name[:4])][:6]
        raise KdbiasError(
            f"torchvision has no classification network {name!r}; similar: {', '.join(near) or 'none'}"
        )
    network = models.get_model(name, weights=None, **plain_arguments(name))
    small = max(image_size) <= 64 if small_stem is None else small_stem
    is_resnet = isinstance(network, models.ResNet)
    if min(image_size) < _SMALLEST and not (is_resnet and small):
        raise KdbiasError(
            f"torchvision:{name} needs images of at least {_SMALLEST}x{_SMALLEST}, not {image_size}"
        )
    _replace_last_linear(network, dim, name)
    if is_resnet and small:
        network.conv1 = nn.Conv2d(channels, 64, 3, 1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif channels != 3:
        _replace_first_convolution(network, channels)
    return network


def plain_arguments(name: str, init_weights: bool = True) -> dict[str, Any]:
    """What to build `torchvision.models.NAME` without weights with, so that it has one output.

    `init_weights` False saves the seconds that the Inceptions take to draw weights that are replaced anyway.
    """
    # Their auxiliary heads return a tuple in training mode.
    inception = name in ("googlenet", "inception_v3")
    return {"aux_logits": False, "init_weights": init_weights} if inception else {}


def _replace_last_linear(network: nn.Module, dim: int, name: str) -> None:
    layers = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise KdbiasError(
            f"torchvision:{name} has no linear classifier that an embedding layer could replace"
        )
    path, last = layers[-1]
    _set(network, path, nn.Linear(last.in_features, dim))


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    path, first = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        first.groups,
        first.bias is not None,
    )
    _set(network, path, new)


def _set(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    owner = network.get_submodule(parent)
    if isinstance(owner, nn.Sequential) and leaf.isdigit():
        owner[int(leaf)] = module
    else:
        setattr(owner, leaf, module)
