"""Networks for small pictures: `convnet`, a plain convolutional one (digits, 16x16 to about 64x64), and the
residual `cifar_resnet20` and `cifar_resnet56` (He et al. 2016, section 4.2).

These have 6n + 2 layers: a 3x3 convolution, then n units of two 3x3 convolutions at each of 16, 32 and 64
channels, and the mean over the last map. Shortcuts hold no weights ("option A"): where the map halves they
skip every other pixel and are padded with zeros to the new channels. Modules are named so that published
state dicts load key for key.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from kdbias.errors import KdbiasError
from kdbias.networks import require_size

FEATURES = 64


def convnet(
    *, dim: int, channels: int = 3, image_size: tuple[int, int] = (28, 28), width: int = 32
) -> nn.Sequential:
    """3x3 convolutions of stride 2 with batch norm until the longer side is <= 8; then a linear layer.

    `width` is the number of channels of the first layer; it doubles with each further one, up to 8 x width.
    """
    require_size("convnet", image_size, 8)
    height, breadth = image_size
    features, layers = channels, list[nn.Module]()
    while not layers or max(height, breadth) > 8:
        wide = min(2 * features, 8 * width) if layers else width
        convolution = nn.Conv2d(features, wide, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        features, height, breadth = wide, (height + 1) // 2, (breadth + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features * height * breadth, dim))


class CifarResNet(nn.Module):
    """Three stages of `units` residual units each; the first unit of the second and third halves the map.

    Without `head` the embedding is the pooled map, 64 numbers >= 0.
    """

    def __init__(
        self,
        units: int,
        *,
        dim: int,
        channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        head: bool = True,
    ) -> None:
        super().__init__()
        require_size(f"cifar_resnet{6 * units + 2}", image_size, 8)
        if not head and dim != FEATURES:
            raise KdbiasError(f"the pooled map of a cifar_resnet has {FEATURES} numbers, not {dim}")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, units)
        self.layer2 = _stage(16, 32, units)
        self.layer3 = _stage(32, FEATURES, units)
        self.embedding = nn.Linear(FEATURES, dim) if head else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings (b, dim) of images (b, channels, height, width)."""
        x = functional.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.embedding(x.mean((2, 3)))


class Unit(nn.Module):
    """conv, bn, ReLU, conv, bn beside a shortcut, and a ReLU over both; the first convolution has the stride.

    The zeros stand half before and half after the old channels: the published weights were trained so.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.padding = (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (b, outputs, height / stride, width / stride) of maps (b, inputs, height, width)."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *2 * (self.padding,)))
        return functional.relu(x + y)


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    """Units after each other; the first changes the width."""
    return nn.Sequential(Unit(inputs, outputs), *(Unit(outputs, outputs) for _ in range(units - 1)))


cifar_resnet20, cifar_resnet56 = partial(CifarResNet, 3), partial(CifarResNet, 9)
