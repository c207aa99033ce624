"""Bytes changed or cut at random: a source opens, refuses in one line, or has unreadable images; no more."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

IMAGES = [f"image {i}".encode() * (1 + i % 3) for i in range(20)]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, eight in a row changed, or the end cut off."""
    out = bytearray(content)
    way = rng.integers(3)
    if way == 0:
        for place in rng.integers(0, len(out), 3):
            out[place] = rng.integers(256)
    elif way == 1:
        place = rng.integers(len(out))
        out[place : place + 8] = rng.bytes(8)
    else:
        out = out[: rng.integers(len(out))]
    return bytes(out)


def parquet(folder):
    pq.write_table(
        pa.table({"sample_id": list("abcdefghijklmnopqrst"), "image": IMAGES}), folder / "x.parquet"
    )
    return folder / "x.parquet"


def records(folder):
    out, index = b"", ""
    for i, image in enumerate(IMAGES):
        payload = struct.pack("<IfQQ", 0, float(i), i, 0) + image
        index += f"{i}\t{len(out)}\n"
        out += struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    (folder / "train.rec").write_bytes(out)
    (folder / "train.idx").write_text(index)
    return folder


def pairs(folder):
    (folder / "x.bin").write_bytes(pickle.dumps((IMAGES, [True] * 10)))
    return folder / "x.bin"


def tar(folder):
    with tarfile.open(folder / "x.tar", "w") as archive:
        for i, image in enumerate(IMAGES):
            for name, content in {f"{i}.jpg": image, f"{i}.json": b'{"a": 1}'}.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder / "x.tar"


def saved(folder):
    table = pa.table({"image": [{"bytes": image, "path": "x"} for image in IMAGES], "label": list(range(20))})
    with pa.OSFile(str(folder / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "d.arrow"}]}))
    (folder / "dataset_info.json").write_text(
        json.dumps({"features": {"label": {"names": list("abcdefghijklmnopqrst")}}})
    )
    return folder


def arrays(folder):
    np.savez_compressed(folder / "x.npz", a=np.zeros((20, 4, 4), np.uint8), y=np.arange(20))
    (folder / "x.toml").write_text('name = "x"\nsource = "x.npz"\n[[arrays]]\nimages = "a"\nlabels = "y"\n')
    return folder / "x.toml"


def listed(folder):
    (folder / "x.csv").write_text("path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(20)))
    (folder / "x.toml").write_text(
        'name = "x"\nsource = "x.csv"\nwhere = ["label!=3"]\n[expect]\nsamples = 20\n'
    )
    return folder / "x.toml"


def complaints(data) -> list[str]:
    """Messages of the errors that kdbias means to raise while the data is opened and read."""
    try:
        source = open_data(data)
    except KdbiasError as error:
        return [str(error)]
    messages = []
    for row in range(source.n):
        try:
            source.read(row)
        except UnreadableImage as error:
            messages.append(error.reason)
    return messages


@pytest.mark.parametrize("make", [parquet, records, pairs, tar, saved, arrays, listed])
@pytest.mark.filterwarnings("ignore")
def test_damaged_data(tmp_path, monkeypatch, make):
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    data = make(tmp_path / "data")
    files = {file: file.read_bytes() for file in sorted((tmp_path / "data").iterdir())}
    rng = np.random.default_rng(0)
    messages: list[str] = []
    for _ in range(60):
        file = list(files)[rng.integers(len(files))]
        file.write_bytes(damaged(files[file], rng))
        messages += complaints(data)
        file.write_bytes(files[file])
    assert messages
    assert not [message for message in messages if "\n" in message]
    assert open_data(data).n >= 19


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_images(kind):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 31, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    reasons = []
    for _ in range(80):
        try:
            image = decode_image(damaged(buffer.getvalue(), rng))
        except UnreadableImage as error:
            reasons.append(error.reason)
        else:
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
    assert len(reasons) > 10
    assert all(reason and "\n" not in reason for reason in reasons)
