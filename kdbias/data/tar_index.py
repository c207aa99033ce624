"""What a tar holds: the samples, where their images lie and what is said of them.

A sample is all members of one key, wherever they stand in the tar. As in WebDataset, a key ends at the first
dot of a member's name, and what follows is the member's extension, which may have dots of its own.

An index is made once and kept in the user's cache folder: ``$KDBIAS_CACHE``, else
``$XDG_CACHE_HOME/kdbias``, else ``~/.cache/kdbias``; it may be removed at any time. An entry belongs to a
file's path, size and times of change: that of its content, which copying may carry over, and that of the file
itself, which it cannot. Where the folder cannot be written, indexes are built anew each time.
"""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from kdbias.data.access import leaves_root
from kdbias.data.folder import EXTENSIONS
from kdbias.data.tar import Member, read_members
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.files import refuse_special
from kdbias.tables.parquet_file import parquet_writer, read_table
from kdbias.wording import is_utf8

RESERVED = ("key", "image", "offset", "size", "shard")
NO_IMAGE, NO_FILE = -1, -2
"""Sizes of a sample without an image, and of one whose image is a link or device."""

_TEXTS = ("cls", "label", "id", "index")
_MAX_TEXT_BYTES = 256
_MAX_JSON_BYTES = 1 << 20
_MAX_COLUMNS = 1000
_SHOWN = 8

_REMARKS = {
    "further": "images left out whose sample has another: {n} ({name!r}; --image-column EXTENSION chooses)",
    "nameless": "members left out for want of an extension: {n} ({name!r})",
    "odd": "labels or .json left empty that are not UTF-8, too long or of two values: {n} ({name!r})",
}


@dataclass(slots=True)
class _Sample:
    images: dict[str, tuple[int, int]] = field(default_factory=dict)  # extension -> offset, size
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)  # extension but its last part -> values
    extensions: set[str] = field(default_factory=set)


class Remarks:
    """How often something was met that the reader of a run should know, with the first member's name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, what: str, name: str, count: int = 1) -> None:
        """Count what was met, and keep the first name it was met at."""
        if count:
            self.counts[what] += count
            self._first.setdefault(what, name)

    def notes(self) -> list[str]:
        """One line for each kind of remark."""
        return [
            text.format(n=f"{self.counts[what]:,}", name=self._first[what])
            for what, text in _REMARKS.items()
            if what in self._first
        ]

    def stored(self) -> dict[str, str]:
        """All of this, as metadata of an Arrow schema."""
        endings = dict(self.endings.most_common(_SHOWN))
        return {"remarks": json.dumps([dict(self.counts), self._first, endings])}

    def join(self, metadata: dict[bytes, bytes]) -> None:
        """Add what `stored` gave for another tar."""
        counts, first, endings = json.loads(metadata[b"remarks"])
        self.endings.update(endings)
        for what, count in counts.items():
            self.add(what, first[what], count)


def index_tar(file: str, image: str | None = None) -> pa.Table:
    """Keys, offsets and sizes of the images, and columns of one tar, in the order of its samples.

    Args:
        image: extension of the images (lower case); None takes the first one that is an image's.

    Returns:
        ``key``, ``offset`` and ``size`` (below 0: no image), and the columns; `Remarks` in its metadata.

    Raises:
        KdbiasError: compressed or damaged, members that leave the root or occur twice, or images that belong
            to no sample for certain.
    """
    gathered = _Gathered(file, image)
    refuse_special(file)
    with open(file, "rb") as handle:
        for member in read_members(handle, file):
            gathered.add(handle, member)
    rows = list(gathered.rows() if image is None else gathered.rows_with(image))
    names = sorted({name for _, _, columns in rows for name in columns})
    if len(names) > _MAX_COLUMNS:
        raise KdbiasError(
            f"{file}: its .json members have {len(names):,} different names, limit {_MAX_COLUMNS:,}: each "
            "would be a column; keep such values in a list, or leave them out"
        )
    arrays: dict[str, pa.Array] = {
        "key": pa.array([key for key, _, _ in rows], pa.large_string()),
        "offset": pa.array([place[0] for _, place, _ in rows], pa.int64()),
        "size": pa.array([place[1] for _, place, _ in rows], pa.int64()),
    }
    arrays |= {name: _column([columns.get(name) for _, _, columns in rows]) for name in names}
    return pa.table(arrays, metadata=gathered.remarks.stored())


_Row = tuple[str, tuple[int, int], dict[str, Any]]


@dataclass
class _Gathered:
    """The samples of a tar, from its members; `image` is the extension of the images, where one is named."""

    file: str
    image: str | None
    samples: dict[str, _Sample] = field(default_factory=dict)
    remarks: Remarks = field(default_factory=Remarks)

    def add(self, handle: BinaryIO, member: Member) -> None:
        """Enter a member into its sample: the image's place, or the values of its columns."""
        if leaves_root(member.name):
            raise KdbiasError(f"{self.file}: refused: the member {member.name!r} leaves the data root")
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        base, dot, extension = name.partition(".")
        if not base:  # hidden
            return
        if not dot:
            return self.remarks.add("nameless", member.name)
        extension = extension.lower()
        self.remarks.endings[extension] += 1
        sample = self.samples.setdefault(f"{folder}/{base}" if folder else base, _Sample())
        if extension in sample.extensions:
            raise KdbiasError(
                f"{self.file}: the member {member.name!r} occurs twice; pack the tar anew, with one of them"
            )
        sample.extensions.add(extension)
        stem, _, last = extension.rpartition(".")
        named = self.image is not None
        if last in EXTENSIONS or (named and f".{extension}".endswith(f".{self.image}")):
            sample.images[extension] = (member.offset, member.size) if member.is_file else (-1, NO_FILE)
        elif (last in _TEXTS or last == "json") and (named or not stem):
            values, whole = _said(handle, member, last)
            columns = sample.columns.setdefault(stem, {})
            columns.update(values | columns if last == "json" else values)
            self.remarks.add("odd", member.name, not whole)

    def rows(self) -> Iterator[_Row]:
        """Key, place of the image and columns of each sample, by the first image of a plain extension."""
        dotted: list[tuple[str, str]] = []
        for key, sample in self.samples.items():
            first = next((extension for extension in sample.images if "." not in extension), None)
            others = [extension for extension in sample.images if extension != first]
            if first:
                self.remarks.add("further", f"{key}.{others[0]}" if others else "", len(others))
            else:
                dotted += [(key, extension) for extension in others]
            yield key, sample.images[first] if first else (-1, NO_IMAGE), sample.columns.get("", {})
        if dotted:
            key, extension = dotted[0]
            usual, times = Counter(extension for _, extension in dotted).most_common(1)[0]
            last = extension.rpartition(".")[2]
            raise KdbiasError(
                f"{self.file}: a sample's key ends at the first dot of a name, and images have further ones: "
                f"{len(dotted):,} ({f'{key}.{extension}'!r}); --image-column {last} takes each as a sample"
                + (f", --image-column {usual} one such of each key" if times > 1 else "")
            )

    def rows_with(self, image: str) -> Iterator[_Row]:
        """The same, by the image of one extension. Where a sample has no such member, but some whose
        extensions end in it, each of these is a sample."""
        for key, sample in self.samples.items():
            own = sample.columns.get("", {})
            ends = [extension for extension in sample.images if extension.endswith(f".{image}")]
            single = image in sample.images or not ends
            left = ends if single else [extension for extension in sample.images if extension not in ends]
            self.remarks.add("further", f"{key}.{left[0]}" if left else "", len(left))
            if single:
                yield key, sample.images.get(image, (-1, NO_IMAGE)), own
                continue
            places = {extension[: -len(image) - 1]: sample.images[extension] for extension in ends}
            for stem in dict.fromkeys([*places, *filter(None, sample.columns)]):
                yield f"{key}.{stem}", places.get(stem, (-1, NO_IMAGE)), own | sample.columns.get(stem, {})


def _said(handle: BinaryIO, member: Member, last: str) -> tuple[dict[str, Any], bool]:
    """What a text or a .json says, by name, and whether all of it could be read."""
    if not member.is_file or member.size > (_MAX_JSON_BYTES if last == "json" else _MAX_TEXT_BYTES):
        return {}, False
    handle.seek(member.offset)
    content = handle.read(member.size)
    if last == "json":
        return _plain_values(content)
    try:
        return {last: content.decode("utf-8-sig").strip() or None}, True
    except UnicodeDecodeError:
        return {last: None}, False


def _plain_values(content: bytes) -> tuple[dict[str, Any], bool]:
    """The texts, numbers and truth values directly in a JSON object, and whether all of it could be read."""
    try:
        # Pairs become tuples, so that a name that occurs twice is seen, and nested objects are told apart.
        pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return {}, False
    values: dict[str, Any] = {}
    whole = True
    for name, value in pairs if isinstance(pairs, tuple) else ():
        if not isinstance(value, str | int | float):
            continue
        if not is_utf8(name):
            whole = False
            continue
        name = f"json_{name}" if name in RESERVED else name
        garbled = isinstance(value, str) and not is_utf8(value)
        if name in values or garbled or value in (math.inf, -math.inf):
            value, whole = None, False
        values[name] = None if value != value else value  # NaN is how some writers say that there is none
    return values, whole


def _column(values: Sequence[Any]) -> pa.Array:
    """Values as an Arrow column; as text where their types do not go together."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types, or integers beyond 64 bits
        return pa.array([_as_text(value) for value in values], pa.large_string())


def _as_text(value: Any) -> str | None:
    """As Arrow writes a column of the value's type: the same label in every tar."""
    if value is None or isinstance(value, str):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else pa.scalar(value).cast(pa.large_string()).as_py()


def one_table(tables: Sequence[pa.Table]) -> pa.Table:
    """One table; a column that has another type in another tar becomes text."""
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for entry in table.schema:
            if not pa.types.is_null(entry.type):
                types.setdefault(entry.name, set()).add(entry.type)
    mixed = {name for name, found in types.items() if len(found) > 1}
    cast = []
    for table in tables:
        columns = {name: table[name] for name in table.column_names if name in types}
        texts = {name: columns[name].cast(pa.large_string()) for name in mixed & columns.keys()}
        cast.append(pa.table(columns | texts))
    return pa.concat_tables(cast, promote_options="default")


def cache_folder() -> Path:
    """Where indexes are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("KDBIAS_CACHE") or os.path.join(base, "kdbias"))


def cached_index(file: str, form: str, build: Callable[[str], pa.Table]) -> pa.Table:
    """The index of a file: from the cache if the file is unchanged, else built and stored.

    Args:
        file: absolute path.
        form: name and version of the index's form; another form is another entry.
        build: makes the index of a file.
    """
    status = os.stat(file)
    times = [status.st_mtime_ns, status.st_ctime_ns]
    key = fingerprints.of_json([form, os.path.realpath(file), status.st_size, *times])
    entry = cache_folder() / f"{key}.parquet"
    with contextlib.suppress(OSError, KdbiasError):  # none yet, or a damaged one
        return read_table(entry)
    table = build(file)
    with contextlib.suppress(OSError), parquet_writer(entry, table.schema, compression="ZSTD") as writer:
        writer.write_table(table)
    return table
