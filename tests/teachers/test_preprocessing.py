"""Preprocessing against torchvision's presets, closed forms and a float64 reference warp."""

import json
import pickle

import numpy as np
import pytest

from kdbias.errors import KdbiasError
from kdbias.teachers.preprocessing import Preprocessing, load_preprocessing


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(300, 400), (400, 301), (232, 232), (90, 120)])
def test_equals_torchvisions_preset_exactly(shape: tuple[int, int]) -> None:
    import torch
    from PIL import Image
    from torchvision.models import ResNet50_Weights

    image = picture(*shape)
    expected = ResNet50_Weights.IMAGENET1K_V2.transforms()(Image.fromarray(image))
    ours = Preprocessing(size=(224, 224), shorter_side=232)
    got = ours.normalise(torch.from_numpy(ours.apply(image)[None]))[0]
    assert got.shape == (3, 224, 224)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_identity_size_returns_the_pixels() -> None:
    image = picture(16, 12)
    assert np.array_equal(Preprocessing(size=(16, 12)).apply(image), image)


def test_bgr_reverses_channels_and_mean_follows_the_networks_order() -> None:
    import torch

    image = picture(4, 4)
    bgr = Preprocessing(size=(4, 4), color="BGR", mean=(1, 2, 3), std=(2, 4, 8))
    out = bgr.apply(image)
    assert np.array_equal(out, image[:, :, ::-1])
    x = bgr.normalise(torch.from_numpy(out[None])).numpy()[0]
    expected = (image[:, :, ::-1].astype(np.float64) - [1, 2, 3]) / [2, 4, 8]
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(bgr.normalise_array(out[None])[0], x, rtol=1e-6)


def test_grey_and_colour_convert_both_ways() -> None:
    grey = picture(5, 5, 1)
    assert np.array_equal(Preprocessing(size=(5, 5)).apply(grey), np.repeat(grey, 3, axis=2))
    color = picture(5, 5)
    luma = Preprocessing(size=(5, 5), color="L").apply(color)[:, :, 0]
    assert np.abs(luma - color @ np.array([0.299, 0.587, 0.114])).max() < 1.0


def test_affine_against_a_plain_double_loop() -> None:
    image = picture(20, 24)
    matrix = ((1.2163413, -0.0022040, -3.9535463), (0.0022040, 1.2163413, -5.3256050))
    out = Preprocessing(size=(28, 30), affine=matrix, source_size=(20, 24)).apply(image)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for v, u in [(0, 0), (0, 29), (27, 0), (27, 29), (13, 14), (5, 22), (26, 3)]:
        x, y, _ = inverse @ [u, v, 1]
        x0, y0 = int(np.floor(x)), int(np.floor(y))

        def at(row: int, column: int) -> np.ndarray:
            return image[min(max(row, 0), 19), min(max(column, 0), 23)].astype(float)

        top = at(y0, x0) * (1 - (x - x0)) + at(y0, x0 + 1) * (x - x0)
        bottom = at(y0 + 1, x0) * (1 - (x - x0)) + at(y0 + 1, x0 + 1) * (x - x0)
        expected = top * (1 - (y - y0)) + bottom * (y - y0)
        assert np.abs(out[v, u] - expected).max() <= 0.51


def test_affine_refuses_an_image_of_another_size() -> None:
    warp = Preprocessing(size=(8, 8), affine=((1, 0, 0), (0, 1, 0)), source_size=(8, 8))
    with pytest.raises(KdbiasError, match="9x8, the affine of the preprocessing is for 8x8"):
        warp.apply(picture(9, 8))


def test_bilinear_without_antialias_keeps_a_linear_ramp() -> None:
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 4, axis=0)
    out = Preprocessing(size=(4, 30), color="L", antialias=False).apply(ramp)
    assert np.array_equal(out[0, :, 0], np.arange(30) * 8 + 3)


def test_without_antialias_gives_opencvs_pixels() -> None:
    image = np.array([[168, 229, 184, 171], [238, 171, 20, 206], [245, 153, 204, 5]], dtype=np.uint8)[
        :, :, None
    ]
    opencv = {  # cv2.resize(image, (width, height)) of opencv-python 4.x
        (5, 7): [
            [168, 190, 224, 206, 183, 175, 171],
            [196, 199, 205, 162, 123, 161, 185],
            [238, 214, 176, 96, 33, 140, 206],
            [242, 213, 166, 145, 127, 101, 85],
            [245, 212, 159, 178, 190, 76, 5],
        ],
        (2, 3): [[190, 179, 174], [229, 158, 72]],
    }
    for size, pixels in opencv.items():
        out = Preprocessing(size=size, color="L", antialias=False).apply(image)
        assert out[:, :, 0].tolist() == pixels


def test_exact_halving_is_the_rounded_mean_of_four() -> None:
    image = picture(8, 6)
    out = Preprocessing(size=(4, 3), antialias=False).apply(image)
    means = image.reshape(4, 2, 3, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(out, np.floor(means + 0.5))


def test_fast_decode_gives_nearly_the_same_picture_and_is_part_of_the_description() -> None:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture(20, 30)).resize((900, 640), Image.Resampling.BICUBIC).save(stream, "JPEG")
    exact = Preprocessing((64, 64), shorter_side=72)
    fast = Preprocessing((64, 64), shorter_side=72, fast_decode=True)
    assert max(fast.decode(stream.getvalue()).shape) < 900 == max(exact.decode(stream.getvalue()).shape)
    a, b = (p.apply(p.decode(stream.getvalue())).astype(int) for p in (exact, fast))
    assert 0 < np.abs(a - b).mean() < 3
    assert exact.to_dict() != fast.to_dict()
    assert Preprocessing.from_dict(fast.to_dict()) == fast


def test_survives_json_and_pickle() -> None:
    p = Preprocessing(size=(8, 9), color="BGR", mean=(0,), std=(1,), affine=((1, 0, 2), (0, 1, 3)))
    assert Preprocessing.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    assert pickle.loads(pickle.dumps(p)) == p
    assert p.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "size is missing"),
        ({"size": [8]}, r"size is \[8\]"),
        ({"size": [0, 8]}, "0x8"),
        ({"size": [8, 16_385]}, "8x16385, both sides .* at most 16,384"),
        ({"size": [True, True]}, r"size is \[True, True\], should be \[height, width\]"),
        ({"size": [8.5, 8]}, r"size is \[8.5, 8\], should be"),
        ({"size": b"88"}, "size is b'88', should be"),
        ({"size": [8, 8], "source_size": [8, True]}, "source_size is .*True"),
        ({"size": [8, 8], "colour": "RGB"}, "unknown key colour; did you mean 'color'"),
        ({"size": [8, 8], "color": "rgb"}, "'rgb'"),
        ({"size": [8, 8], "std": [1, 0, 1]}, "above 0"),
        ({"size": [8, 8], "mean": [1, 2]}, "should be 3 numbers"),
        ({"size": [8, 8], "mean": "12"}, "mean is '12', should be a number"),
        ({"size": [8, 8], "mean": [float("nan")]}, "mean is nan, should be finite"),
        ({"size": [8, 8], "antialias": "no"}, "antialias is 'no', should be true or false"),
        ({"size": [8, 8], "fast_decode": 1}, "fast_decode is 1, should be true or false"),
        ({"size": [8, 8], "interpolation": "cubic"}, "'cubic'"),
        ({"size": [8, 8], "affine": [[1, 0, 0], [2, 0, 0]]}, "invertible"),
        ({"size": [8, 8], "affine": [[1, 0], [2]]}, "affine is .* should be an invertible"),
        ({"size": [8, 8], "affine": [[True, 0, 0], [0, 1, 0]]}, "affine is .* should be an invertible"),
        ({"size": [8, 8], "affine": [["1", 0, 0], [0, 1, 0]]}, "affine is .* should be an invertible"),
        ({"size": [8, 8], "shorter_side": 7}, "shorter_side is 7"),
        ({"size": [8, 8], "shorter_side": 8.5}, "shorter_side is 8.5, should be a whole number"),
    ],
)
def test_bad_fields_are_refused_by_value(fields: dict, message: str) -> None:
    with pytest.raises(KdbiasError, match=message):
        Preprocessing.from_dict(fields)


def test_toml_side_car(tmp_path) -> None:
    file = tmp_path / "teacher.toml"
    file.write_text('[preprocessing]\nsize = [256, 128]\ncolor = "BGR"\nmean = [0.0]\nstd = [1.0]\n')
    assert load_preprocessing(str(file)) == Preprocessing(
        (256, 128), color="BGR", mean=(0, 0, 0), std=(1, 1, 1)
    )
    with pytest.raises(KdbiasError, match="does not exist"):
        load_preprocessing(str(tmp_path / "none.toml"))
    file.write_text("[preprocessing]\ncolor = 'RGB'\n")
    with pytest.raises(KdbiasError, match=r"teacher.toml: .*size"):
        load_preprocessing(str(file))


def test_numbers_may_be_arrays_and_are_kept_as_floats() -> None:
    given = Preprocessing((8, 8), mean=np.array([1, 2, 3]), std=np.float32(2))
    assert given == Preprocessing((8, 8), mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0))
    assert (
        json.dumps([given.to_dict()["mean"], given.to_dict()["std"]]) == "[[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]"
    )


def test_the_dictionary_is_what_tables_have_recorded() -> None:
    warp = Preprocessing((8, 6), affine=((1, 0, 0.5), (0, 1, 0)), source_size=(9, 9), mean=(127.5,))
    affine = {"affine": [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]], "source_size": [9, 9]}
    mean = {"mean": [127.5] * 3, "std": [58.395, 57.12, 57.375]}
    expected = {
        "size": [8, 6],
        "color": "RGB",
        "interpolation": "bilinear",
        "antialias": True,
        **mean,
        **affine,
    }
    assert warp.to_dict() == expected
    assert Preprocessing.from_dict(expected) == warp
    assert Preprocessing((8, 8), fast_decode=True).to_dict()["fast_decode"] is True
