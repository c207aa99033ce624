"""Verification sets: every way they are pickled is read, and nothing in them is executed."""

import os
import pickle

import numpy as np
import pytest

from kdbias.data.opening import open_data
from kdbias.data.verification_bin import read_pairs
from kdbias.errors import KdbiasError

IMAGES = [bytes([0xFF, 0xD8, i, 0, 0x80]) * (300 * (i % 2) + 1) for i in range(6)]
SAME = [True, False, True]


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """Protocol 2 as Python 2 writes it: byte strings are texts (opcodes U and T)."""
    out = b"\x80\x02]q\x00("
    for image in images:
        short = len(image) < 256
        out += (b"U" + bytes([len(image)]) if short else b"T" + len(image).to_bytes(4, "little")) + image
    return out + b"e](" + b"".join(b"\x88" if flag else b"\x89" for flag in same) + b"e\x86."


def variants():
    yield "python2", python2(IMAGES, SAME)
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    for protocol in range(2, 6):
        yield f"bytes, protocol {protocol}", pickle.dumps((IMAGES, SAME), protocol)
        yield f"arrays, protocol {protocol}", pickle.dumps((arrays, np.array(SAME)), protocol)
        yield f"lists, protocol {protocol}", pickle.dumps([IMAGES, [np.bool_(s) for s in SAME]], protocol)
        yield f"ints, protocol {protocol}", pickle.dumps((IMAGES, tuple(int(s) for s in SAME)), protocol)


@pytest.mark.parametrize(("name", "content"), list(variants()), ids=lambda v: v if isinstance(v, str) else "")
def test_every_way_of_pickling(tmp_path, name, content):
    file = tmp_path / "lfw.bin"
    file.write_bytes(content)
    source = pickle.loads(pickle.dumps(open_data(file)))
    assert [source.read(i) for i in range(6)] == IMAGES, name
    assert source.ids[4].as_py() == "lfw/000004"
    assert source.column("pair").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert source.column("same").to_pylist() == [True, True, False, False, True, True]
    first, second, same = read_pairs(file)
    assert first.to_pylist() == source.ids.to_pylist()[0::2]
    assert second.to_pylist() == source.ids.to_pylist()[1::2]
    assert same.tolist() == SAME


def test_a_folder_of_sets_is_one_data_set(tmp_path):
    for name, images in (("b", IMAGES[:2]), ("a", IMAGES)):
        content = python2(images, SAME[: len(images) // 2]) if name == "a" else pickle.dumps((images, [True]))
        (tmp_path / f"{name}.bin").write_bytes(content)
    source = open_data(tmp_path)
    assert source.ids.to_pylist() == [*(f"a/{i:06d}" for i in range(6)), "b/000000", "b/000001"]
    assert [source.read(i) for i in range(8)] == IMAGES + IMAGES[:2]
    assert source.column("pair").to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert source.location(7) == "b.bin#1"
    fingerprint = source.fingerprint
    (tmp_path / "b.bin").write_bytes(pickle.dumps((IMAGES[2:4], [True])))
    assert open_data(tmp_path).fingerprint != fingerprint


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_not_run(tmp_path, protocol):
    file = tmp_path / "evil.bin"
    file.write_bytes(pickle.dumps(([Attack(tmp_path / "owned")], [True]), protocol))
    with pytest.raises(KdbiasError, match=r"mkdir.*does not execute it"):
        open_data(file)
    assert not (tmp_path / "owned").exists()
    pickle.loads(file.read_bytes())  # the attack itself works
    assert (tmp_path / "owned").exists()


def test_allowed_names_are_not_called_either(tmp_path):
    """A pickle that misuses the names of arrays (here numpy.dtype as a function) yields no object."""
    content = b"\x80\x02](cnumpy\ndtype\n(X\x02\x00\x00\x00O8tRe](\x88e\x86."
    (tmp_path / "odd.bin").write_bytes(content)
    with pytest.raises(KdbiasError, match="cannot read"):
        open_data(tmp_path / "odd.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "refused: the pickle uses EMPTY_DICT|not a pickled pair"),
        (pickle.dumps((IMAGES, SAME[:2])), "6 images for 2 pairs"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps((IMAGES, [True, 2, False])), "flag is 2"),
        (pickle.dumps((IMAGES, SAME))[:-40], "truncated"),
        (python2(IMAGES, SAME)[:700], "truncated"),
        (b"hello world", "damaged or truncated"),
        (b"\x80\x02T\xff\xff\xff\x7f abc", "damaged or truncated"),
        (b"\x80\x02e.", "damaged or truncated"),
        (b"", "cannot be read|damaged"),
    ],
)
def test_what_is_no_verification_set(tmp_path, content, message):
    file = tmp_path / "bad.bin"
    file.write_bytes(content)
    with pytest.raises(KdbiasError, match=message) as caught:
        open_data(file)
    assert "\n" not in str(caught.value)
