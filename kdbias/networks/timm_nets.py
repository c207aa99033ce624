"""Any network of the library timm: found by its name, built with an embedding layer as its classifier."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from kdbias.errors import KdbiasError, first_line
from kdbias.networks import unknown
from kdbias.optional import require


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
