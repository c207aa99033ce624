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
from kdbias.data.source import Source, count_distinct, joined, make_source, require_column
from kdbias.data.tar_index import NO_FILE, RESERVED, Remarks, cached_index, index_tar, one_table
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
        """The encoded bytes of a row's image; UnreadableImage where the sample has none."""
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

    def by_shard(self, rows: np.ndarray, at_hand: int) -> np.ndarray:
        """(n,) int32: the tar of each row."""
        return self.shards[rows]

    def location(self, row: int) -> str:
        """TAR@OFFSET of a row."""
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
    table, shards, remarks = _indexed(data, files, (options.image_column or "").lower().lstrip(".") or None)
    columns = {name: table[name] for name in table.column_names if name not in RESERVED}
    require_column(data, options.id_column, columns, " for --id-column")
    require_column(data, options.label_column, columns, " for --label-column")
    label = options.label_column or next((name for name in ("cls", "label") if name in columns), None)
    notes = remarks.notes()
    ids = as_strings(table["key"] if options.id_column is None else columns[options.id_column])
    if options.id_column is None and count_distinct(ids) < len(ids):
        ids = joined(_stems(files).take(pa.array(shards)), ids, by="/")
        notes = ["keys occur in several tars, so ids begin with the tar's name", *notes]
    offsets, lengths = table["offset"].to_numpy(), table["size"].to_numpy()
    chosen = {options.id_column: "sample_id", label: "label"}
    return make_source(
        "webdataset",
        data,
        options,
        ids,
        TarImages(files, shards, offsets, lengths),
        [
            fingerprints.of_arrays(ids, offsets, lengths),
            [[name, fingerprints.of_arrays(values)] for name, values in sorted(columns.items())],
            str(label),
            *options.naming,
        ],
        labels=columns.get(label),
        groups={name: values for name, values in columns.items() if name not in chosen},
        names=chosen,
        notes=notes,
    )


def _stems(files: Sequence[str]) -> pa.Array:
    """The tars' names, large_string (files,)."""
    return pa.array([os.path.splitext(os.path.basename(file))[0] for file in files], pa.large_string())


def _indexed(data: str, files: Sequence[str], image: str | None) -> tuple[pa.Table, np.ndarray, Remarks]:
    """The indexes of all tars as one, (n,) int32 number of each sample's tar, and what to remark."""
    tables, remarks = [], Remarks()
    with bar(len(files), "tars", "index") as progress:
        for file in files:
            tables.append(cached_index(file, f"{_FORM} {image or ''}", lambda f: index_tar(f, image)))
            remarks.join(tables[-1].schema.metadata)
            progress.update(1)
    table = one_table(tables)
    if not table.num_rows or pc.max(table["size"]).as_py() < 0:
        found = ", ".join(f"{'.' + ending!r} ({n:,})" for ending, n in remarks.endings.most_common(_SHOWN))
        wanted = f" with the extension .{image}" if image else ""
        raise KdbiasError(
            f"{data}: no images{wanted} in its tar files ({len(files):,}), whose members end in "
            f"{found or 'nothing'}; --image-column names the extension of the images"
        )
    return table, np.repeat(np.arange(len(files), dtype=np.int32), [t.num_rows for t in tables]), remarks


def expand(data: str) -> list[str]:
    """The tar files that a path, folder, pattern or range stands for, sorted (ranges in their order).

    Raises:
        KdbiasError: none, one that does not exist, a compressed one beside them, or too many.
    """
    if os.path.isdir(data):
        files = _tars_in(data)
    elif os.path.exists(data):
        files = [data]
    elif "{" in data:
        files = _ranges(data)
    else:
        files = sorted(glob.glob(data)) if any(c in data for c in "*?[") else [data]
    if not files:
        raise KdbiasError(f"{data}: no .tar files")
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise KdbiasError(f"{data}: {len(missing):,} of {len(files):,} tar files do not exist ({missing[0]})")
    return files


def _tars_in(folder: str) -> list[str]:
    """Paths of a folder's tars, sorted; refuses compressed ones."""
    names = [name for name in sorted(os.listdir(folder)) if name[0] != "."]
    packed = [name for name in names if name.lower().endswith(COMPRESSED)]
    if packed:
        raise KdbiasError(f"{folder}: holds compressed tars ({', '.join(packed[:3])}): decompress them first")
    return [os.path.join(folder, name) for name in names if name.lower().endswith(".tar")]


def _ranges(pattern: str) -> list[str]:
    """Paths that a pattern such as {0000..0012} stands for."""
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
