"""Networks that map images to embeddings: students, and teachers trained or loaded as one of them.

A network is a `torch.nn.Module` that maps a normalised float batch (b, c, h, w) to raw (not unit) embeddings
(b, dim). A new one is a file in this folder and a line in `NETWORKS`; a name with a colon belongs to a
family (`torchvision:resnet18`), whose builder gets what stands behind the colon.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdbias.errors import KdbiasError, first_line
from kdbias.wording import did_you_mean, similar

if TYPE_CHECKING:
    import torch

# name -> "module:builder" in this folder; strings, so that listing the names imports no torch.
NETWORKS: dict[str, str] = {
    "convnet": "small_pictures:convnet",
    "mobilefacenet": "faces:mobilefacenet",
    "mobilefacenet_x2": "faces:mobilefacenet_x2",
    "iresnet18": "faces:iresnet18",
    "iresnet34": "faces:iresnet34",
    "iresnet50": "faces:iresnet50",
    "iresnet100": "faces:iresnet100",
    "cifar_resnet20": "small_pictures:cifar_resnet20",
    "cifar_resnet56": "small_pictures:cifar_resnet56",
}
FAMILIES: dict[str, str] = {
    "torchvision": "libraries:torchvision_network",
    "timm": "libraries:timm_network",
}


def require_network(name: str) -> None:
    """Refuse a name that no builder has; of a family's, the library alone knows the rest."""
    if _builder(name) is None:
        known = [*NETWORKS, *(f"{f}:NAME" for f in FAMILIES)]
        family, _, member = name.partition(":")
        meant = [f"{near}:{member}" for near in similar(family, FAMILIES)]
        if not member:
            meant = own_like(name) or of_libraries(name)
        raise KdbiasError(f"unknown network {name!r}; known: {', '.join(known)}{did_you_mean(meant)}")


def own_like(name: str) -> list[str]:
    """The network of kdbias's own that a bare name is a slip of; `resnet18` is none of `iresnet18`."""
    return [near for near in similar(name, NETWORKS, least=0.8) if near[0] == name[0].lower()]


def of_libraries(name: str) -> list[str]:
    """A bare name as each library's: what `resnet18` may have meant."""
    return [f"{family}:{name}" for family in FAMILIES] if re.fullmatch(r"[A-Za-z][\w.]*", name) else []


def _builder(name: str) -> str | None:
    """Where the builder of a network is, None for an unknown name."""
    family, colon, member = name.partition(":")
    return (FAMILIES.get(family) if member else None) if colon else NETWORKS.get(name)


def build_network(
    name: str, *, dim: int, channels: int = 3, image_size: tuple[int, int] = (112, 112), **kwargs: Any
) -> torch.nn.Module:
    """Return a new, randomly initialised network (b, channels, h, w) float -> (b, dim) float.

    `name` is a key of `NETWORKS` or `FAMILY:NAME`; `image_size` is (height, width) in pixels; `kwargs` go to
    the builder. The weights come from torch's global generator: seed it first for a reproducible start.
    Raises KdbiasError for an unknown name, a dim or a size that the network cannot have: it has embedded an
    empty image before it is returned.
    """
    require_network(name)
    member = name.partition(":")[2]
    if dim < 1 or channels < 1 or min(image_size) < 1:
        raise KdbiasError(
            f"network {name}: dim={dim}, channels={channels}, image_size={image_size} must be positive"
        )
    module, _, builder = str(_builder(name)).partition(":")
    build = getattr(importlib.import_module(f"kdbias.networks.{module}"), builder)
    arguments = {"dim": dim, "channels": channels, "image_size": tuple(image_size), **kwargs}
    network = build(member, **arguments) if member else build(**arguments)
    _try(network, name, (1, channels, *image_size), dim)
    return network


def unknown(what: str, name: str, known: Iterable[str]) -> KdbiasError:
    """The error for a network that a library lacks; `what` says so, the nearest of the known names follow."""
    near = similar(name, known, 6, 0.4)
    return KdbiasError(f"{what} {name!r}; similar: {', '.join(near) or 'none'}")


def require_size(name: str, image_size: tuple[int, int], least: int) -> None:
    """Refuse images (height, width) of which a network would leave nothing."""
    if min(image_size) < least:
        height, width = image_size
        raise KdbiasError(f"{name} needs images of at least {least}x{least} pixels, not {height}x{width}")


def _try(network: torch.nn.Module, name: str, shape: tuple[int, ...], dim: int) -> None:
    """Embed an empty image; evaluation mode draws no random numbers and leaves statistics alone."""
    import torch

    reason = None
    network.eval()
    try:
        with torch.no_grad():
            found = tuple(network(torch.zeros(shape)).shape)
        if found != (1, dim):
            reason = f"it gives {found}, not one vector of {dim}"
    except Exception as error:  # each library's networks have errors of their own
        reason = first_line(error)
    network.train()
    if reason is not None:
        _, channels, height, width = shape
        raise KdbiasError(
            f"network {name} cannot embed images of {height}x{width} with {channels} channels: {reason}; "
            "choose another --image-size or --student"
        )
