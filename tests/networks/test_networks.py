"""Networks: what they map to what, and that names and sizes are checked."""

import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.networks import build_network
from kdbias.networks.libraries import torchvision_network


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
        ("torchvision:alexnet", {}, "alexnet cannot embed images of 32x32 with 1 channels: .*--image-size"),
        (
            "torchvision:vit_b_16",
            {"image_size": (64, 64)},
            "cannot embed images of 64x64 .*224.*--image-size",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_could(name: str, options: dict, words: str) -> None:
    with pytest.raises(KdbiasError, match=words):
        build_network(name, **{"dim": 8, "channels": 1, "image_size": (32, 32), **options})


def test_trying_a_network_leaves_it_new() -> None:
    torch.manual_seed(1)
    network = build_network("torchvision:mobilenet_v3_small", dim=8, image_size=(32, 32))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    alone = torchvision_network("mobilenet_v3_small", dim=8, image_size=(32, 32))
    assert torch.equal(drawn, torch.rand(3))
    assert network.training
    assert all(torch.equal(v, alone.state_dict()[k]) for k, v in network.state_dict().items())


def multiply_adds(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Multiplications of the convolutions and linear layers for one image."""
    total = 0

    def count(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        ("mobilefacenet", 1.20, 0.221),
        ("mobilefacenet_x2", 2.06, 0.4375),
        ("iresnet18", 24.03, 2.61),
        ("iresnet34", 34.14, 4.46),
        ("iresnet50", 43.59, 6.31),
        ("iresnet100", 65.16, 12.09),
    ],
)
def test_face_networks_have_their_published_size(name: str, millions: float, giga: float) -> None:
    network = build_network(name, dim=512)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions
    assert multiply_adds(network, torch.zeros(1, 3, 112, 112)) / 1e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet_x2", "iresnet18"])
@pytest.mark.parametrize(("channels", "size"), [(3, (56, 56)), (1, (100, 72))])
def test_face_networks_take_other_sizes(name: str, channels: int, size: tuple[int, int]) -> None:
    network = build_network(name, dim=16, channels=channels, image_size=size)
    assert network(torch.randn(2, channels, *size)).shape == (2, 16)


@pytest.mark.parametrize(("name", "units", "parameters"), [("20", 3, 269_722), ("56", 9, 853_018)])
def test_cifar_resnets_have_their_published_size_and_keys(name: str, units: int, parameters: int) -> None:
    network = build_network(f"cifar_resnet{name}", dim=10, image_size=(32, 32))
    # He et al. 2016, table 6: 0.27 M and 0.85 M, a classifier of ten classes among them.
    assert sum(p.numel() for p in network.parameters()) == parameters
    expected = ["conv1.weight", *norm("bn1"), "embedding.weight", "embedding.bias"]
    for stage in (1, 2, 3):
        for unit in range(units):
            at = f"layer{stage}.{unit}"
            expected += [f"{at}.conv1.weight", *norm(f"{at}.bn1"), f"{at}.conv2.weight", *norm(f"{at}.bn2")]
    assert sorted(network.state_dict()) == sorted(expected)


def test_cifar_resnets_embed_with_and_without_a_head() -> None:
    assert build_network("cifar_resnet20", dim=24, channels=1, image_size=(28, 28))(
        torch.randn(2, 1, 28, 28)
    ).shape == (2, 24)
    pooled = build_network("cifar_resnet20", dim=64, head=False)(torch.randn(2, 3, 32, 32))
    assert pooled.shape == (2, 64)
    assert pooled.min() >= 0
    with pytest.raises(KdbiasError, match="64 numbers, not 10"):
        build_network("cifar_resnet20", dim=10, head=False)
    with pytest.raises(KdbiasError, match="at least 8x8 pixels, not 4x32"):
        build_network("cifar_resnet56", dim=10, image_size=(4, 32))


def norm(name: str) -> list[str]:
    return [
        f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]


def test_iresnet_has_the_keys_of_insightface() -> None:
    expected = [
        "conv1.weight",
        *norm("bn1"),
        "prelu.weight",
        *norm("bn2"),
        "fc.weight",
        "fc.bias",
        *norm("features"),
    ]
    for stage, units in enumerate((3, 4, 14, 3), start=1):
        for unit in range(units):
            at = f"layer{stage}.{unit}"
            expected += [*norm(f"{at}.bn1"), *norm(f"{at}.bn2"), *norm(f"{at}.bn3")]
            expected += [f"{at}.conv1.weight", f"{at}.prelu.weight", f"{at}.conv2.weight"]
            if unit == 0:
                expected += [f"{at}.downsample.0.weight", *norm(f"{at}.downsample.1")]
    state = build_network("iresnet50", dim=512).state_dict()
    assert sorted(state) == sorted(expected)
    assert state["fc.weight"].shape == (512, 512 * 7 * 7)
    assert state["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer2.0.bn1.weight"].shape == (64,)


def test_iresnet_learns_no_scale_of_its_embedding() -> None:
    network = build_network("iresnet18", dim=16, image_size=(32, 32))
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert frozen == ["features.weight"]


def test_mobilefacenet_x2_has_the_keys_of_insightface() -> None:
    def activated(at: str) -> list[str]:
        return [f"{at}.layers.0.weight", *norm(f"{at}.layers.1"), f"{at}.layers.2.weight"]

    def linear(at: str) -> list[str]:
        return [f"{at}.layers.0.weight", *norm(f"{at}.layers.1")]

    def bottleneck(at: str) -> list[str]:
        return [*activated(f"{at}.layers.0"), *activated(f"{at}.layers.1"), *linear(f"{at}.layers.2")]

    expected = [*activated("layers.0"), *activated("layers.1"), *activated("conv_sep")]
    for place in (2, 4, 6):
        expected += bottleneck(f"layers.{place}")
    for place, count in ((3, 4), (5, 6), (7, 2)):
        for unit in range(count):
            expected += bottleneck(f"layers.{place}.layers.{unit}")
    expected += [*linear("features.layers.0"), "features.layers.2.weight", *norm("features.layers.3")]
    state = build_network("mobilefacenet_x2", dim=512).state_dict()
    assert sorted(state) == sorted(expected)
    assert state["layers.0.layers.0.weight"].shape == (128, 3, 3, 3)
    assert state["layers.1.layers.0.weight"].shape == (128, 2, 3, 3)
    assert state["layers.4.layers.1.layers.0.weight"].shape == (256, 1, 3, 3)
    assert state["layers.4.layers.2.layers.0.weight"].shape == (256, 256, 1, 1)
    assert state["conv_sep.layers.0.weight"].shape == (512, 256, 1, 1)
    assert state["features.layers.0.layers.0.weight"].shape == (512, 1, 7, 7)
    assert state["features.layers.2.weight"].shape == (512, 512)


def test_timm_networks_end_in_an_embedding() -> None:
    pytest.importorskip("timm")
    for name, size in (("mobilenetv3_small_050", (64, 48)), ("vit_tiny_patch16_224", (64, 48))):
        network = build_network(f"timm:{name}", dim=8, channels=1, image_size=size).eval()
        with torch.inference_mode():
            assert network(torch.randn(2, 1, *size)).shape == (2, 8)
    with pytest.raises(KdbiasError, match="resnet18"):
        build_network("timm:resnet18x", dim=8)
