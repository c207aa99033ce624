"""A small plain convolutional network for small pictures (digits, 16x16 to about 64x64)."""

from __future__ import annotations

from torch import nn

from kdbias.errors import KdbiasError


def convnet(
    *, dim: int, channels: int = 3, image_size: tuple[int, int] = (28, 28), width: int = 32
) -> nn.Sequential:
    """3x3 convolutions of stride 2 with batch norm until the longer side is <= 8; then a linear layer.

    `width` is the number of channels of the first layer; it doubles with each further one, up to 8 x width.
    """
    height, breadth = image_size
    if min(height, breadth) < 8:
        raise KdbiasError(f"convnet needs images of at least 8x8 pixels, not {height}x{breadth}")
    features, layers = channels, list[nn.Module]()
    while not layers or max(height, breadth) > 8:
        wide = min(2 * features, 8 * width) if layers else width
        layers += _block(features, wide)
        features, height, breadth = wide, (height + 1) // 2, (breadth + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features * height * breadth, dim))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """Layers that halve height and width."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
