"""kdbias's own networks: `run:RUN_DIR`, of `kdbias train`, and `kdbias:NAME@FILE`, published elsewhere.

NAME is a name of `kdbias.networks`; FILE holds its weights (`.pt`, `.pth`, `.npz`, `.safetensors`), such as
insightface publishes, or is `random[:SEED]`. The embedding's dimension is read from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kdbias.networks import build_network
from kdbias.networks.places import find_place, load_into
from kdbias.networks.saved import load_network
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.teachers.side_car import find_preprocessing
from kdbias.teachers.spec import split_choice, split_weights
from kdbias.teachers.state_files import drawn_weights, read_state
from kdbias.teachers.teacher import TeacherOptions
from kdbias.teachers.torch_module import TorchTeacher

_DIM = 512
# Networks that are published with one input; others need a side-car.
_USUAL_INPUT = {"iresnet": "arcface_112", "mobilefacenet": "arcface_112", "cifar_resnet": "cifar10_resnet20"}


def open_run(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `run:REST`, REST being the run's folder or its `student.pt`; the preprocessing is stored in it."""
    options.refuse("run", "precision device channels_last compile")
    network, info = load_network(rest)
    preprocessing = Preprocessing.from_dict(info["preprocessing"])
    return TorchTeacher(f"run:{rest}", network, preprocessing, options, kind=f"run:{info['name']}")


def open_kdbias(rest: str, options: TeacherOptions) -> TorchTeacher:
    """Open `kdbias:REST`."""
    name, weights = split_weights(rest)
    assert weights is not None, "a spec without is refused where it is taken apart"
    usual = next((u for start, u in _USUAL_INPUT.items() if name.startswith(start)), None)
    preprocessing = find_preprocessing(split_choice(weights)[0], options, usual)
    shape = {"channels": preprocessing.channels, "image_size": preprocessing.size}
    note = ""
    with drawn_weights(weights) as seed:
        network = build_network(name, dim=_DIM, **shape)  # type: ignore[arg-type]
        if seed is None:
            file = read_state(weights, or_one_of=["random"])
            state = find_place(network, file).state
            if name.startswith("cifar_resnet") and "embedding.weight" not in state:  # a published classifier
                network = build_network(name, dim=64, head=False, **shape)  # type: ignore[arg-type]
            elif (dim := embedding_dim(network.state_dict(), state)) != _DIM:
                network = build_network(name, dim=dim, **shape)  # type: ignore[arg-type]
            note = load_into(network, file)
    return TorchTeacher(f"kdbias:{rest}", network, preprocessing, options, kind=f"kdbias:{name}", note=note)


def embedding_dim(built: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> int:
    """The dimension that weights were made for, from shapes that differ from a network's built for 512.

    A difference that is none of the dimension alone leaves 512; loading then names the tensors.
    """
    found = set()
    for key, value in built.items():
        if key in given and value.ndim == given[key].ndim:
            pairs = zip(value.shape, given[key].shape, strict=True)
            found |= {b for a, b in pairs if a != b and a == _DIM}
    return found.pop() if len(found) == 1 else _DIM
