"""Networks: what they map to what, and that names and sizes are checked."""

import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.networks import build_network


@pytest.mark.parametrize("size", [(28, 28), (32, 40), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_convnet_maps_images_of_its_size_to_dim_numbers(size: tuple[int, int], channels: int) -> None:
    network = build_network("convnet", dim=24, channels=channels, image_size=size)
    assert network(torch.randn(2, channels, *size)).shape == (2, 24)


def test_the_seed_decides_the_first_weights() -> None:
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(build_network("convnet", dim=8, channels=1, image_size=(16, 16)).state_dict())
    assert all(torch.equal(built[0][k], built[1][k]) for k in built[0])
    assert not all(torch.equal(built[0][k], built[2][k]) for k in built[0])


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("resnet18", 1, (28, 28)), ("resnet18", 3, (96, 96)), ("mobilenet_v3_small", 1, (64, 64))],
)
def test_torchvision_networks_end_in_an_embedding(name: str, channels: int, size: tuple[int, int]) -> None:
    network = build_network(f"torchvision:{name}", dim=32, channels=channels, image_size=size).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, channels, *size)).shape == (2, 32)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("convnot", {}, "convnet"),
        ("torchvision:resnet19", {}, "resnet18"),
        ("timbre:x", {}, "torchvision:NAME"),
        ("convnet", {"dim": 0}, "dim=0"),
        ("convnet", {"image_size": (4, 4)}, "at least 8x8"),
        ("torchvision:mobilenet_v2", {"image_size": (16, 16)}, "at least 32x32"),
        ("torchvision:squeezenet1_1", {"image_size": (64, 64)}, "no linear classifier"),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_could(name: str, options: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        build_network(name, **{"dim": 8, "channels": 1, "image_size": (32, 32), **options})
