"""Tars, RecordIO and images changed at random: read right, refused in one line, or unreadable images.

Every input follows from its number, so a failing one can be made again. ``KDBIAS_FUZZ`` sets how many inputs
each test takes.
"""

import contextlib
import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.errors import KdbiasError

COUNT = int(os.environ.get("KDBIAS_FUZZ", "60"))
SAMPLES = 12
NUMBERS = [
    b"\xff" * 4,
    b"\0" * 4,
    b"\x80\0\0\0",
    b"\x7f\xff\xff\xff",
    b"7777777",
    b"-1",
    b"\xed\xa0\x80",
    b"../",
]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, bytes, extreme numbers, blocks zeroed, cut out, doubled or moved, the end
    cut off or grown."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not out:
            break
        at = int(rng.integers(len(out)))
        block = at // 512 * 512
        number = NUMBERS[rng.integers(len(NUMBERS))]
        match rng.integers(9):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at : at + 8] = rng.bytes(min(8, len(out) - at))
            case 2:
                out[at : at + len(number)] = number[: len(out) - at]
            case 3:
                out[block : block + 512] = bytes(len(out[block : block + 512]))
            case 4:
                del out[block : block + 512]
            case 5:
                out[block:block] = out[block : block + 512 * int(rng.integers(1, 4))]
            case 6:
                del out[at:]
            case 7:
                out += rng.bytes(int(rng.integers(1, 600)))
            case 8:
                out[at:at] = number
    return bytes(out)


def opened(data: object) -> Source | None:
    """The source, every row of it read, or None where it is refused; anything else is an error."""
    try:
        source = open_data(data)
    except KdbiasError as error:
        message = str(error)
    else:
        for row in range(source.n):
            source.location(row)
            with contextlib.suppress(UnreadableImage):
                assert isinstance(source.read(row), bytes)
        source.describe().encode()
        return source
    assert "\n" not in message
    return None


def packed_tar(form: int) -> bytes:
    """Samples of an image, a label and a .json each; all formats but ustar have extended headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for i in range(SAMPLES):
            long = "" if form == tarfile.USTAR_FORMAT else "folder" * 20 + "/é/"
            for name, content in {
                "jpg": b"x" * (1000 + i * 100),
                "cls": b"7",
                "json": b'{"age": 3, "who": "x"}',
            }.items():
                info = tarfile.TarInfo(f"{long}{i:04d}.{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def summed_anew(content: bytes) -> bytes:
    """The tar with right checksums in all blocks that may be headers, so that other damage is looked at."""
    out = bytearray(content)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            total = sum(out[at : at + 512]) - sum(out[at + 148 : at + 156]) + 256
            out[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(out)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))


@pytest.mark.filterwarnings("error")
def test_a_tar_is_whole_or_refused(tmp_path):
    """Of a ustar every header is summed: what opens has all samples, at their places."""
    whole, file = packed_tar(tarfile.USTAR_FORMAT), tmp_path / "x.tar"
    file.write_bytes(whole)
    before = open_data(file)
    refused = 0
    for number in range(COUNT):
        file.write_bytes(mutated(whole, np.random.default_rng([1, number])))
        source = opened(file)
        if source is None:
            refused += 1
            continue
        assert source.ids.equals(before.ids), number
        sizes = [len(source.read(row)) for row in range(source.n)]
        assert sizes == [1000 + 100 * i for i in range(SAMPLES)], number
    assert 0 < refused < COUNT


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_whose_headers_lie_comes_back(tmp_path, form):
    whole, file = packed_tar(form), tmp_path / "x.tar"
    seen = set()
    for number in range(COUNT):
        rng = np.random.default_rng([2, form, number])
        changed = mutated(whole, rng)
        file.write_bytes(summed_anew(changed) if rng.random() < 0.8 else changed)
        source = opened(file)
        seen.add(source is None)
    assert seen == {True, False}


def packed_records(described: bool) -> tuple[bytes, bytes]:
    """A .rec and its .idx; one record is split, and record 0 may describe the others."""

    def record(payload: bytes, flag: int = 0) -> bytes:
        word = flag << 29 | len(payload)
        return struct.pack("<II", 0xCED7230A, word) + payload + b"\0" * (-len(payload) % 4)

    def image(i: int) -> bytes:
        return struct.pack("<IfQQ", 0, float(i % 4), i, 0) + b"image" * (i + 1)

    records = [record(image(i)) for i in range(1, SAMPLES + 1)]
    records[3] = record(image(4)[:28], 1) + record(b"", 2) + record(b"more", 3)
    if described:
        end = SAMPLES + 1
        records = [record(struct.pack("<IfQQ2f", 2, 0, 0, 0, end, end + 1)), *records]
        records.append(record(struct.pack("<IfQQ2f", 2, 0, 0, 0, 1, end)))
    offsets = np.cumsum([0, *map(len, records)])
    first = 0 if described else 1
    lines = [f"{first + i}\t{offset}\n" for i, offset in enumerate(offsets[:-1])]
    return b"".join(records), "".join(lines).encode()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("change", ["rec", "idx", "rec without idx"])
def test_records_are_all_there_or_refused(tmp_path, described, change):
    rec, idx = packed_records(described)
    seen = set()
    for number in range(COUNT):
        rng = np.random.default_rng([3, described, len(change), number])
        (tmp_path / "x.rec").write_bytes(mutated(rec, rng) if "rec" in change else rec)
        if "without" not in change:
            (tmp_path / "x.idx").write_bytes(mutated(idx, rng) if change == "idx" else idx)
        source = opened(tmp_path / "x.rec")
        seen.add(source is None)
        if "without" not in change:  # else a file cut between two records is but a shorter one
            assert source is None or source.n >= SAMPLES, number
    assert True in seen


def pictures() -> dict[str, bytes]:
    """Encoded images of every format and of the modes that decoders find hard."""
    rng = np.random.default_rng(4)
    colours = Image.fromarray(rng.integers(0, 256, (24, 31, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (9, 7), np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif, "icc_profile": rng.bytes(300)}
    formats = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"]
    made = {kind: (colours, kind, {}) for kind in formats if kind in Image.SAVE}
    made |= {f"{kind} with more": (colours, kind, more) for kind in ["JPEG", "PNG", "WEBP", "TIFF"]}
    made |= {
        "16 bits": (deep, "PNG", {}),
        "16 bits TIFF": (deep, "TIFF", {"compression": "tiff_lzw"}),
        "CMYK": (colours.convert("CMYK"), "JPEG", {}),
        "palette": (colours.convert("P"), "PNG", {"transparency": 3}),
        "frames": (colours, "GIF", {"save_all": True, "append_images": [colours.rotate(90)]}),
        "interlaced": (colours, "PNG", {"interlace": 1}),
    }
    encoded = {}
    for name, (image, kind, options) in made.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


def checked_anew(content: bytes) -> bytes:
    """A PNG with right checks of its chunks, as far as there are chunks."""
    out, at = bytearray(content), 8
    while at + 12 <= len(out):
        length = int.from_bytes(out[at : at + 4], "big")
        end = at + 8 + length
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))[: len(out[end : end + 4])]
        at = end + 4
    return bytes(out)


@pytest.mark.filterwarnings("ignore")
def test_an_image_is_pixels_or_one_unreadable_image():
    reasons: list[str] = []
    encoded = pictures()
    names = list(encoded)
    for number in range(COUNT * 4):
        rng = np.random.default_rng([5, number])
        name = names[number % len(names)]
        changed = mutated(encoded[name], rng)
        if changed.startswith(b"\x89PNG") and rng.random() < 0.7:
            changed = checked_anew(changed)
        try:
            pixels = decode_image(changed)
        except UnreadableImage as error:
            reasons.append(error.reason)
        else:
            assert pixels.dtype == np.uint8, (name, number)
            assert pixels.ndim == 3, (name, number)
            assert pixels.shape[2] == 3, (name, number)
    assert all(reason and "\n" not in reason for reason in reasons)
    assert 0 < len(reasons) < COUNT * 4
