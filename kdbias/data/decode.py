"""Encoded images to uint8 arrays, with every image that should not be trusted refused.

Decisions, the same for every source and teacher:

- EXIF orientation is applied: the network sees the picture upright, as people do. Broken EXIF is ignored.
- Transparency is dropped, not blended (stored colours are kept, as torchvision's loader does).
- 16-bit grey is scaled to 8 bits (Pillow alone would clip it); CMYK, palette, 1-bit and YCbCr are converted.
- Of animations and multi-page files the first frame counts.
- A truncated file is refused, never padded with grey.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from kdbias.errors import KdbiasError

MAX_PIXELS = 89_478_485
"""Images with more pixels (256 MiB as RGB) are refused as decompression bombs before they are decoded."""

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
"""Plain raster formats, as far as this Pillow reads them. Others (EPS) may start outside programs."""

_ORIENTATION = 0x0112
_REASON_LENGTH = 200
_CHANNELS = {"RGB": 3, "L": 1}

# Pillow would warn at half of its own limit; the limit here is checked from the header, before decoding.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# One warning an image would bury a run's output; such EXIF is ignored anyway.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", category=UserWarning)


class UnreadableImage(KdbiasError):  # noqa: N818 - an image's state, not a programming error
    """One image cannot be read; the others are not affected.

    Attributes:
        reason: short text on one line, for the failures table.
    """

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())[:_REASON_LENGTH]
        super().__init__(self.reason)


def decode_image(
    data: bytes | np.ndarray,
    color: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    at_least: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decode one image.

    Args:
        data: bytes of an image file, or a uint8 array (height, width) or (height, width, 1, 3 or 4 channels).
        color: "RGB" (3 channels) or "L" (1 channel, luma of ITU-R BT.601).
        max_pixels: limit on width x height.
        at_least: (height, width) that will do. A larger JPEG is then decoded at 1/2, 1/4 or 1/8 of its size,
            as small as both sides allow: several times faster, with slightly other pixels than decoding it
            whole and shrinking it, so this is part of a preprocessing.

    Returns:
        uint8 of shape (height, width, channels), C-contiguous.

    Raises:
        UnreadableImage: not an image, truncated, damaged, without pixels, or over the limit.
    """
    if color not in _CHANNELS:
        raise KdbiasError(f"color {color!r} is unknown; use RGB or L")
    if isinstance(data, np.ndarray):
        return _convert_array(data, color, max_pixels)
    if not data:
        raise UnreadableImage("empty: 0 bytes")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have asked Pillow to pad truncated files
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            _draft(image, color, at_least)
            image.load()
            return _to_array(_upright(image), color)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"not an image: {len(data):,} bytes of no known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"too many pixels: over the limit of {max_pixels:,}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise almost anything on damaged files
        text = str(error) or type(error).__name__
        reason = text if "truncated" in text.lower() else f"damaged: {text}"
        raise UnreadableImage(reason) from None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise UnreadableImage(f"zero size: {width} x {height} pixels")
    if width * height > max_pixels:
        raise UnreadableImage(f"too many pixels: {width} x {height}, limit {max_pixels:,}")


def _draft(image: Image.Image, color: str, at_least: tuple[int, int] | None) -> None:
    """Have a JPEG decoded at a smaller scale, and without the detour over RGB where only its luma is
    wanted."""
    if image.format != "JPEG":
        return
    width, height = image.size
    if at_least is not None:
        height, width = at_least if _orientation(image) < 5 else at_least[::-1]  # 5 - 8 lie on their side
    image.draft("L" if color == "L" and image.mode == "RGB" else image.mode, (width, height))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _to_array(image: Image.Image, color: str) -> np.ndarray:
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B", ...
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "F":
        raise UnreadableImage("floating-point pixels: convert them to 8 bits first")
    if image.mode in ("P", "PA") and color == "L":
        image = image.convert("RGB")
    if image.mode != color:
        image = image.convert(color)
    array = np.array(image)
    return array[:, :, None] if array.ndim == 2 else array


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(f"integer pixels from {low} to {high}: more than 16 bits")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _convert_array(array: np.ndarray, color: str, max_pixels: int) -> np.ndarray:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (1, 3, 4))
    ):
        raise UnreadableImage(
            f"array of {array.dtype} {array.shape} is no uint8 image (height, width[, 1, 3 or 4])"
        )
    _check_size(array.shape[1], array.shape[0], max_pixels)
    array = array[:, :, None] if array.ndim == 2 else array[:, :, :3]
    if color == "RGB" and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif color == "L" and array.shape[2] == 3:
        array = np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))[:, :, None]
    return np.ascontiguousarray(array)
