"""MXNet RecordIO (``train.rec``, ``train.idx``, ``property``), read without mxnet.

In the files of insightface, record 0 holds no image but two numbers: one more than the last image's key,
and the end of the keys of "identity records", each of which gives the range of image keys of one person.
All of these are float32, exact only up to 2^24. So the ranges are used below that alone, and only where the
images' own labels agree; otherwise every image's label is read from its own record.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.access import digest_of
from kdbias.data.decode import UnreadableImage
from kdbias.data.records import (
    ADVICE,
    HEADER_BYTES,
    LENGTH_BITS,
    MAGIC,
    behind,
    image_start,
    read_index,
    read_record,
    scan_records,
    wrong_magic,
)
from kdbias.data.settings import Options
from kdbias.data.sharded import RandomAccess
from kdbias.data.source import Source, count_distinct, make_source
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.wording import counted

_WORDS = np.dtype([("magic", "<u4"), ("word", "<u4")])
_PAYLOAD = np.dtype([("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("labels", "<f4", 2)])
_RECORD = np.dtype([*_WORDS.descr, ("payload", _PAYLOAD)])  # as far as the second label of an array
_HEAD = np.dtype([("labels", "<f4", 2), ("array", "<i8"), ("first", "<i8"), ("empty", "?")])
"""What a record's beginning says: its label (or the first two of an array), how many the array has (0: it is
none), the bytes of the first part, and whether it holds no image."""
_FLOAT32_EXACT = 1 << 24
_CHUNK = 1 << 16
_SPOT_CHECKS = 2000
_MAX_PROPERTY_BYTES = 1 << 16


class RecordImages:
    """Images of a ``.rec`` file by the byte offset of their record.

    Args:
        file: absolute path.
        keys: (n,) int64 record keys, for messages.
        offsets: (n,) int64.
    """

    def __init__(self, file: str, keys: np.ndarray, offsets: np.ndarray) -> None:
        self._file = RandomAccess([file])
        self.keys, self.offsets = keys, offsets

    def read(self, row: int) -> bytes:
        """The image bytes of a row's record."""
        payload = read_record(self._file, int(self.offsets[row]))
        return payload[image_start(payload) :]

    def location(self, row: int) -> str:
        """FILE#KEY of a row."""
        return f"{os.path.basename(self._file.files[0])}#{self.keys[row]}"


def open_recordio(data: str, options: Options) -> Source:
    """Open a ``.rec`` file, or the folder that holds one, with its ``.idx`` and ``property`` if they are
    there.

    Ids are the record keys, labels the first label of each image (as text, integers without a point; NaN,
    infinite ones and -1 are none). Without an ``.idx`` the records are found by scanning the ``.rec``. The
    fingerprint covers keys, offsets, labels and the content of the ``.rec`` (see :mod:`kdbias.data.access`).

    Raises:
        KdbiasError: no ``.rec`` or several, a damaged index or one that leaves out records.
    """
    file = os.path.abspath(_rec_file(data))
    index = os.path.splitext(file)[0] + ".idx"
    keys, offsets = read_index(index) if os.path.isfile(index) else scan_records(file)
    if not len(keys) or not os.path.getsize(file):
        raise KdbiasError(f"{file}: holds no samples")
    order = np.argsort(offsets, kind="stable")
    records = _RecordFile(file, keys[order], offsets[order], np.memmap(file, np.uint8, "r"))
    records.check(index)
    images, labels = records.images_and_labels()
    keys, offsets = records.keys[images], records.offsets[images]
    by_key = np.argsort(keys, kind="stable")
    keys, offsets, labels = keys[by_key], offsets[by_key], labels[by_key]
    texts, notes = _label_texts(labels)
    return make_source(
        "recordio",
        data,
        options,
        pa.array(keys).cast(pa.large_string()),
        RecordImages(file, keys, offsets),
        [digest_of(file), fingerprints.of_arrays(keys, offsets, labels), *options.naming],
        labels=texts,
        notes=[*notes, *_property_notes(os.path.join(os.path.dirname(file), "property"), texts)],
    )


def _rec_file(data: str) -> str:
    """The .rec file of DATA: itself, or the one of a folder."""
    if not os.path.isdir(data):
        return data
    files = sorted(name for name in os.listdir(data) if name.endswith(".rec"))
    if "train.rec" not in files and len(files) != 1:
        raise KdbiasError(f"{data}: {len(files)} .rec files ({', '.join(files)}); name one of them as DATA")
    return os.path.join(data, "train.rec" if "train.rec" in files else files[0])


def _lengths(words: np.ndarray) -> np.ndarray:
    """Bytes of the payloads, int64, by the words that hold flags and lengths."""
    return (words & ((1 << LENGTH_BITS) - 1)).astype(np.int64)


@dataclass(frozen=True)
class _RecordFile:
    """A ``.rec`` file (its bytes mapped) with its index, sorted by offset."""

    file: str
    keys: np.ndarray
    offsets: np.ndarray
    content: np.ndarray

    def check(self, index: str) -> None:
        """Refuse an index that cannot belong to the file."""
        keys, offsets, size, name = self.keys, self.offsets, len(self.content), os.path.basename(self.file)
        sorted_keys = np.sort(keys)
        if sorted_keys[0] < 0:
            raise KdbiasError(f"{index}: key {sorted_keys[0]} is below 0; {ADVICE}")
        repeated = sorted_keys[1:][np.diff(sorted_keys) == 0]
        if len(repeated):
            raise KdbiasError(f"{index}: key {repeated[0]} occurs twice; {ADVICE}")
        bad = (offsets < 0) | (offsets > size - 8) | (offsets % 4 != 0) | (np.diff(offsets, prepend=-8) < 8)
        # All starts of records where they are few; else enough to notice an index of another file.
        some = np.flatnonzero(~bad)
        if len(some) > _SPOT_CHECKS:
            drawn = np.random.default_rng(0).choice(some, _SPOT_CHECKS, replace=False)
            some = np.unique(np.r_[some[0], some[-1], drawn])
        found = self._gathered(offsets[some], _WORDS)
        bad[some] = (found["magic"] != MAGIC) | (found["word"] >> LENGTH_BITS > 1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            seen = np.flatnonzero(some == first)
            what = wrong_magic(int(found["magic"][seen[0]])) if len(seen) else "no place for a record"
            raise KdbiasError(
                f"{index}: {counted(int(bad.sum()), 'entry', 'does/do')} not fit {name} (key {keys[first]}: "
                f"{what} at byte {offsets[first]:,} of {size:,}); {ADVICE}"
            )

    def _gathered(self, offsets: np.ndarray, what: np.dtype[Any]) -> np.ndarray:
        """(m,) values of a type that begin at each offset, zeros behind the end of the file."""
        positions = offsets[:, None] + np.arange(what.itemsize)
        last = len(self.content) - 1
        raw = np.where(positions <= last, self.content[np.minimum(positions, last)], np.uint8(0))
        return raw.view(what)[:, 0]

    def images_and_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the index that hold images, and the float32 label of each.

        Raises:
            KdbiasError: something other than a record where the index points, or a key beyond all that
                record 0 announces.
        """
        described = self._description()
        if described is not None:
            self._check_keys(described[1])
            found = self._labels_by_range(*described) if max(described) < _FLOAT32_EXACT else None
            if found is not None:
                return found
        heads = self.heads(np.arange(len(self.keys)))
        self._check_gaps(heads)
        images = np.ones(len(self.keys), bool)
        if described is not None:
            # The number in record 0 may be rounded, so identity records are also told by having no image.
            last_image = described[0] - int(np.spacing(np.float32(described[0])))
            images = (self.keys != 0) & ~(heads["empty"] & (self.keys >= last_image))
        rows = np.flatnonzero(images)
        return rows, heads["labels"][rows, 0]

    def _description(self) -> tuple[int, int] | None:
        """The two numbers of insightface's record 0: end of the images' keys, end of the identities' keys."""
        zero = np.flatnonzero(self.keys == 0)
        if not len(zero) or len(self.keys) == 1:
            return None
        head = self.heads(zero)
        if not head["empty"][0] or head["array"][0] < 2 or not np.isfinite(head["labels"]).all():
            return None
        end, end_of_people = head["labels"][0].tolist()
        return int(end), int(end_of_people)

    def _check_keys(self, end: int) -> None:
        """Refuse keys that neither the announced end of keys nor the number of records allows, or too few."""
        rounding = int(np.spacing(np.float32(end)))
        last = int(self.keys.max())
        if last >= max(end + rounding, len(self.keys)) or last < end - 1 - rounding:
            raise KdbiasError(
                f"{self.file}: its last key is {last:,}, but record 0 says that keys end at {end:,}; "
                f"it is cut, or the .idx damaged: {ADVICE}"
            )

    def _check_gaps(self, heads: np.ndarray) -> None:
        """Refuse an index that leaves out records; a damaged length, which may look so, spoils one image."""
        ends = np.r_[0, behind(self.offsets, heads["first"])]
        following = np.r_[self.offsets, len(self.content)]
        while len(rows := np.flatnonzero(ends + 8 <= following)):
            found = self._gathered(ends[rows], _WORDS)
            ends[rows[found["magic"] != MAGIC]] = len(self.content)
            missing = rows[(found["magic"] == MAGIC) & (found["word"] >> LENGTH_BITS < 2)]
            if len(missing):
                place = ends[missing[0]]
                raise KdbiasError(
                    f"{self.file}: its .idx leaves out records, such as that at byte {place:,}; {ADVICE}"
                )
            ends[rows] = behind(ends[rows], _lengths(found["word"]))

    def _labels_by_range(self, last_image: int, end: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Images and labels from the identity records, or None where these cannot be trusted."""
        row_of = np.full(int(self.keys.max()) + 1, -1, np.int64)
        row_of[self.keys] = np.arange(len(self.keys))
        if not 1 < last_image < end <= len(row_of) or (row_of[1:end] < 0).any():
            return None
        people = self.heads(row_of[last_image:end])
        exact = (np.abs(people["labels"]) < _FLOAT32_EXACT).all()  # and no NaN
        if not people["empty"].all() or (people["array"] < 2).any() or not exact:
            return None
        ranges = people["labels"].astype(np.int64)
        begins, ends = ranges[np.argsort(ranges[:, 0], kind="stable")].T
        begins, ends = begins[ends > begins], ends[ends > begins]
        # The ranges must cover the images once, without a gap.
        if not len(begins) or begins[0] != 1 or ends[-1] != last_image or (begins[1:] != ends[:-1]).any():
            return None
        rows = row_of[1:last_image]
        labels = np.repeat(self.heads(row_of[begins])["labels"][:, 0], ends - begins)
        drawn = np.random.default_rng(0).integers(0, len(rows), _SPOT_CHECKS)
        checked = np.unique(np.r_[ends - 2, drawn])  # the last image of each person, and some at random
        heads = self.heads(rows[checked])
        if heads["empty"].any() or (heads["labels"][:, 0] != labels[checked]).any():
            return None
        return rows, labels

    def heads(self, rows: np.ndarray) -> np.ndarray:
        """Heads of the records at these rows of the index, (m,) of the type `_HEAD`.

        Raises:
            KdbiasError: a row that points at no record.
        """
        return np.concatenate([self._heads(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)])

    def _heads(self, rows: np.ndarray) -> np.ndarray:
        found = self._gathered(self.offsets[rows], _RECORD)
        wrong = np.flatnonzero(found["magic"] != MAGIC)
        if len(wrong):
            row = rows[wrong[0]]
            raise KdbiasError(
                f"{self.file}: key {self.keys[row]}: {wrong_magic(int(found['magic'][wrong[0]]))} at byte "
                f"{self.offsets[row]:,}; the file is damaged, or the .idx belongs to another one"
            )
        payloads, lengths = found["payload"], _lengths(found["word"])
        heads = np.empty(len(rows), _HEAD)
        heads["first"] = lengths
        # A split record may be cut inside its header: those few are joined first.
        for i in np.flatnonzero(found["word"] >> LENGTH_BITS == 1):
            payloads[i], lengths[i] = self._joined(int(self.offsets[rows[i]]))
        heads["array"], heads["labels"] = payloads["flag"], payloads["labels"]
        single = payloads["flag"] == 0
        heads["labels"][single, 0] = payloads["label"][single]
        heads["empty"] = lengths <= HEADER_BYTES + 4 * heads["array"]
        return heads

    def _joined(self, offset: int) -> tuple[np.void, int]:
        """The beginning of a split record's payload, and its length."""
        try:
            payload = read_record(RandomAccess([self.file]), offset)
            image_start(payload)
        except UnreadableImage as error:
            raise KdbiasError(f"{self.file}: damaged record at byte {offset:,} ({error})") from None
        return np.frombuffer(payload.ljust(_PAYLOAD.itemsize, b"\0"), _PAYLOAD, 1)[0], len(payload)


def _label_texts(labels: np.ndarray) -> tuple[pa.Array, list[str]]:
    """Labels as text (12 for 12.0, 0.25 for 0.25), null where there is none, and what to say of them."""
    none = ~np.isfinite(labels) | (labels == -1)
    rounded = int((np.abs(labels[~none]) >= _FLOAT32_EXACT).sum())
    notes = []
    if none.any():
        notes.append(f"{counted(int(none.sum()), 'label', 'is/are')} NaN, infinite or -1: taken for none")
    if rounded:
        notes.append(
            f"{counted(rounded, 'label')} of 2^24 or more, exact no longer (float32): people may share one"
        )
    values, places = np.unique(np.where(none, 0, labels), return_inverse=True)
    texts = [str(int(value)) if value.is_integer() else repr(value) for value in values.tolist()]
    return pa.array(texts, pa.large_string()).take(pa.array(places, mask=none)), notes


def _property_notes(file: str, labels: pa.Array) -> list[str]:
    """What the ``property`` file ("identities,height,width") says, where it disagrees."""
    try:
        with open(file, encoding="ascii") as handle:
            words = handle.read(_MAX_PROPERTY_BYTES).replace(",", " ").split()
        expected = int(words[0])
    except (OSError, ValueError, IndexError):
        return []
    found = count_distinct(labels)
    return [] if found == expected else [f"its property file says {expected:,} labels, {found:,} have images"]
