"""Any network of the library timm, its classifier replaced by an embedding layer."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from kdbias.errors import KdbiasError
from kdbias.optional import require


def timm_network(
    name: str, *, dim: int, channels: int = 3, image_size: tuple[int, int] = (224, 224)
) -> nn.Module:
    """Return timm's NAME with random weights and `dim` outputs; transformers are built for `image_size`."""
    timm, name = require("timm", extra="timm"), plain_name(name)
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:6] or timm.list_models(f"{name[:4]}*")[:6]
        raise KdbiasError(f"timm has no network {name!r}; similar: {', '.join(near) or 'none'}")
    options: dict[str, Any] = {"num_classes": dim, "in_chans": channels}
    if _takes_image_size(timm, name):
        options["img_size"] = tuple(image_size)
    try:
        return timm.create_model(name, pretrained=False, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise KdbiasError(
            f"timm:{name} cannot be built for {channels}x{image_size} -> {dim}: {reason}"
        ) from error


def plain_name(name: str) -> str:
    """`hf-hub:timm/NAME` and `timm/NAME`, as the hub writes timm's own networks, are `NAME`; others stay."""
    for source in ("hf-hub:timm/", "hf_hub:timm/", "timm/"):
        name = name.removeprefix(source)
    return name


def _takes_image_size(timm: Any, name: str) -> bool:
    # Builders take **kwargs; the network's class says whether it is built for one size (a fixed position
    # grid).
    network = timm.create_model(name, pretrained=False, num_classes=0)
    return "img_size" in inspect.signature(type(network).__init__).parameters
