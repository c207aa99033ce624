"""MobileFaceNet (Chen et al. 2018), in the two sizes that go by this name.

`mobilefacenet` is the classic one of the distillation papers (1.20 M parameters and 0.22 G multiply-adds
with 512 outputs at 112x112); `mobilefacenet_x2` has a trunk twice as wide (2.06 M, 0.44 G) and is what
insightface calls `mbf`. Their published accuracies differ by points: compare only within one of them.
Modules are named and ordered so that insightface's state dicts load key for key.
"""

from __future__ import annotations

import torch
from torch import nn

from kdbias.errors import KdbiasError


def mobilefacenet(*, dim: int, channels: int = 3, image_size: tuple[int, int] = (112, 112)) -> MobileFaceNet:
    """The classic network: trunk of 64 and 128 channels."""
    return MobileFaceNet(dim, channels, image_size, scale=1)


def mobilefacenet_x2(
    *, dim: int, channels: int = 3, image_size: tuple[int, int] = (112, 112)
) -> MobileFaceNet:
    """insightface's `mbf`: trunk of 128 and 256 channels, the expansions as in the classic one."""
    return MobileFaceNet(dim, channels, image_size, scale=2)


class MobileFaceNet(nn.Module):
    """Inverted bottlenecks with linear ends; a global depthwise convolution instead of pooling."""

    def __init__(self, dim: int, channels: int, image_size: tuple[int, int], scale: int) -> None:
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                Activated(channels, narrow, 3, stride=2),
                # 64 groups at either width: depthwise in the classic network, two channels a group in the
                # wide one.
                Activated(narrow, narrow, 3, groups=64),
                Bottleneck(narrow, narrow, expansion=128, stride=2),
                Residuals(narrow, count=4, expansion=128),
                Bottleneck(narrow, wide, expansion=256, stride=2),
                Residuals(wide, count=6, expansion=256),
                Bottleneck(wide, wide, expansion=512, stride=2),
                Residuals(wide, count=2, expansion=256),
            ]
        )
        self.conv_sep = Activated(wide, 512, 1)
        self.features = Embedding(dim, last_map(image_size, halvings=4, name="mobilefacenet"))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, dim) of images (b, channels, height, width)."""
        x = images
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


class _Layers(nn.Module):
    layers: nn.Sequential

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Linear(_Layers):
    """Convolution and batch norm, no activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, groups=groups, bias=False)
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Activated(_Layers):
    """Convolution that keeps the size (or halves it), batch norm, PReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.layers = nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.PReLU(outputs))


class Bottleneck(_Layers):
    """Widen to `expansion` channels, convolve each alone, project back linearly."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Activated(inputs, expansion, 1),
            Activated(expansion, expansion, 3, stride, groups=expansion),
            Linear(expansion, outputs, 1),
        )


class ResidualBottleneck(Bottleneck):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps of the shape given, (b, channels, height, width)."""
        return x + self.layers(x)


class Residuals(_Layers):
    def __init__(self, width: int, count: int, expansion: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResidualBottleneck(width, width, expansion) for _ in range(count)))


class Embedding(_Layers):
    """One weight for each place of the last map, then a linear layer and batch norm."""

    def __init__(self, dim: int, last: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Linear(512, 512, last, groups=512),
            nn.Flatten(),
            nn.Linear(512, dim, bias=False),
            nn.BatchNorm1d(dim),
        )


def last_map(image_size: tuple[int, int], halvings: int, name: str) -> tuple[int, int]:
    """(height, width) of the feature map after `halvings` convolutions of stride 2."""
    if min(image_size) < 2**halvings:
        raise KdbiasError(f"{name} needs images of at least {2**halvings}x{2**halvings}, not {image_size}")
    height, width = image_size
    for _ in range(halvings):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width
