"""`torchvision:NAME[@WEIGHTS]`: a classification network of torchvision; its pooled features embed.

WEIGHTS is a published set by name (`IMAGENET1K_V2`; downloaded by torchvision), a local state dict, or
`random[:SEED]` (untrained: for tests and baselines). Without it, torchvision's default set. The preprocessing
is the one published with the weights; for local or random ones that of the default set. What torchvision
changes in a network for its published weights (`transform_input` of the Inceptions) holds for all.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbias.errors import KdbiasError
from kdbias.networks.plain_values import why_refused
from kdbias.networks.torchvision_nets import plain_arguments
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.state_files import random_seed, read_state
from kdbias.teachers.teacher import TeacherOptions, split_weights
from kdbias.teachers.torch_module import TorchTeacher


def open_torchvision(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `torchvision:REST`."""
    from torchvision import models

    name, weights = split_weights(rest)
    if name not in models.list_models(module=models):
        close = [m for m in models.list_models(module=models) if m.startswith(name[:4])][:8]
        raise KdbiasError(
            f"torchvision has no classification network {name!r}; similar: {', '.join(close) or 'none'}"
        )
    published = models.get_model_weights(name)
    spec, seed = f"torchvision:{rest}", random_seed(weights)
    named = weights is None or weights in published.__members__
    member = published[weights or "DEFAULT"] if named else published.DEFAULT
    # A local generator state: opening a teacher must not disturb the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        if named:
            network = _with_published_weights(name, member)
        else:
            network = models.get_model(name, weights=None, **plain_arguments(name, seed is not None))
    # With the auxiliary heads of the Inceptions.
    heads = (cut_classifier(network, spec), "aux1", "aux2", "AuxLogits")
    if not named and hasattr(network, "transform_input"):
        network.transform_input = True  # type: ignore[assignment]
    note = ""
    if weights is not None and not named and seed is None:
        note = read_state(weights, or_one_of=[*published.__members__, "random"]).load_into(network, heads)
    preprocessing = options.preprocessing or published_preprocessing(member)
    return TorchTeacher(spec, network, preprocessing, options, kind=f"torchvision:{name}", note=note)


def published_preprocessing(member: Any) -> Preprocessing:
    """The preprocessing that a torchvision weights enum member states for itself."""
    preset = member.transforms()
    short = preset.resize_size
    return Preprocessing(
        size=(int(preset.crop_size[0]),) * 2,
        shorter_side=int(short[0]),
        interpolation=preset.interpolation.value,
        mean=tuple(round(255.0 * v, 6) for v in preset.mean),
        std=tuple(round(255.0 * v, 6) for v in preset.std),
    )


def cut_classifier(network: nn.Module, spec: str, classes: int = 1000) -> str:
    """Replace the last layer with `classes` outputs (linear or 1x1 convolution) by the identity, in place.

    Returns the layer's name.
    """
    for path, module in reversed(list(network.named_modules())):
        outputs = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
        if isinstance(module, nn.Linear | nn.Conv2d) and outputs == classes:
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())
            return path
    raise KdbiasError(f"teacher {spec}: no classification layer with {classes} outputs found to cut off")


def _with_published_weights(name: str, member: Any) -> nn.Module:
    """The network as torchvision builds it for its weights: some need other arguments or keys renamed."""
    from torchvision import models

    try:
        # Torchvision would unpickle anything; this fetches the file and refuses what is more than tensors.
        member.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = why_refused(error)
        raise KdbiasError(
            f"cannot get {member} from {member.url} ({reason}); download that file elsewhere and copy it "
            f"into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from error
    return models.get_model(name, weights=member, progress=False)
