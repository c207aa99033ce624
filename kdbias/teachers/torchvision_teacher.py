"""`torchvision:NAME[@WEIGHTS]`: a classification network of torchvision; its pooled features embed.

WEIGHTS is a published set by name (`IMAGENET1K_V2`; downloaded by torchvision), a local state dict, or
`random[:SEED]` (untrained: for tests and baselines). Without it, torchvision's default set. The preprocessing
is the one published with the weights; for local or random ones that of the default set. What torchvision
changes in a network for its published weights (`transform_input` of the Inceptions) holds for all.
"""

from __future__ import annotations

from typing import Any

from kdbias.networks.places import load_into
from kdbias.networks.torchvision_nets import cut_classifier, models_with, plain_arguments, published_network
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.state_files import drawn_weights, read_state
from kdbias.teachers.teacher import TeacherOptions, split_weights
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
    note = ""
    if weights is not None and not named and seed is None:
        file = read_state(weights, or_one_of=[*published.__members__, "random"])
        note = load_into(network, file, heads)
    preprocessing = options.preprocessing or published_preprocessing(member)
    kind = f"torchvision:{name}"
    return TorchTeacher(f"torchvision:{rest}", network, preprocessing, options, kind=kind, note=note)


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
