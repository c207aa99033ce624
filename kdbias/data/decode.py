"""Encoded images to uint8 arrays, with every image that should not be trusted refused.

Decisions, the same for every source and teacher:

- EXIF orientation is applied: the network sees the picture upright, as people do. Broken EXIF is ignored.
- Transparency is dropped, not blended (stored colours are kept, as torchvision's loader does).
- 16-bit grey is scaled to 8 bits (Pillow alone would clip it); CMYK, palette, 1-bit and YCbCr are converted.
- Of animations and multi-page files the first frame counts.
- A truncated file is refused, never padded with grey.
- A side of more than 65,535 pixels, or more than 89,478,485 pixels in all, are refused before decoding. So is
  an image that would take more pixels than that once its shorter side is scaled to a network's.
- Whatever the decoder raises, want of memory included, makes one unreadable image.
"""

import io
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from kdbias.errors import KdbiasError
from kdbias.wording import counted

MAX_PIXELS = 89_478_485
"""Images with more pixels (256 MiB as RGB) are refused as decompression bombs before they are decoded."""
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")  # brands, at the file's begin
MAX_SIDE = 65_535
"""Images with a longer side are refused likewise: no JPEG has one."""

Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN
)
"""Plain raster formats, as far as this Pillow reads them. Others (EPS) may start outside programs."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the picture upright; exif_transpose fails where other EXIF is broken."""
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colour
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: the first column and row of each pass, and the steps to the next ones."""
_PNG_PIECE = 1 << 20
_ZEROS = bytes(64)
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
        max_pixels: limit on width x height; the limit on each of them is `MAX_SIDE`.
        at_least: (height, width) that will do. A larger JPEG is then decoded at 1/2, 1/4 or 1/8 of its size,
            as small as both sides allow: several times faster, with slightly other pixels than decoding it
            whole and shrinking it, so this is part of a preprocessing.

    Returns:
        uint8 of shape (height, width, channels), C-contiguous.

    Raises:
        UnreadableImage: not an image, truncated, damaged, without pixels, or over a limit.
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
            check_size(*image.size, max_pixels)
            _draft(image, color, at_least)
            image.load()
            _check_whole(data, image)
            turn = _TURNS.get(_orientation(image))
            return _to_array(image if turn is None else image.transpose(turn), color)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
            raise UnreadableImage("a photograph as HEIF (.heic), which is not read: make it a .jpg") from None
        raise UnreadableImage(f"not an image: {counted(len(data), 'byte')} of no known format") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"too many pixels: over the limit of {max_pixels:,}") from None
    except MemoryError:
        raise UnreadableImage(f"out of memory while decoding {counted(len(data), 'byte')}") from None
    except Exception as error:  # Pillow's plug-ins raise almost anything on damaged files
        text = str(error) or type(error).__name__
        reason = text if "truncated" in text.lower() else f"damaged: {text}"
        raise UnreadableImage(reason) from None


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> None:
    """Raise UnreadableImage for an image without pixels, or with a side or an area over the limits."""
    if width < 1 or height < 1:
        raise UnreadableImage(f"zero size: {width} x {height} pixels")
    if width * height > max_pixels:
        raise UnreadableImage(f"too many pixels: {width} x {height}, limit {max_pixels:,}")
    if max(width, height) > max_side:
        raise UnreadableImage(f"too long: {width} x {height} pixels, limit {max_side:,} a side")


def _check_whole(data: bytes, image: Image.Image) -> None:
    """Refuse pixels that end early where Pillow makes some up: it leaves the rest of a PNG black, and decodes
    the zeros that a crash or a full disk leaves in a JPEG."""
    if image.format == "PNG":
        _check_png(data, image)
    elif image.format == "JPEG" and data.endswith(_ZEROS):
        written = data.rstrip(b"\0")
        if written.rfind(b"\xff\xd9") < written.rfind(b"\xff\xda"):  # no end behind the last scan's start
            raise UnreadableImage(
                f"truncated: its last {counted(len(data) - len(written), 'byte', 'is/are')} zeros"
            )


def _check_png(data: bytes, image: Image.Image) -> None:
    """Refuse a PNG whose last rows are blank because its data ends too early."""
    width, height = image.size
    if np.asarray(image.crop((0, max(0, height - 2), width, height))).any():
        return
    depth, color, interlaced = data[24], data[25], data[28]
    bits = depth * _PNG_CHANNELS[color]
    missing = sum(
        rows * (1 + -(-columns * bits // 8))
        for x, y, dx, dy in (_PASSES if interlaced else [(0, 0, 1, 1)])
        if (columns := -(-(width - x) // dx)) > 0 and (rows := -(-(height - y) // dy)) > 0
    )
    stream, at = zlib.decompressobj(), 8
    while missing > 0 and at < len(data) and not stream.eof:
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        piece = data[at + 8 : end] if data[at + 4 : at + 8] == b"IDAT" else b""
        while piece and missing > 0:
            missing -= len(stream.decompress(piece, _PNG_PIECE))
            piece = stream.unconsumed_tail
        at = end + 4
    if missing > 0:
        raise UnreadableImage(f"truncated: {counted(missing, 'byte')} of pixels are missing")


def _draft(image: Image.Image, color: str, at_least: tuple[int, int] | None) -> None:
    """Have a JPEG decoded at a smaller scale, and without the detour over RGB where only its luma is
    wanted."""
    if image.format != "JPEG":
        return
    width, height = image.size
    if at_least is not None:
        height, width = at_least if _orientation(image) < 5 else at_least[::-1]  # 5 - 8 lie on their side
    image.draft("L" if color == "L" and image.mode == "RGB" else image.mode, (width, height))


def upright_size(data: bytes, otherwise: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image file, upright, by its header; ``otherwise`` where that says none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            return (height, width) if _orientation(image) < 5 else (width, height)
    except Exception:  # as of `decode_image`; its pixels were read all the same
        return otherwise


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _to_array(image: Image.Image, color: str) -> np.ndarray:
    """Pixels, uint8 (height, width, channels) in the colours asked for; deeper integers are scaled."""
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
    """Integer pixels 0..65535 as uint8, rounded."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise UnreadableImage(f"integer pixels from {low} to {high}: more than 16 bits")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _convert_array(array: np.ndarray, color: str, max_pixels: int) -> np.ndarray:
    """A uint8 array (height, width[, 1, 3 or 4]) in the colours asked for."""
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        raise UnreadableImage(
            f"array of {array.dtype} {array.shape} is no uint8 image (height, width[, 1, 3 or 4])"
        )
    check_size(array.shape[1], array.shape[0], max_pixels)
    array = array[:, :, None] if array.ndim == 2 else array[:, :, :3]
    if color == "RGB" and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif color == "L" and array.shape[2] == 3:
        array = np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))[:, :, None]
    return np.ascontiguousarray(array)
