"""iResNet (Duta et al. 2020) as used for face recognition: `iresnet18`, `34`, `50` and `100`.

The stem keeps the resolution, the second convolution of each stage's first unit halves it, and the embedding
is a linear layer on the whole last map. Modules are named so that insightface's state dicts load key for
key.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kdbias.networks.mobilefacenet import last_map

_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}


def _builder(depth: int) -> Callable[..., IResNet]:
    """What builds the network of this depth."""

    def build(
        *, dim: int, channels: int = 3, image_size: tuple[int, int] = (112, 112), dropout: float = 0.0
    ) -> IResNet:
        """iResNet of this depth; `dropout` is the fraction of the last map that training sets to zero."""
        return IResNet(_DEPTHS[depth], dim, channels, image_size, dropout)

    return build


class IResNet(nn.Module):
    """Four stages of residual units at 64, 128, 256 and 512 channels, each halving the map."""

    def __init__(
        self,
        units: tuple[int, int, int, int],
        dim: int,
        channels: int,
        image_size: tuple[int, int],
        dropout: float,
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
        height, width = last_map(image_size, halvings=4, name="iresnet")
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


iresnet18, iresnet34, iresnet50, iresnet100 = (_builder(depth) for depth in _DEPTHS)
