"""WebDataset: samples in tar files, the members of one sample side by side under one key."""

import glob
import itertools
import math
import os
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import MAX_FILE_BYTES
from kdbias.data.decode import UnreadableImage
from kdbias.data.settings import Options
from kdbias.data.sharded import RandomAccess
from kdbias.data.source import Source, make_source
from kdbias.data.tar_index import NO_FILE, RESERVED, Remarks, cached_index, index_tar, joined
from kdbias.errors import KdbiasError
from kdbias.progress import bar
from kdbias.tables import fingerprints
from kdbias.tables.joins import as_strings

_FORM = "webdataset 2"
_MAX_TARS = 1_000_000
_SHOWN = 8
COMPRESSED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
"""Endings of tars that must be decompressed before images can be read from them in any order."""


class TarImages:
    """Images in tar files by byte offset.

    Args:
        files: absolute paths of the tars.
        shards: (n,) number of the tar of each image.
        offsets, sizes: (n,) int64, in bytes; a size below 0 is that of no image.
    """

    def __init__(
        self, files: Sequence[str], shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray
    ) -> None:
        self._access = RandomAccess(files)
        self.shards, self.offsets, self.sizes = shards, offsets, sizes

    def read(self, row: int) -> bytes:
        size = int(self.sizes[row])
        if size == NO_FILE:
            raise UnreadableImage(
                "no image: a link or device; pack files (tar --dereference --hard-dereference)"
            )
        if size < 0:
            raise UnreadableImage("no image: the sample has no member with the image's extension")
        if size > MAX_FILE_BYTES:
            raise UnreadableImage(f"member of {size:,} bytes, limit {MAX_FILE_BYTES:,}")
        return self._access.read(int(self.shards[row]), int(self.offsets[row]), size)

    def location(self, row: int) -> str:
        file = os.path.basename(self._access.files[self.shards[row]])
        return file if self.sizes[row] < 0 else f"{file}@{self.offsets[row]}"


def open_webdataset(data: str, options: Options) -> Source:
    """Open one ``.tar``, a folder of them, a pattern (``shards/*.tar``) or a range (``{0000..0012}.tar``).

    Ids are the keys (a member's path up to the first dot of its name), with the tar's name before them if a
    key occurs in several tars; the members of a key may stand anywhere in its tar. Columns come from members
    ``.cls``, ``.label``, ``.id``, ``.index`` (short texts) and the plain values of ``.json``; the label is
    ``cls``, else ``label``, unless the options name another. The image is the first member with an image's
    extension, or the one whose extension (all that follows the first dot) is ``options.image_column``; where
    a key has none such, every member that ends in it is a sample, by its name up to there. Upper and lower
    case of extensions count alike. A sample without an image is an unreadable one. What is left out or stays
    empty is counted in the source's notes: further images of a sample, names without an extension, labels
    and ``.json`` that are not UTF-8, too long, or give a name two values. Hidden files do not count.

    Each tar is read through once to note the offsets, which are then kept (see
    :mod:`kdbias.data.tar_index`). The fingerprint covers keys, columns, offsets and sizes, not the
    content of the images.

    Raises:
        KdbiasError: no tars, compressed, cut or damaged ones, members that leave the root or occur twice,
            images that are no sample's for certain, no images.
    """
    files = [os.path.abspath(file) for file in expand(data)]
    image = (options.image_column or "").lower().lstrip(".") or None
    form = f"{_FORM} {image or ''}"
    tables = []
    with bar(len(files), "tars", "index") as progress:
        for file in files:
            tables.append(cached_index(file, form, lambda f: index_tar(f, image)))
            progress.update(1)
    remarks = Remarks()
    for indexed in tables:
        remarks.join(indexed.schema.metadata)
    table = joined(tables)
    sizes = np.repeat(np.arange(len(files)), [t.num_rows for t in tables])
    if not table.num_rows or pc.max(table["size"]).as_py() < 0:
        found = ", ".join(f"{'.' + ending!r} ({n:,})" for ending, n in remarks.endings.most_common(_SHOWN))
        wanted = f" with the extension .{image}" if image else ""
        raise KdbiasError(
            f"{data}: no images{wanted} in its tar files ({len(files):,}), whose members end in "
            f"{found or 'nothing'}; --image-column names the extension of the images"
        )
    columns = {name: table[name] for name in table.column_names if name not in RESERVED}
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
        notes=[*notes, *remarks.notes()],
    )


def expand(data: str) -> list[str]:
    """The tar files that a path, folder, pattern or range stands for, sorted (ranges in their order).

    Raises:
        KdbiasError: none, one that does not exist, a compressed one beside them, or too many.
    """
    if os.path.isdir(data):
        names = [name for name in sorted(os.listdir(data)) if name[0] != "."]
        packed = [name for name in names if name.lower().endswith(COMPRESSED)]
        if packed:
            raise KdbiasError(
                f"{data}: holds compressed tars ({', '.join(packed[:3])}): decompress them first"
            )
        files = [os.path.join(data, name) for name in names if name.lower().endswith(".tar")]
    elif os.path.exists(data):
        files = [data]
    elif "{" in data:
        files = _ranges(data)
    elif any(c in data for c in "*?["):
        files = sorted(glob.glob(data))
    else:
        files = [data]
    if not files:
        raise KdbiasError(f"{data}: no .tar files")
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise KdbiasError(f"{data}: {len(missing):,} of {len(files):,} tar files do not exist ({missing[0]})")
    return files


def _ranges(pattern: str) -> list[str]:
    parts = re.split(r"\{(\d{1,18})\.\.(\d{1,18})\}", pattern)  # text, first, last, text, first, ..., text
    texts, firsts, lasts = parts[::3], parts[1::3], parts[2::3]
    if "{" in "".join(texts):
        raise KdbiasError(f"{pattern[:100]}: write ranges as {{0000..0012}}")
    numbers = [range(int(first), int(last) + 1) for first, last in zip(firsts, lasts, strict=True)]
    if not 0 < math.prod(map(len, numbers)) <= _MAX_TARS:
        raise KdbiasError(f"{pattern[:100]}: ranges that stand for no tar files, or more than {_MAX_TARS:,}")
    return [
        "".join(f"{text}{n:0{len(f)}d}" for text, n, f in zip(texts, chosen, firsts, strict=False))
        + texts[-1]
        for chosen in itertools.product(*numbers)
    ]


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
