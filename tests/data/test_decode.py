"""Decoding: every way an image can be wrong is refused, every odd but valid one is converted."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngImageFile

from kdbias.data.decode import MAX_PIXELS, UnreadableImage, decode_image
from kdbias.teachers.preprocessing import Preprocessing


def encoded(array: np.ndarray, kind: str = "PNG", mode: str | None = None, **more) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)


def test_rgb_png_is_exact_and_contiguous(picture):
    out = decode_image(encoded(picture))
    np.testing.assert_array_equal(out, picture)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_grey_to_rgb_repeats_and_rgb_to_grey_is_luma(picture):
    grey = picture[:, :, 0]
    np.testing.assert_array_equal(decode_image(encoded(grey)), np.repeat(grey[:, :, None], 3, 2))
    luma = decode_image(encoded(picture), "L")
    assert luma.shape == (20, 30, 1)
    assert np.abs(luma[:, :, 0] - picture @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats(kind):
    flat = np.full((8, 9, 3), (200, 30, 90), np.uint8)
    assert np.abs(decode_image(encoded(flat, kind)).astype(int) - flat).max() <= 6


def test_palette_with_transparency_keeps_stored_colours():
    image = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (4, 2)), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    assert decode_image(buffer.getvalue())[0, :2].tolist() == [[10, 20, 30], [200, 100, 50]]


def test_alpha_is_dropped_not_blended(picture):
    rgba = np.dstack([picture, np.zeros((20, 30), np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(rgba)), picture)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decode_image(encoded(deep), "L")[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_and_one_bit():
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    assert np.abs(decode_image(encoded(red, "TIFF", "CMYK")).astype(int) - red).max() <= 2
    bits = np.array([[0, 255], [255, 0]], np.uint8)
    assert decode_image(encoded(bits, mode="1"), "L")[:, :, 0].tolist() == bits.tolist()


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "PNG", exif=exif)
    out = decode_image(data)
    np.testing.assert_array_equal(out, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    if orientation == 6:  # turned by 90 degrees: the stored left column is the top row seen from the right
        np.testing.assert_array_equal(out, np.rot90(picture, -1))


@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_at_a_smaller_scale(orientation):
    tall = np.tile(np.linspace(0, 255, 400).astype(np.uint8)[:, None, None], (1, 128, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(tall[:, ::-1] if orientation == 1 else tall, "JPEG", exif=exif, quality=95)
    whole = decode_image(data)
    height, width = whole.shape[:2]
    small = decode_image(data, at_least=(height // 2 - 3, width // 2 - 3))
    assert small.shape == (height // 2, width // 2, 3)  # half the size, not a quarter
    means = whole.astype(float).reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() < 4
    assert decode_image(data, at_least=(height, width)).shape == whole.shape
    assert decode_image(data, "L", at_least=(10, 10)).shape[2] == 1
    assert decode_image(encoded(tall), at_least=(10, 10)).shape == tall.shape  # a PNG stays whole


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(picture):
    data = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    assert decode_image(data).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("left", [0.97, 0.5, 0.02])
def test_truncated_files_are_refused(picture, kind, left):
    data = encoded(np.tile(picture, (4, 4, 1)), kind)
    with pytest.raises(UnreadableImage):
        decode_image(data[: int(len(data) * left)])


def test_a_jpeg_whose_end_is_zeros_is_truncated(picture):
    data = encoded(np.tile(picture, (4, 4, 1)), "JPEG")
    with pytest.raises(UnreadableImage, match=r"truncated: its last [\d,]+ bytes are zeros"):
        decode_image(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    np.testing.assert_array_equal(decode_image(data + bytes(1000)), decode_image(data))


def test_truncated_stays_refused_when_another_library_asks_pillow_to_pad(picture, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(np.tile(picture, (4, 4, 1)), "JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff\xd8\xff\xe0", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 500]
)
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UnreadableImage):
        decode_image(data)


def bomb(width: int = 89_478_485, height: int = 1, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a few bytes that says it is as large; chunks come before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return assembled([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")])


def assembled(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    checked = [struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((60_000, 60_000), "too many pixels: "),
        ((89_478_485, 1), "too long: 89478485 x 1 pixels, limit 65,535 a side"),
        ((1, 65_536), "too long: 1 x 65536 pixels, limit 65,535 a side"),
        ((1, 65_535), "truncated"),
        ((2**31 - 1, 2**31 - 1), "too many pixels"),
    ],
)
def test_bombs_are_refused_from_their_header(size, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(bomb(*size))
    assert MAX_PIXELS < 60_000 * 60_000


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (19, 2), (33, 40)])
def test_a_png_with_too_few_pixels_is_truncated_and_a_black_one_is_not(mode, size, interlace):
    chunks = {}
    data = encoded(
        np.zeros(size[::-1], np.uint8) if mode != "I;16" else np.zeros(size[::-1], np.uint16),
        "PNG",
        None if mode == "I;16" else mode,
    )
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += 12 + length
    header = chunks[b"IHDR"][:12] + bytes([interlace])
    between = {name: body for name, body in chunks.items() if name not in (b"IHDR", b"IDAT", b"IEND")}
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[header[9]]
    starts = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    raw = 0
    for x, y, dx, dy in starts if interlace else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, size[0], dx)), len(range(y, size[1], dy))
        raw += rows * (1 + (columns * bits + 7) // 8) if columns else 0

    def png(pixels: int) -> bytes:
        parts = [(b"IHDR", header), *between.items(), (b"IDAT", zlib.compress(bytes(pixels))), (b"IEND", b"")]
        return assembled(parts)

    assert not decode_image(png(raw)).any()
    for short in {1, max(1, raw // 2), raw}:
        with pytest.raises(UnreadableImage):
            decode_image(png(raw - short))


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt"])
def test_bombs_in_what_goes_with_an_image(name):
    packed = zlib.compress(bytes(1 << 28))
    with pytest.raises(UnreadableImage, match="too large"):
        decode_image(bomb(8, 8, (name, b"x\0\0" + packed)))


def test_a_strip_that_scaling_would_blow_up_is_one_unreadable_image():
    strip = np.zeros((2, 50_000, 3), np.uint8)
    narrow = Preprocessing(size=(8, 8), shorter_side=8)
    assert narrow.apply(decode_image(strip)).shape == (8, 8, 3)
    with pytest.raises(UnreadableImage, match=r"too many pixels: 5600000 x 224, limit 89,478,485"):
        Preprocessing(size=(224, 224), shorter_side=224).apply(decode_image(strip))


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), struct.error("short"), OverflowError()]
)
def test_whatever_a_decoder_raises_is_one_unreadable_image(picture, monkeypatch, error):
    def load(*args, **more):
        raise error

    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(UnreadableImage, match=r"out of memory while decoding [\d,]+ bytes|damaged: "):
        decode_image(encoded(picture))


def test_pixel_limit_is_exact(picture):
    assert decode_image(encoded(picture), max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(UnreadableImage, match="30 x 20, limit 599"):
        decode_image(encoded(picture), max_pixels=599)


def test_arrays(picture):
    np.testing.assert_array_equal(decode_image(picture), picture)
    assert decode_image(picture[:, :, :1]).shape == (20, 30, 3)
    assert decode_image(picture[:, :, 0], "L").shape == (20, 30, 1)
    np.testing.assert_array_equal(decode_image(picture, "L"), decode_image(encoded(picture), "L"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_arrays_that_are_no_images_are_refused(array):
    with pytest.raises(UnreadableImage):
        decode_image(array)


def test_error_survives_pickling_between_workers():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableImage("truncated")))
    assert error.reason == "truncated"
