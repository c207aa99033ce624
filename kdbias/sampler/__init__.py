"""From a weight manifest to the order of an epoch: a pure function, and PyTorch samplers on top of it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbias.sampler.identity_sampler import IdentitySampler
    from kdbias.sampler.manifest_sampler import ManifestSampler

__all__ = ["IdentitySampler", "ManifestSampler"]

_HOMES = {
    "IdentitySampler": "kdbias.sampler.identity_sampler",
    "ManifestSampler": "kdbias.sampler.manifest_sampler",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
