"""The six numbers about an image, against what its pixels are."""

import io

import numpy as np
import pytest
from PIL import Image

from kdbias.data.image_facts import facts_of
from kdbias.loading import prepare_image
from kdbias.tables.columns import IMAGE
from kdbias.teachers.preprocessing import Preprocessing


def facts(pixels: np.ndarray, data: bytes | None = None) -> dict[str, float]:
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return dict(zip((n.removeprefix("image_") for n in IMAGE), facts_of(pixels, data).tolist(), strict=True))


def test_an_image_of_one_colour_has_its_level_and_no_contrast():
    found = facts(np.full((30, 40, 3), (255, 0, 51), np.uint8))
    assert (found["width"], found["height"]) == (40, 30)
    assert found["brightness"] == pytest.approx(0.299 + 0.114 * 0.2, abs=1e-5)  # BT.601
    assert (found["darkest"], found["brightest"]) == (0, 1)  # of the channels, not of the luma
    assert found["contrast"] == pytest.approx(0, abs=2e-4)


def test_contrast_is_that_of_the_channel_that_varies_most():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 2] = 200  # blue stripes: hardly seen in the luma
    found = facts(pixels)
    assert found["contrast"] == pytest.approx(100 / 255, rel=1e-5)
    assert found["brightness"] == pytest.approx(0.114 * 100 / 255, rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 3)])
def test_percentiles_ignore_less_than_a_hundredth_of_the_pixels(shape):
    pixels = np.full(shape, 100, np.uint8)
    few, many = pixels.copy(), pixels.copy()
    few.reshape(64 * 64, -1)[:40] = 255
    many.reshape(64 * 64, -1)[:42] = 255
    assert facts(few)["brightest"] == pytest.approx(100 / 255)
    assert facts(many)["brightest"] == 1
    assert facts(255 - few)["darkest"] == pytest.approx(155 / 255)
    assert facts(255 - many)["darkest"] == 0


def test_of_a_large_image_an_even_grid_is_looked_at():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1000, 700, 3), dtype=np.uint8)
    found = facts(pixels)
    assert found["brightness"] == pytest.approx(pixels.mean() / 255, abs=0.01)
    assert found["contrast"] == pytest.approx(pixels[:, :, 0].std() / 255, abs=0.01)
    assert (found["width"], found["height"]) == (700, 1000)


def test_one_pixel():
    assert facts(np.full((1, 1, 3), 51, np.uint8)) == pytest.approx(
        {"width": 1, "height": 1, "brightness": 0.2, "darkest": 0.2, "brightest": 0.2, "contrast": 0},
        abs=1e-6,
    )


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_was_decoded_small_has_its_own_size(orientation):
    image, exif = Image.new("RGB", (640, 320), (10, 200, 30)), Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    row = np.empty(len(IMAGE), np.float32)
    prepare_image(buffer.getvalue(), [Preprocessing(size=(16, 16), fast_decode=True)], row)
    assert row[:2].tolist() == ([640, 320] if orientation == 1 else [320, 640])
