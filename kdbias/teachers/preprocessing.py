"""Preprocessing as data: what happens to an image between decoding and the network.

A teacher (and a trained student) carries one `Preprocessing`. It is printed, stored in the embedding table
and part of the fingerprint, because another interpolation or colour order gives subtly different embeddings.
The work is split where it is cheapest: `apply` runs in decode workers and returns uint8 (a quarter of the
bytes of float32 to move), `normalise` runs on the device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.kinds import LARGEST_SIDE, number_of, size_of
from kdbias.settings import Settings, option
from kdbias.tables.documents import read_toml
from kdbias.teachers.warp import Matrix, resize_at_centres, warp_affine

if TYPE_CHECKING:
    import torch

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def _matrix(value: Any) -> Matrix:
    """An invertible 2x3 matrix; ValueError for anything else."""
    try:
        (a, b, c), (d, e, f) = ([number_of(float, number) for number in row] for row in value)
    except (TypeError, ValueError):
        a = b = c = d = e = f = 0.0
    if abs(a * e - b * d) < 1e-9:
        raise ValueError(f"is {value!r}, should be an invertible 2x3 matrix")
    return (float(a), float(b), float(c)), (float(d), float(e), float(f))


@dataclass(frozen=True)
class Preprocessing(Settings):
    """Geometry, colour order and normalisation of a network's input.

    Attributes:
        size: (height, width) of the network's input, in pixels.
        color: channel order the network expects: "RGB", "BGR" or "L" (one grey channel, ITU-R 601 luma).
        interpolation: "nearest", "bilinear", "bicubic", "lanczos" or "box": Pillow's filters.
        antialias: widen the filter when shrinking (as Pillow and torchvision do); False resizes as OpenCV
            does, to the bit, and needs interpolation "bilinear".
        mean, std: per channel in the order of `color`, in units of 0-255: the input is (pixel - mean) / std.
        shorter_side: scale the shorter side to this many pixels, then cut `size` out of the centre; None
            resizes straight to `size`, without keeping the aspect ratio.
        affine: 2x3 matrix that maps source (x, y, 1) to target coordinates, sampled bilinearly with borders
            replicated, instead of resizing; pixel centres lie at integers, as in OpenCV.
        source_size: (height, width) the affine is meant for; images of another size are refused.
        fast_decode: let the decoder shrink JPEGs by 2, 4 or 8 where that leaves twice the size to resize to:
            several times faster on large photographs, with slightly other pixels.
    """

    name = "preprocessing"

    size: tuple[int, int] = option(parse=size_of)
    color: str = option("RGB", choices=("RGB", "BGR", "L"))
    interpolation: str = option("bilinear", choices=INTERPOLATIONS)
    antialias: bool = option(True)
    mean: tuple[float, ...] = option(IMAGENET_MEAN)
    std: tuple[float, ...] = option(IMAGENET_STD, above=0)
    shorter_side: int | None = option(None, least=1, most=LARGEST_SIDE)
    affine: tuple[tuple[float, float, float], tuple[float, float, float]] | None = option(None, parse=_matrix)
    source_size: tuple[int, int] | None = option(None, parse=size_of)
    fast_decode: bool = option(False)

    def check(self) -> None:
        """Spread mean and std over the channels; refuse steps that contradict each other."""
        for name in ("mean", "std"):
            object.__setattr__(self, name, self._per_channel(name))
        if not self.antialias and self.interpolation != "bilinear":
            raise KdbiasError(f"preprocessing: antialias = false needs bilinear, not {self.interpolation!r}")
        if self.affine is not None and self.shorter_side is not None:
            raise KdbiasError("preprocessing: give affine or shorter_side, not both")
        if self.shorter_side is not None and self.shorter_side < min(self.size):
            raise KdbiasError(
                f"preprocessing: shorter_side is {self.shorter_side}, too small to cut out {self.size}"
            )

    def _per_channel(self, name: str) -> tuple[float, ...]:
        given: tuple[float, ...] = getattr(self, name)
        values = tuple(map(float, given)) * (self.channels if len(given) == 1 else 1)
        if self.channels == 1 and values in (IMAGENET_MEAN, IMAGENET_STD):
            # ImageNet's defaults on a grey network: their mean over the channels.
            values = (sum(values) / 3,)
        if len(values) != self.channels:
            raise KdbiasError(f"preprocessing: {name} is {given}, should be {self.channels} numbers (0-255)")
        return values

    @property
    def channels(self) -> int:
        """1 for grey images, else 3."""
        return 1 if self.color == "L" else 3

    @property
    def decode_color(self) -> str:
        """Colour to decode images in before `apply`: "RGB" or "L"."""
        return "L" if self.color == "L" else "RGB"

    def decode(self, data: bytes | np.ndarray) -> np.ndarray:
        """Bytes of an image file, or pixels -> uint8 (H, W, c) for `apply`.

        Raises `kdbias.data.decode.UnreadableImage` for anything that should not be trusted as an image.
        """
        from kdbias.data.decode import decode_image

        enough = None
        if self.fast_decode and self.affine is None:
            height, width = self.size if self.shorter_side is None else (self.shorter_side,) * 2
            enough = (2 * height, 2 * width)
        return decode_image(data, self.decode_color, at_least=enough)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 1 or 3; RGB) -> uint8 (h, w, c), contiguous, in the network's colour order.

        Raises KdbiasError where the image does not fit (wrong channel count, affine for another size, a crop
        larger than the scaled image), UnreadableImage where scaling its shorter side takes too many pixels.
        """
        image = self._colored(image)
        if self.affine is not None:
            image = self._warped(image)
        elif self.shorter_side is not None:
            image = self._cropped(image)
        else:
            image = self._resized(image, self.size)
        if self.color == "BGR":
            image = image[:, :, ::-1]
        return np.ascontiguousarray(image)

    def normalise(
        self, batch: torch.Tensor, dtype: torch.dtype | None = None, channels_last: bool = False
    ) -> torch.Tensor:
        """uint8 (b, h, w, c) on any device -> float (b, c, h, w) there; float32 unless `dtype` is given."""
        import torch

        mean, scale = _constants(self.mean, self.std, batch.device)
        x = batch.permute(0, 3, 1, 2).to(torch.float32).sub_(mean).mul_(scale)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return x.to(dtype or torch.float32).contiguous(memory_format=layout)

    def normalise_array(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (b, h, w, c) -> contiguous float32 (b, c, h, w), for back-ends that run without torch."""
        x = batch.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        x -= np.asarray(self.mean, np.float32)[:, None, None]
        x *= (1.0 / np.asarray(self.std)).astype(np.float32)[:, None, None]
        return x

    def to_dict(self) -> dict[str, Any]:
        """JSON- and TOML-ready fields; those that are unset are left out."""
        idle = {"fast_decode"} if not self.fast_decode else set()
        return {k: v for k, v in self.record().items() if v is not None and k not in idle}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`; unknown or missing keys are refused by name."""
        return cls.of(fields)

    def describe(self) -> str:
        """One line for people."""
        h, w = self.size
        if self.affine is not None:
            how = f"affine warp to {h}x{w}"
        elif self.shorter_side is not None:
            how = f"shorter side to {self.shorter_side}, centre {h}x{w}"
        else:
            how = f"resize to {h}x{w}"
        smooth = "" if self.antialias else " without antialias"
        smooth += ", fast decode" if self.fast_decode else ""
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.color} {how} (h x w), {self.interpolation}{smooth}, mean {mean}, std {std} (of 0-255)"

    def _colored(self, image: np.ndarray) -> np.ndarray:
        if image.ndim == 2:
            image = image[:, :, None]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
            raise KdbiasError(
                f"image is {image.dtype} {image.shape}, should be uint8 (height, width, 1 or 3)"
            )
        if image.shape[2] == self.channels:
            return image
        if self.color == "L":
            from PIL import Image

            return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
        return np.repeat(image, 3, axis=2)

    def _resized(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if image.shape[:2] == size:
            return image
        if not self.antialias:
            return resize_at_centres(image, size)
        from PIL import Image

        height, width = size
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image))
        filters = Image.Resampling
        resized = picture.resize((width, height), getattr(filters, self.interpolation.upper()))
        return np.asarray(resized).reshape(height, width, image.shape[2])

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        # The long side is truncated and the margin rounded as torchvision does, so that its published weights
        # see the very pixels that they were validated on.
        from kdbias.data.decode import check_size

        assert self.shorter_side is not None
        height, width = image.shape[:2]
        longer = int(self.shorter_side * max(height, width) / min(height, width))
        scaled = (self.shorter_side, longer) if height <= width else (longer, self.shorter_side)
        h, w = self.size
        check_size(longer, self.shorter_side, max_side=longer)
        if scaled[0] < h or scaled[1] < w:
            raise KdbiasError(
                f"image of {height}x{width} scaled to {scaled[0]}x{scaled[1]} is smaller than {h}x{w}"
            )
        top, left = round((scaled[0] - h) / 2.0), round((scaled[1] - w) / 2.0)
        return self._resized(image, scaled)[top : top + h, left : left + w]

    def _warped(self, image: np.ndarray) -> np.ndarray:
        assert self.affine is not None
        height, width = image.shape[:2]
        if self.source_size is not None and (height, width) != self.source_size:
            h, w = self.source_size
            raise KdbiasError(f"image is {height}x{width}, the affine of the preprocessing is for {h}x{w}")
        return warp_affine(image, self.size, self.affine)


def load_preprocessing(path: str | os.PathLike[str]) -> Preprocessing:
    """Read the fields of a `Preprocessing` from the table [preprocessing] of a TOML file."""
    if not os.path.exists(path):
        raise KdbiasError(f"{path} does not exist; it should hold a [preprocessing] table")
    fields = read_toml(path).get("preprocessing")
    if not isinstance(fields, dict):
        raise KdbiasError(f"{path} has no [preprocessing] table")
    try:
        return Preprocessing.of(fields)
    except KdbiasError as error:
        raise KdbiasError(f"{path}: {error}") from None


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / std, float32 (1, channels, 1, 1)."""
    # Cached: a fresh tensor would cost one synchronising copy to the device for every batch.
    import torch

    shape = (1, len(mean), 1, 1)
    to = {"dtype": torch.float32, "device": device}
    return torch.tensor(mean, **to).view(shape), (1.0 / torch.tensor(std, **to)).view(shape)  # type: ignore[arg-type]
