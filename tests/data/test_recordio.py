"""RecordIO: every variant of the format, written here, is read back; damaged files are told apart."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError

MAGIC = struct.pack("<I", 0xCED7230A)


def packed(label, image: bytes, id: int = 0) -> bytes:
    """An image's payload; ``label`` is a number, or a list for an array."""
    if isinstance(label, list):
        return struct.pack("<IfQQ", len(label), 0.0, id, 0) + np.array(label, "<f4").tobytes() + image
    return struct.pack("<IfQQ", 0, label, id, 0) + image


def record(payload: bytes) -> bytes:
    """A record, split wherever the payload has the magic number at a multiple of 4."""
    cuts = [i for i in range(0, len(payload) - 3, 4) if payload[i : i + 4] == MAGIC]
    begins, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    out = b""
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        flag = (
            0 if not cuts else 1 if number == 0 else 3 if end == len(payload) and number == len(cuts) else 2
        )
        part = payload[begin:end]
        out += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return out


def write(folder: Path, records: dict[int, bytes], index: bool = True, name: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content, lines = b"", []
    for key, payload in records.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += record(payload)
    (folder / f"{name}.rec").write_bytes(content)
    if index:
        (folder / f"{name}.idx").write_text("".join(lines))
    return folder


def image(i: int) -> bytes:
    return b"\xff\xd8" + bytes([i % 256]) * (1 + 7 * (i % 5))


LABELS = [0, 0, 0, 1, 1, 2, 2, 2, 2]


def insightface(array: bool, ranges=((1, 4), (4, 6), (6, 10)), first: int = 1) -> dict[int, bytes]:
    """Header, images with keys first, first + 1, ..., identity records."""
    n = len(LABELS)
    images = {
        first + i: packed([label, 7.0] if array else label, image(i), first + i)
        for i, label in enumerate(LABELS)
    }
    end = first + n
    people = {end + p: packed([float(a), float(b)], b"") for p, (a, b) in enumerate(ranges)}
    return {0: packed([float(end), float(end + len(ranges))], b""), **images, **people}


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("index", [True, False])
def test_insightface_layout(tmp_path, array, index):
    write(tmp_path, insightface(array), index)
    (tmp_path / "property").write_text("3,112,112\n")
    source = pickle.loads(pickle.dumps(open_data(tmp_path)))
    assert source.ids.to_pylist() == [str(i) for i in range(1, 10)]
    assert source.labels.to_pylist() == [str(label) for label in LABELS]
    assert [source.read(i) for i in range(9)] == [image(i) for i in range(9)]
    assert source.location(2) == "train.rec#3"
    assert source.notes == ()
    assert open_data(tmp_path / "train.rec").fingerprint == source.fingerprint


@pytest.mark.parametrize("array", [False, True])
def test_im2rec_layout_has_no_header_and_starts_at_0(tmp_path, array):
    labels = [3.0, 1.0, 3.0]
    records = {i: packed([label, 0.5] if array else label, image(i)) for i, label in enumerate(labels)}
    source = open_data(write(tmp_path, records, name="val"))
    assert source.ids.to_pylist() == ["0", "1", "2"]
    assert source.labels.to_pylist() == ["3", "1", "3"]
    assert source.read(0) == image(0)


def test_fractional_labels_stay_fractions(tmp_path):
    source = open_data(write(tmp_path, {0: packed(0.25, image(0)), 1: packed(2.0, image(1))}))
    assert source.labels.to_pylist() == ["0.25", "2"]


SPLIT = {
    "in the image": packed(1.0, b"abcdefgh" + MAGIC + b"ijklmnop"),
    "at its start": packed(1.0, MAGIC + b"abc"),
    "at its end": packed(1.0, b"abcd" + MAGIC),
    "twice": packed(1.0, b"abcd" + MAGIC + MAGIC + b"efgh" + MAGIC + b"i"),
    "in the header": packed(1.0, b"abcdefg", id=0xCED7230A),
    "in the header and the image": packed([1.0, 2.0], b"abcd" + MAGIC + b"e", id=0xCED7230A << 32),
    "not at a multiple of 4": packed(1.0, b"ab" + MAGIC + b"cd"),
}


@pytest.mark.parametrize("where", list(SPLIT))
def test_split_records(tmp_path, where):
    payload = SPLIT[where]
    start = 24 + 4 * struct.unpack("<I", payload[:4])[0]
    records = {0: packed(0.0, b"before"), 1: payload, 2: packed(2.0, b"behind")}
    for index in (True, False):
        source = open_data(write(tmp_path / str(index), records, index))
        assert source.labels.to_pylist() == ["0", "1", "2"]
        assert [source.read(i) for i in range(3)] == [b"before", payload[start:], b"behind"]
    flag = struct.unpack("<I", record(payload)[4:8])[0] >> 29
    assert flag == (0 if where == "not at a multiple of 4" else 1)  # the writer did split


def test_ranges_that_disagree_with_the_images_are_not_used(tmp_path):
    shifted = ((1, 3), (3, 6), (6, 10))  # off by one, as rounding would make them
    source = open_data(write(tmp_path, insightface(False, shifted)))
    assert source.labels.to_pylist() == [str(label) for label in LABELS]
    gap = ((1, 4), (5, 6), (6, 10))
    assert (
        open_data(write(tmp_path / "gap", insightface(False, gap))).labels.to_pylist()
        == source.labels.to_pylist()
    )


@pytest.mark.parametrize("first", [(1 << 24) - 4, (1 << 24) + 1, (1 << 25) + 3])
def test_keys_beyond_what_float32_can_count(tmp_path, first):
    end = first + len(LABELS)
    ranges = ((first, first + 3), (first + 3, first + 5), (first + 5, end))
    stored = np.array(ranges, np.float32).astype(np.int64)
    assert (stored != ranges).any()  # the trap is there
    source = open_data(write(tmp_path, insightface(True, ranges, first)))
    assert source.ids.to_pylist() == [str(first + i) for i in range(9)]
    assert source.labels.to_pylist() == [str(label) for label in LABELS]
    assert source.read(8) == image(8)


def test_fast_and_slow_way_to_labels_agree(tmp_path, monkeypatch):
    from kdbias.data import recordio

    write(tmp_path, insightface(True))
    fast = open_data(tmp_path)
    monkeypatch.setattr(recordio, "_FLOAT32_EXACT", 0)
    slow = open_data(tmp_path)
    assert fast.fingerprint == slow.fingerprint
    assert fast.labels.equals(slow.labels)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("3,112,112", None),
        ("3 , 112,112\r\n\n", None),
        ("4,112,112\n", "says 4 labels, 3 have images"),
        ("junk", None),
    ],
)
def test_property_file(tmp_path, text, note):
    write(tmp_path, insightface(False))
    (tmp_path / "property").write_text(text)
    notes = open_data(tmp_path).notes
    assert notes == () if note is None else note in notes[0]


def test_an_index_in_another_order_and_with_blank_lines(tmp_path):
    write(tmp_path, insightface(False))
    before = open_data(tmp_path)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\n".join(reversed(lines)) + "\n\n")
    after = open_data(tmp_path)
    assert after.ids.equals(before.ids)
    assert after.read(3) == before.read(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("\t", " "), "damaged index"),
        (lambda text: text + "10\tabc\n", "damaged index"),
        (lambda text: text + "99\t\n", "damaged index"),
        (lambda text: "", "damaged index"),
        (lambda text: text + "1\t0\n", "key 1 occurs twice"),
        (lambda text: text.replace("\n3\t", "\n-3\t"), "key -3 is below 0"),
        (
            lambda text: text.replace("\n12\t", f"\n{10**13}\t"),
            "its last key is 10,000,000,000,000, but record 0",
        ),
        (
            lambda text: text + "99\t1000000\n",
            r"1 entry does not fit train.rec \(key 99: no place for a record",
        ),
        (lambda text: text + "99\t-4\n", "do not fit"),
        (lambda text: text.replace("1\t40\n", "1\t48\n"), "key 1: no RecordIO record at byte 48"),
        (lambda text: text.replace("1\t40\n", "1\t46\n"), "key 1: no place for a record at byte 46"),
    ],
)
def test_damaged_index(tmp_path, change, message):
    write(tmp_path, insightface(False))
    index = tmp_path / "train.idx"
    index.write_text(change(index.read_text()))
    with pytest.raises(KdbiasError, match=message) as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)
    assert "scans the .rec" in str(caught.value)
    index.unlink()
    assert open_data(tmp_path).n == 9  # the advice works


def test_truncated_file(tmp_path):
    write(tmp_path, {i: packed(float(i), image(4)) for i in range(5)})
    file = tmp_path / "train.rec"
    file.write_bytes(file.read_bytes()[:-20])
    source = open_data(tmp_path)
    assert source.read(3) == image(4)
    with pytest.raises(UnreadableImage, match="truncated"):
        source.read(4)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(KdbiasError, match="truncated: the last record ends 20 bytes behind"):
        open_data(tmp_path)


def test_a_record_damaged_after_opening_is_one_unreadable_image(tmp_path):
    write(tmp_path, {i: packed(float(i), image(4)) for i in range(5)})
    source = open_data(tmp_path)
    content = bytearray((tmp_path / "train.rec").read_bytes())
    step = len(content) // 5
    content[step : step + 4] = b"oops"
    content[2 * step + 8 : 2 * step + 12] = struct.pack("<I", 1 << 30)
    content[3 * step + 4 : 3 * step + 8] = struct.pack("<I", 2 << 29 | 10)
    (tmp_path / "train.rec").write_bytes(content)
    for row, reason in [(1, "no RecordIO record at byte"), (2, "labels announced"), (3, "out of order")]:
        with pytest.raises(UnreadableImage, match=reason):
            source.read(row)
    assert source.read(0) == source.read(4) == image(4)


def test_an_empty_image_of_im2rec_is_kept_for_the_failures_table(tmp_path):
    source = open_data(write(tmp_path, {0: packed(1.0, image(0)), 1: packed(1.0, b"")}))
    assert source.n == 2
    assert source.read(1) == b""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no samples"),
        (b"not a record file at all", "no RecordIO record at byte 0"),
        (struct.pack("<II", 0x3ED7230A, 8) + b"12345678", "obsolete kind"),
        (record(b"short"), "payload|bytes"),
    ],
)
def test_what_is_no_record_file(tmp_path, content, message):
    (tmp_path / "train.rec").write_bytes(content)
    try:
        source = open_data(tmp_path)
    except KdbiasError as error:
        caught: ValueError = error
    else:
        with pytest.raises(UnreadableImage) as info:
            source.read(0)
        caught = info.value
    import re

    assert re.search(message, str(caught)), caught


def test_an_index_of_an_empty_file(tmp_path):
    (tmp_path / "train.rec").touch()
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(KdbiasError, match=r"train\.rec: holds no samples"):
        open_data(tmp_path)


def test_several_rec_files_must_be_chosen_from(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, {0: packed(1.0, image(0))}, name=name)
    with pytest.raises(KdbiasError, match=r"2 .rec files \(a.rec, b.rec\)"):
        open_data(tmp_path)
    assert open_data(tmp_path / "b.rec").n == 1


@pytest.mark.filterwarnings("error")
def test_labels_that_are_none(tmp_path):
    values = [float("inf"), float("-inf"), float("nan"), -1.0, -2.0, 0.5, 3.0]
    source = open_data(write(tmp_path, {i: packed(v, image(i)) for i, v in enumerate(values)}))
    assert source.labels.to_pylist() == [None, None, None, None, "-2", "0.5", "3"]
    assert source.notes == ("4 labels are NaN, infinite or -1: taken for none",)
    source = open_data(write(tmp_path / "whole", {i: packed(v, image(i)) for i, v in enumerate([-1.0, 7.0])}))
    assert source.labels.to_pylist() == [None, "7"]


def test_labels_that_float32_rounds_are_said(tmp_path):
    values = [float(1 << 24), 3.0, 1e38]
    source = open_data(write(tmp_path, {i: packed(v, image(i)) for i, v in enumerate(values)}))
    assert source.labels.to_pylist() == ["16777216", "3", str(int(np.float32(1e38)))]
    assert "2 labels of 2^24 or more, exact no longer" in source.describe()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [3e38, -5.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", [0, 10])
def test_ranges_of_people_that_are_no_keys(tmp_path, number, key):
    records = insightface(False)
    records[key] = packed([1.0, number], b"")
    write(tmp_path, records)
    try:
        source = open_data(tmp_path)
    except KdbiasError as error:
        refusal = str(error)
    else:
        assert set(source.ids.to_pylist()) >= {str(i) for i in range(1, 10)}
        return
    assert "record 0 says that keys end at" in refusal


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("left_out", [slice(0, 1), slice(4, 6), slice(7, 8), slice(-1, None)])
def test_an_index_that_leaves_out_records_is_refused(tmp_path, described, left_out):
    records = insightface(False) if described else {i: packed(float(i), image(i)) for i in range(9)}
    records[4] = SPLIT["twice"]
    write(tmp_path, records)
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    del lines[left_out]
    (tmp_path / "train.idx").write_text("".join(lines))
    with pytest.raises(
        KdbiasError, match=r"its \.idx leaves out records|its last key is .*; it is cut"
    ) as caught:
        open_data(tmp_path)
    assert "scans the .rec" in str(caught.value)
    (tmp_path / "train.idx").unlink()
    assert open_data(tmp_path).n == 9


def test_a_file_cut_between_records_is_refused_where_record_0_counts_them(tmp_path):
    write(tmp_path, insightface(False), index=False)
    content = (tmp_path / "train.rec").read_bytes()
    for end in range(content.index(MAGIC, 1), len(content), 4):
        if content[end : end + 4] == MAGIC and end > 60:
            (tmp_path / "train.rec").write_bytes(content[:end])
            with pytest.raises(
                KdbiasError, match=r"its last key is \d+, but record 0 says that keys end at 13"
            ):
                open_data(tmp_path)


@pytest.mark.parametrize("part", [2, 3, 4, 7])
def test_parts_out_of_order_are_refused_by_a_scan(tmp_path, part):
    content = bytearray(record(packed(1.0, image(4))) * 3)
    step = len(content) // 3
    content[step + 4 : step + 8] = struct.pack("<I", part << 29 | step - 8)
    (tmp_path / "x.rec").write_bytes(content)
    with pytest.raises(KdbiasError, match=f"part {part} of a split record out of order at byte {step}"):
        open_data(tmp_path / "x.rec")
    (tmp_path / "x.rec").write_bytes(record(SPLIT["in the image"])[:-8])
    with pytest.raises(KdbiasError, match="truncated"):
        open_data(tmp_path / "x.rec")


def test_labels_and_lengths_beyond_a_record_are_one_unreadable_image(tmp_path):
    write(tmp_path, {i: packed(float(i), image(4)) for i in range(4)})
    content = bytearray((tmp_path / "train.rec").read_bytes())
    step = len(content) // 4
    content[step + 8 : step + 12] = b"\xff" * 4
    content[2 * step + 4 : 2 * step + 8] = struct.pack("<I", (1 << 29) - 1)
    content[3 * step + 4 : 3 * step + 8] = struct.pack("<I", 3)
    (tmp_path / "train.rec").write_bytes(content)
    source = open_data(tmp_path)
    assert source.n == 4
    assert source.read(0) == image(4)
    for row, reason in [(1, "4294967295 labels announced"), (2, "truncated"), (3, "shorter than a header")]:
        with pytest.raises(UnreadableImage, match=reason):
            source.read(row)
