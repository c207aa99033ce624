"""Networks for aligned faces: MobileFaceNet (Chen et al. 2018) and iResNet (Duta et al. 2020).

`mobilefacenet` is the classic one of the distillation papers (1.20 M parameters and 0.22 G multiply-adds
with 512 outputs at 112x112); `mobilefacenet_x2` has a trunk twice as wide (2.06 M, 0.44 G) and is what
insightface calls `mbf`. Their published accuracies differ by points: compare only within one of them.

Of `iresnet18`, `34`, `50` and `100` the stem keeps the resolution, the second convolution of each stage's
first unit halves it, and the embedding is a linear layer on the whole last map.

Modules are named and ordered so that insightface's state dicts load key for key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from kdbias.networks import require_size


class MobileFaceNet(nn.Module):
    """Inverted bottlenecks with linear ends; a global depthwise convolution instead of pooling.

    The trunk has `scale` times 64 and 128 channels, the expansions are the same at any scale.
    """

    def __init__(
        self, scale: int, *, dim: int, channels: int = 3, image_size: tuple[int, int] = (112, 112)
    ) -> None:
        super().__init__()
        narrow, wide, last = 64 * scale, 128 * scale, last_map("mobilefacenet", image_size)
        self.layers = nn.Sequential(
            _convolved(channels, narrow, 3, stride=2),
            # 64 groups at either width: depthwise in the classic network, two channels each in the wide one.
            _convolved(narrow, narrow, 3, groups=64),
            _bottleneck(narrow, narrow, expansion=128, stride=2),
            _residuals(narrow, count=4, expansion=128),
            _bottleneck(narrow, wide, expansion=256, stride=2),
            _residuals(wide, count=6, expansion=256),
            _bottleneck(wide, wide, expansion=512, stride=2),
            _residuals(wide, count=2, expansion=256),
        )
        self.conv_sep = _convolved(wide, 512, 1)
        # One weight for each place of the last map, then a linear layer and batch norm.
        weighed, linear = _linear(512, 512, last, groups=512), nn.Linear(512, dim, bias=False)
        self.features = Layers(weighed, nn.Flatten(), linear, nn.BatchNorm1d(dim))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, dim) of images (b, channels, height, width)."""
        return self.features(self.conv_sep(self.layers(images)))


class Layers(nn.Module):
    """Layers one after another, beside a shortcut where they are `residual`."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the layers make of x, of its shape where they are residual."""
        return x + self.layers(x) if self.residual else self.layers(x)


def _linear(inputs: int, outputs: int, kernel: int | tuple[int, int], groups: int = 1) -> Layers:
    """Convolution and batch norm, no activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
    return Layers(convolution, nn.BatchNorm2d(outputs))


def _convolved(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Layers:
    """Convolution that keeps the size (or halves it), batch norm, PReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return Layers(convolution, nn.BatchNorm2d(outputs), nn.PReLU(outputs))


def _bottleneck(inputs: int, outputs: int, expansion: int, stride: int = 1, residual: bool = False) -> Layers:
    """Widen to `expansion` channels, convolve each alone, project back linearly."""
    widened = _convolved(inputs, expansion, 1)
    alone = _convolved(expansion, expansion, 3, stride, groups=expansion)
    return Layers(widened, alone, _linear(expansion, outputs, 1), residual=residual)


def _residuals(width: int, count: int, expansion: int) -> Layers:
    """Bottlenecks one after another, each beside a shortcut."""
    return Layers(*(_bottleneck(width, width, expansion, residual=True) for _ in range(count)))


def last_map(name: str, image_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the feature map after four convolutions of stride 2."""
    require_size(name, image_size, 16)
    height, width = image_size
    return -(-height // 16), -(-width // 16)


class IResNet(nn.Module):
    """Four stages of residual units at 64, 128, 256 and 512 channels, each halving the map.

    `units` are those of each stage; `dropout` is the fraction of the last map that training sets to zero.
    """

    def __init__(
        self,
        units: Sequence[int],
        *,
        dim: int,
        channels: int = 3,
        image_size: tuple[int, int] = (112, 112),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.layer1 = _stage(64, 64, units[0])
        self.layer2 = _stage(64, 128, units[1])
        self.layer3 = _stage(128, 256, units[2])
        self.layer4 = _stage(256, 512, units[3])
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        height, width = last_map("iresnet", image_size)
        self.fc = nn.Linear(512 * height * width, dim)
        # The scale of the embedding is the loss's business: this batch norm only centres and whitens by
        # coordinate.
        self.features = nn.BatchNorm1d(dim)
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, dim) of images (b, channels, height, width)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        return self.features(self.fc(x))


class Unit(nn.Module):
    """bn, conv, bn, PReLU, conv, bn beside a shortcut; the second convolution has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (b, outputs, height / stride, width / stride) of maps (b, inputs, height, width)."""
        kept = x if self.downsample is None else self.downsample(x)
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + kept


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    """Units after each other; the first halves height and width."""
    first = Unit(inputs, outputs, stride=2)
    return nn.Sequential(first, *(Unit(outputs, outputs, stride=1) for _ in range(units - 1)))


mobilefacenet, mobilefacenet_x2 = partial(MobileFaceNet, 1), partial(MobileFaceNet, 2)
iresnet18, iresnet34, iresnet50, iresnet100 = (
    partial(IResNet, units) for units in ((2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 14, 3), (3, 13, 30, 3))
)
