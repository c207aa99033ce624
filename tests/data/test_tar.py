"""Tars: what is damaged, cut or lies is refused; members under any name are taken, counted or named."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdbias import progress
from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.data.tar import read_members
from kdbias.data.webdataset import expand
from kdbias.embedding.stage import embed
from kdbias.errors import KdbiasError

IMAGE = b"x" * 700
PADDED = IMAGE + bytes(324)
END = bytes(1024)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))


def tar(file: Path, members: dict[str, bytes] | list[tuple[str, bytes]], **options) -> Path:
    with tarfile.open(file, "w", **options) as archive:
        for name, content in dict(members).items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def header(name: bytes, size: bytes = b"%011o\0" % 700, kind: bytes = b"0", signed: bool = False) -> bytes:
    """A ustar header by hand, with a right checksum."""
    out = bytearray(512)
    out[: len(name)] = name
    out[124 : 124 + len(size)] = size
    out[148:156] = b" " * 8
    out[156:157] = kind
    out[257:265] = b"ustar\x0000"
    out[148:156] = b"%06o\0 " % sum(byte - 256 if signed and byte > 127 else byte for byte in out)
    return bytes(out)


def extended(body: bytes, kind: bytes = b"x") -> bytes:
    return header(b"PaxHeader/x", b"%011o\0" % len(body), kind) + body + bytes(-len(body) % 512)


def refusal(file: Path, **options) -> str:
    with pytest.raises(KdbiasError) as caught:
        open_data(file, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_block_of_zeros_and_every_cut_is_refused(tmp_path, form):
    folder = "" if form == tarfile.USTAR_FORMAT else "é" * 80 + "/"
    names = {f"{folder}{i:04d}.jpg": IMAGE for i in range(5)}
    whole = tar(tmp_path / "x.tar", names, format=form).read_bytes()
    assert open_data(tmp_path / "x.tar").ids.to_pylist() == [name[:-4] for name in names]
    with open(tmp_path / "x.tar", "rb") as handle:
        starts = [member.offset - 512 for member in read_members(handle, "x")]
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for at in starts:
        for bit in (0, 3, 130, 150, 156, 260):  # name, size, checksum, type, magic
            flipped = bytearray(whole)
            flipped[at + bit] ^= 1
            (tmp_path / "x.tar").write_bytes(flipped)
            assert "a damaged header" in refusal(tmp_path / "x.tar")
        (tmp_path / "x.tar").write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
        assert "no whole .tar" in refusal(tmp_path / "x.tar")
    for length in {*range(0, end, 200), *range(0, end, 512), end, end + 512}:
        (tmp_path / "x.tar").write_bytes(whole[:length])
        assert "no whole .tar" in refusal(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(whole[: end + 1024])
    assert open_data(tmp_path / "x.tar").n == 5


LIES = {
    "negative size": (header(b"1.jpg", b"-0000000512\0") + PADDED, "the number b'-0000000512"),
    "negative size in base 256": (header(b"1.jpg", b"\xff" * 12) + PADDED, "the number"),
    "negative size of an extended header": (header(b"p", b"\xff" * 12, b"x") + PADDED, "the number"),
    "negative size in an extended header": (
        extended(b"13 size=-512\n") + header(b"1.jpg") + PADDED,
        "the size b'-512'",
    ),
    "huge size": (header(b"1.jpg", b"\x80" + b"\x7f" * 11) + PADDED, "the member '1.jpg' is cut"),
    "huge long name": (header(b"././@LongLink", b"77777777777\0", b"L") + PADDED, "an extended header of"),
    "cut extended header": (header(b"p", b"00000100000\0", b"x"), "an extended header is cut"),
    "record of no length": (extended(b"0 size=1\n") + header(b"1.jpg") + PADDED, "damaged extended header"),
    "record beyond its header": (extended(b"99 path=a\n") + header(b"1.jpg") + PADDED, "damaged extended"),
    "many digits": (extended(b"1" * 1_000_000) + header(b"1.jpg") + PADDED, "damaged extended header"),
    "extended header alone": (extended(b"12 path=a.b\n"), "without a member"),
    "sparse": (header(b"1.jpg", kind=b"S") + PADDED, "'1.jpg' is sparse"),
    "sparse by an extended header": (
        extended(b"22 GNU.sparse.major=1\n") + header(b"1.jpg") + PADDED,
        "is sparse",
    ),
    "part of a volume": (header(b"1.jpg", kind=b"M") + PADDED, "the unknown type b'M'"),
    "name not UTF-8": (
        header(b"caf\xe9.jpg") + PADDED,
        r"b'caf\\xe9.jpg' of the member at byte 0 is not UTF-8",
    ),
    "name of a surrogate": (extended(b"16 path=\xed\xa0\xbd.jpg\n") + header(b"1.jpg") + PADDED, "not UTF-8"),
}


@pytest.mark.parametrize("lie", list(LIES))
def test_headers_that_lie_are_refused_in_one_line(tmp_path, lie):
    content, message = LIES[lie]
    (tmp_path / "x.tar").write_bytes(content + END)
    assert message.replace("\\\\", "\\") in refusal(tmp_path / "x.tar")


def test_what_follows_the_end_is_refused(tmp_path):
    whole = tar(tmp_path / "x.tar", {"1.jpg": IMAGE}).read_bytes()
    for rest in (whole, b"rest"):
        (tmp_path / "x.tar").write_bytes(whole + rest)
        assert "tars joined to one file" in refusal(tmp_path / "x.tar")


TRUE = {
    "signed checksum": (header("é.jpg".encode(), signed=True) + PADDED, "é"),
    "size in base 256": (header(b"1.jpg", b"\x80" + (700).to_bytes(11, "big")) + PADDED, "1"),
    "size in an extended header": (extended(b"12 size=700\n") + header(b"1.jpg", b"0") + PADDED, "1"),
    "global header": (extended(b"15 comment=abc\n", b"g") + header(b"1.jpg") + PADDED, "1"),
    "volume": (header(b"label", b"0", b"V") + header(b"1.jpg") + PADDED, "1"),
    "old kind of file": (header(b"1.jpg", kind=b"\0") + PADDED, "1"),
    "folder of an old tar": (header(b"a/", b"0", b"\0") + header(b"a/1.jpg") + PADDED, "a/1"),
}


@pytest.mark.parametrize("form", list(TRUE))
def test_forms_of_headers(tmp_path, form):
    content, key = TRUE[form]
    (tmp_path / "x.tar").write_bytes(content + END)
    source = open_data(tmp_path / "x.tar")
    assert (source.ids.to_pylist(), source.read(0)) == ([key], IMAGE)


@pytest.mark.parametrize("ending", ["tgz", "tar.gz", "tar"])
def test_compressed_tars_say_what_to_do(tmp_path, ending):
    content = tar(tmp_path / "0.tar", {"1.jpg": IMAGE}).read_bytes()
    (tmp_path / f"1.{ending}").write_bytes(gzip.compress(content))
    for data in (tmp_path / f"1.{ending}", tmp_path):
        assert "decompress" in refusal(data)
    with zipfile.ZipFile(tmp_path / "2.tar", "w") as archive:
        archive.writestr("1.jpg", IMAGE)
    assert "no whole .tar" in refusal(tmp_path / "2.tar")


def test_an_empty_tar_beside_others_is_no_error(tmp_path):
    tar(tmp_path / "0.tar", {})
    assert "no images in its tar files (1), whose members end in nothing" in refusal(tmp_path / "0.tar")
    tar(tmp_path / "1.TAR", {"1.JPG": IMAGE, "1.CLS": b"5"})
    source = open_data(tmp_path)
    assert (source.ids.to_pylist(), source.labels.to_pylist()) == (["1"], ["5"])


DOTTED = {f"IMG.2020.{i}.jpg": b"%d" % i for i in range(4)} | {
    f"IMG.2020.{i}.cls": b"%d" % i for i in range(5)
}


def test_names_with_further_dots_are_named_and_taken_when_asked(tmp_path):
    file = tar(tmp_path / "x.tar", {"0001.jpg": b"a", "0001.cls": b"9"} | DOTTED)
    message = refusal(file)
    assert "further ones: 4 ('IMG.2020.0.jpg'); --image-column jpg takes each as a sample" in message
    source = open_data(file, image_column="jpg")
    assert source.ids.to_pylist() == ["0001", *(f"IMG.2020.{i}" for i in range(5))]
    assert source.labels.to_pylist() == ["9", "0", "1", "2", "3", "4"]
    assert [source.read(row) for row in range(5)] == [b"a", b"0", b"1", b"2", b"3"]
    with pytest.raises(UnreadableImage, match="no image"):
        source.read(5)  # a label whose image is missing counts


@pytest.mark.parametrize("named", ["left.jpg", ".left.jpg", "Left.JPG"])
def test_several_images_of_a_sample_are_chosen_from_by_their_extension(tmp_path, named):
    pairs = {f"{i:04d}.{side}": f"{i}{side}".encode() for i in range(3) for side in ("Left.JPG", "Right.JPG")}
    file = tar(tmp_path / "x.tar", pairs | {"0000.cls": b"1"})
    assert "further ones: 6 ('0000.left.jpg')" in refusal(file)
    assert "--image-column left.jpg one such of each key" in refusal(file)
    source = open_data(file, image_column=named)
    assert [source.read(row) for row in range(3)] == [b"0Left.JPG", b"1Left.JPG", b"2Left.JPG"]
    assert source.labels.to_pylist() == ["1", None, None]
    each = open_data(file, image_column="jpg")
    assert each.ids.to_pylist()[:2] == ["0000.left", "0000.right"]
    assert each.labels.to_pylist()[:3] == ["1", "1", None]  # a label of the key is that of all its images
    assert "'.left.jpg' (3)" in refusal(file, image_column="png")


def test_what_is_left_out_is_counted(tmp_path):
    members = {
        "p.jpg": b"1",
        "p.1.jpg": b"2",
        "p.2.jpg": b"3",
        "0007": b"4",
        "._p.jpg": b"5",
        ".DS_Store": b"6",
    }
    source = open_data(tar(tmp_path / "x.tar", members))
    assert source.ids.to_pylist() == ["p"]
    assert source.read(0) == b"1"
    assert "images left out whose sample has another: 2 ('p.1.jpg'" in source.describe()
    assert "members left out for want of an extension: 1 ('0007')" in source.describe()
    assert open_data(tmp_path / "x.tar").notes == source.notes  # from the kept index


def test_members_of_a_sample_may_stand_anywhere(tmp_path):
    images = {f"{i:04d}.jpg": b"%d" % i for i in range(3)}
    source = open_data(tar(tmp_path / "x.tar", images | {f"{i:04d}.cls": b"c%d" % i for i in (2, 0, 1)}))
    assert source.labels.to_pylist() == ["c0", "c1", "c2"]
    assert [source.read(row) for row in range(3)] == [b"0", b"1", b"2"]


def test_samples_without_an_image_are_rows_of_failures(tmp_path):
    (tmp_path / "pixels.py").write_text(
        "import numpy as np\n\nclass Pixels:\n"
        "    preprocessing = {'size': [2, 2], 'color': 'L', 'mean': [0], 'std': [1]}\n"
        "    def embed(self, batch):\n        return batch.reshape(len(batch), -1).astype(np.float32)\n\n"
        "def factory(device):\n    return Pixels()\n"
    )
    buffer = io.BytesIO()
    Image.new("L", (2, 2), 9).save(buffer, "PNG")
    members = {
        "a.png": buffer.getvalue(),
        "b.cls": b"1",
        "c.txt": b"said of c",
        "d.png": b"no image",
    }
    with tarfile.open(tar(tmp_path / "x.tar", members), "a") as archive:
        link = tarfile.TarInfo("f.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(link)
    with progress.quiet():
        result = embed(
            tmp_path / "x.tar", tmp_path / "out", teacher=f"python:{tmp_path}/pixels.py:factory", workers=0
        )
    assert (result.samples, result.failures) == (1, 4)
    reasons = pq.read_table(tmp_path / "out/failures.parquet").to_pydict()
    told = dict(zip(reasons["sample_id"], reasons["reason"], strict=True))
    for key, reason in {
        "b": "no image: ",
        "c": "no image: ",
        "d": "not an image",
        "f": "a link",
    }.items():
        assert reason in told[key]


ODD = {
    "not UTF-8": b'{"label": "caf\xe9"}',
    "UTF-16": '{"label": "a"}'.encode("utf-16"),
    "half a pair": b'{"label": "\\ud83d"}',
    "half a pair as a name": b'{"\\ud83d": "a"}',
    "twice": b'{"label": "a", "label": "b"}',
    "deep": b'{"label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many digits": b'{"label": ' + b"1" * 5000 + b"}",
    "infinite": b'{"label": 1e999}',
    "long": json.dumps({"label": "x" * (1 << 20)}).encode(),
    "cut": b'{"label": "a"',
}


@pytest.mark.parametrize("kind", list(ODD))
def test_json_that_cannot_be_read_is_counted(tmp_path, kind):
    members = {"1.jpg": b"", "1.json": ODD[kind], "2.jpg": b"", "2.json": b'{"label": "b"}'}
    source = open_data(tar(tmp_path / "x.tar", members))
    assert source.labels.to_pylist() == [None, "b"]
    assert source.notes == (
        "labels or .json left empty that are not UTF-8, too long or of two values: 1 ('1.json')",
    )


@pytest.mark.parametrize(
    ("content", "label", "said"), [(b"caf\xe9", None, 1), (b"x" * 300, None, 1), (b" \n", None, 0)]
)
def test_labels_that_cannot_be_read_are_counted(tmp_path, content, label, said):
    source = open_data(tar(tmp_path / "x.tar", {"1.jpg": b"", "1.cls": content, "2.jpg": b"", "2.cls": b"b"}))
    assert source.labels.to_pylist() == [label, "b"]
    assert len(source.notes) == said


def test_values_of_json(tmp_path):
    values = [
        b'{"label": 1, "big": 1e20}',
        b'{"label": NaN}',
        b'{"label": true}',
        b"\xef\xbb\xbf" + b'{"label": "c"}',
    ]
    members = [(f"{i}.{e}", c) for i, v in enumerate(values) for e, c in (("jpg", b""), ("json", v))]
    source = open_data(
        tar(tmp_path / "x.tar", [*members, ("4.jpg", b""), ("4.json", b'{"label": 1%s}' % (b"0" * 30))])
    )
    assert source.labels.to_pylist() == ["1", None, "true", "c", "1" + "0" * 30]
    for number, value in enumerate([b'{"label": 1}', b'{"label": 1.0}', b'{"label": 2.5}']):
        (tmp_path / "s").mkdir(exist_ok=True)
        tar(tmp_path / f"s/{number}.tar", {f"{number}.jpg": b"", f"{number}.json": value})
    assert open_data(tmp_path / "s").labels.to_pylist() == ["1", "1", "2.5"]  # one class, int or float
    both = [("1.json", b'{"cls": "json"}'), ("1.jpg", b""), ("1.cls", b"own")]
    for order in (both, both[::-1]):
        assert open_data(tar(tmp_path / "b.tar", order)).labels.to_pylist() == ["own"]


def test_names_of_json_are_bounded(tmp_path):
    members = {
        f"{i}.{end}": body for i in range(1001) for end, body in (("jpg", b""), ("json", b'{"k%d": 1}' % i))
    }
    assert "1,001 different names, limit 1,000" in refusal(tar(tmp_path / "x.tar", members))


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999999}",
        "{0..999999}{0..9}",
        "{0..9}{5..2}",
        "{0..{0..9}}",
        "{0..9",
        "{a,b}",
        "{0..1" + "0" * 5000 + "}",
        "{0..999999999999999999}" * 400,
    ],
)
def test_ranges_are_bounded(pattern):
    with pytest.raises(KdbiasError, match=r"no tar files, or more than 1,000,000|write ranges as"):
        expand(f"{pattern}.tar")


def test_ranges_combine_and_a_brace_may_be_a_name(tmp_path):
    names = ["a0-08", "a0-09", "a0-10", "a1-08", "a1-09", "a1-10"]
    for name in [*names, "{x}"]:
        tar(tmp_path / f"{name}.tar", {})
    assert expand(f"{tmp_path}/a{{0..1}}-{{08..10}}.tar") == [f"{tmp_path}/{name}.tar" for name in names]
    assert expand(f"{tmp_path}/{{x}}.tar") == [f"{tmp_path}/{{x}}.tar"]


def test_a_kept_index_that_rotted_is_made_anew(tmp_path):
    file = tar(tmp_path / "x.tar", {"1.jpg": IMAGE, "2.jpg": b"second"})
    before = open_data(file)
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    for at in range(4, len(whole), 61):  # no reader looks at the first four bytes
        entry.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        source = open_data(file)
        assert source.fingerprint == before.fingerprint
        assert source.read(1) == b"second"
        assert entry.read_bytes() == whole or at == 0  # readers find the pages without Parquet's first mark
