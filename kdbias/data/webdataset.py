"""WebDataset: samples in tar files, the members of one sample side by side under one key."""

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.decode import UnreadableImage
from kdbias.data.folder import EXTENSIONS
from kdbias.data.index_cache import cached_index
from kdbias.data.options import Options
from kdbias.data.random_access import RandomAccess
from kdbias.data.roots import MAX_FILE_BYTES, leaves_root
from kdbias.data.source import Source, make_source
from kdbias.errors import KdbiasError
from kdbias.progress import bar
from kdbias.tables import fingerprints
from kdbias.tables.joins import as_strings

_FORM = "webdataset 1"
_TEXTS = ("cls", "label", "id", "index")
_MAX_TEXT_BYTES = 256
_MAX_JSON_BYTES = 1 << 20
_RESERVED = ("key", "image", "offset", "size", "shard")


class TarImages:
    """Images in tar files by byte offset.

    Args:
        files: absolute paths of the tars.
        shards: (n,) number of the tar of each image.
        offsets, sizes: (n,) int64, in bytes.
    """

    def __init__(
        self, files: Sequence[str], shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ) -> None:
        self._access = RandomAccess(files)
        self.shards, self.offsets, self.sizes = shards, offsets, sizes

    def read(self, row: int) -> bytes:
        size = int(self.sizes[row])
        if size < 0:
            raise UnreadableImage("no image: the sample has no member with an image's extension")
        if size > MAX_FILE_BYTES:
            raise UnreadableImage(f"member of {size:,} bytes, limit {MAX_FILE_BYTES:,}")
        return self._access.read(int(self.shards[row]), int(self.offsets[row]), size)

    def location(self, row: int) -> str:
        return f"{os.path.basename(self._access.files[self.shards[row]])}@{self.offsets[row]}"


def open_webdataset(data: str, options: Options) -> Source:
    """Open one ``.tar``, a folder of them, a pattern (``shards/*.tar``) or a range (``{0000..0012}.tar``).

    Ids are the keys (a member's path up to the first dot of its name), with the tar's name before them if a
    key occurs in several tars. Columns come from members ``.cls``, ``.label``, ``.id``, ``.index`` (short
    texts) and the plain values of ``.json``; the label is ``cls``, else ``label``, unless the options name
    another. The image is the first member with an image's extension, or the one whose extension is
    ``options.image_column``.

    Each tar is read through once to note the offsets, which are then kept (see
    :mod:`kdbias.data.index_cache`). The fingerprint covers keys, columns, offsets and sizes, not the
    content of the images.

    Raises:
        KdbiasError: no tars, compressed or damaged ones, members that leave the root, no images.
    """
    options.refuse_unused(f"WebDataset {data}", "id_column", "label_column", "image_column")
    files = [os.path.abspath(file) for file in expand(data)]
    form = _FORM if options.image_column is None else f"{_FORM} {options.image_column}"
    tables = []
    with bar(len(files), "tars", "index") as progress:
        for file in files:
            tables.append(cached_index(file, form, lambda f: index_tar(f, options.image_column)))
            progress.update(1)
    table = _joined(tables)
    sizes = np.repeat(np.arange(len(files)), [t.num_rows for t in tables])
    if not table.num_rows or pc.max(table["size"]).as_py() < 0:
        raise KdbiasError(f"{data}: no images in {len(files)} tar files")
    columns = {name: table[name] for name in table.column_names if name not in _RESERVED}
    ids, notes = _ids(data, table["key"], sizes, files, options.id_column, columns)
    label = _label(data, options.label_column, columns)
    groups = {name: v for name, v in columns.items() if name not in (options.id_column, label)}
    offsets = table["offset"].to_numpy()
    lengths = table["size"].to_numpy()
    chosen = {options.id_column: "sample_id", label: "label"}
    return make_source(
        "webdataset",
        data,
        options,
        ids,
        TarImages(files, sizes.astype(np.int32), offsets, lengths),
        [
            fingerprints.of_arrays(as_strings(ids), offsets, lengths),
            _columns_digest(columns),
            str(label),
            *options.naming,
        ],
        labels=None if label is None else columns[label],
        groups=groups,
        names={name: role for name, role in chosen.items() if name is not None and name != role},
        notes=notes,
    )


def expand(data: str) -> list[str]:
    """The tar files that a path, folder, pattern or range stands for, sorted (ranges in their order).

    Raises:
        KdbiasError: none, or one that does not exist.
    """
    if os.path.isdir(data):
        files = sorted(os.path.join(data, n) for n in os.listdir(data) if n.endswith(".tar") and n[0] != ".")
    elif "{" in data:
        files = list(_ranges(data))
    elif any(c in data for c in "*?[") and not os.path.exists(data):
        files = sorted(glob.glob(data))
    else:
        files = [data]
    if not files:
        raise KdbiasError(f"{data}: no .tar files")
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise KdbiasError(f"{data}: {len(missing)} of {len(files)} tar files do not exist ({missing[0]})")
    return files


def _ranges(pattern: str) -> Iterator[str]:
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if found is None:
        if "{" in pattern:
            raise KdbiasError(f"{pattern}: write ranges as {{0000..0012}}")
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        rest = f"{number:0{len(first)}d}" + pattern[found.end() :]
        yield from _ranges(pattern[: found.start()] + rest)


@dataclass
class _Sample:
    key: str
    image: str = ""
    offset: int = -1
    size: int = -1
    columns: dict[str, Any] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)


def index_tar(file: str, image: str | None = None) -> pa.Table:
    """Keys, image offsets and columns of one tar, in the order of the tar.

    Args:
        image: extension of the images; None takes the first one that is an image's.

    Raises:
        KdbiasError: compressed, damaged, or with members that leave the root.
    """
    samples: list[_Sample] = []
    size = os.path.getsize(file)
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if leaves_root(member.name):
                    raise KdbiasError(f"{file}: refused: the member {member.name!r} leaves the data root")
                if not member.isreg() or member.issparse():
                    continue  # folders, and links, whose content would lie elsewhere
                if member.offset_data + member.size > size:
                    raise KdbiasError(f"{file}: truncated inside the member {member.name!r}")
                _add(samples, archive, member, image)
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if isinstance(error, KdbiasError):
            raise
        raise KdbiasError(
            f"{file}: not a plain .tar ({error}); decompress compressed tars first: images are read "
            "in any order"
        ) from None
    return _table(file, samples)


def _add(
    samples: list[_Sample], archive: tarfile.TarFile, member: tarfile.TarInfo, image: str | None
) -> None:
    folder, _, name = member.name.removeprefix("./").rpartition("/")
    base, dot, extension = name.partition(".")
    if not base or not dot:  # hidden files, and names without an extension
        return
    key = f"{folder}/{base}" if folder else base
    extension = extension.lower()
    if not samples or samples[-1].key != key:
        samples.append(_Sample(key))
    sample = samples[-1]
    if extension in sample.extensions:
        raise KdbiasError(f"{archive.name!s}: the member {member.name!r} occurs twice")
    sample.extensions.add(extension)
    if (extension == image) if image else (extension in EXTENSIONS and not sample.image):
        sample.image, sample.offset, sample.size = extension, member.offset_data, member.size
    elif extension in _TEXTS and member.size <= _MAX_TEXT_BYTES:
        text = _content(archive, member).decode("utf-8", "replace").strip()
        sample.columns[extension] = text
    elif extension == "json" and member.size <= _MAX_JSON_BYTES:
        sample.columns |= _plain_values(_content(archive, member))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = archive.extractfile(member)  # in memory; nothing is written
    return b"" if handle is None else handle.read()


def _plain_values(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {
        (f"json_{name}" if name in _RESERVED else name): value
        for name, value in values.items()
        if isinstance(value, (str, int, float, bool))
    }


def _table(file: str, samples: list[_Sample]) -> pa.Table:
    samples = [s for s in samples if s.image or s.columns]
    arrays: dict[str, pa.Array] = {
        "key": pa.array([s.key for s in samples], pa.large_string()),
        "offset": pa.array([s.offset for s in samples], pa.int64()),
        "size": pa.array([s.size for s in samples], pa.int64()),
    }
    for name in sorted({name for s in samples for name in s.columns}):
        arrays[name] = _column([s.columns.get(name) for s in samples])
    return pa.table(arrays)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # mixed types
        return pa.array([None if v is None else str(v) for v in values], pa.large_string())


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table; a column that has another type in another tar becomes text."""
    types: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for entry in table.schema:
            if not pa.types.is_null(entry.type):
                types.setdefault(entry.name, set()).add(entry.type)
    unified = pa.schema([(n, next(iter(t)) if len(t) == 1 else pa.large_string()) for n, t in types.items()])
    cast = []
    for table in tables:
        columns = {}
        for entry in unified:
            if entry.name in table.column_names:
                columns[entry.name] = table[entry.name].cast(entry.type)
            else:
                columns[entry.name] = pa.nulls(table.num_rows, entry.type)
        cast.append(pa.table(columns, schema=unified))
    return pa.concat_tables(cast)


def _ids(
    data: str,
    keys: pa.ChunkedArray,
    shards: np.ndarray,
    files: Sequence[str],
    id_column: str | None,
    columns: dict[str, pa.ChunkedArray],
) -> tuple[pa.Array, list[str]]:
    if id_column is not None:
        if id_column not in columns:
            raise KdbiasError(f"{data}: no column {id_column!r} for --id-column; it has {', '.join(columns)}")
        return as_strings(columns[id_column]), []
    ids = as_strings(keys)
    if pc.count_distinct(ids).as_py() == len(ids):
        return ids, []
    stems = pa.array([os.path.splitext(os.path.basename(file))[0] for file in files], pa.large_string())
    ids = pc.binary_join_element_wise(stems.take(pa.array(shards)), ids, pa.scalar("/", pa.large_string()))
    return ids, ["keys occur in several tars, so ids begin with the tar's name"]


def _label(data: str, named: str | None, columns: dict[str, pa.ChunkedArray]) -> str | None:
    if named is None:
        return next((name for name in ("cls", "label") if name in columns), None)
    if named not in columns:
        raise KdbiasError(f"{data}: no column {named!r} for --label-column; it has {', '.join(columns)}")
    return named


def _columns_digest(columns: dict[str, pa.ChunkedArray]) -> list[list[str]]:
    return [[name, fingerprints.of_arrays(values)] for name, values in sorted(columns.items())]
