"""Data sources: ``open_data`` finds the kind of a data set and opens it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from kdbias.data.access import is_uri, without_scheme
from kdbias.data.arrays import open_arrays
from kdbias.data.description import about, check_counts, options_of, read_description
from kdbias.data.filters import filter_source
from kdbias.data.folder import open_folder
from kdbias.data.huggingface import is_saved_by_datasets, open_huggingface
from kdbias.data.lists import open_lists
from kdbias.data.recordio import open_recordio
from kdbias.data.settings import COLUMNS, Options, Reading
from kdbias.data.shards import parquet_below
from kdbias.data.source import Source
from kdbias.data.table import open_table
from kdbias.data.torchvision_sets import PREFIX as TORCHVISION
from kdbias.data.torchvision_sets import open_torchvision
from kdbias.data.verification_bin import open_bin
from kdbias.data.webdataset import COMPRESSED, open_webdataset
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.tables.files import refuse_special

__all__ = ["KINDS", "Options", "Source", "open_data"]


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        open: opens what is at a path.
        uses: the options that it makes use of, beside groups and label_names; others are refused.
        has_paths: images are sought below a root; other kinds hold them, so that one would be overlooked.
    """

    open: Callable[[str, Options], Source]
    uses: Sequence[str] = ()
    has_paths: bool = False


KINDS = {
    "folder": Kind(open_folder, ("pattern",), has_paths=True),
    "table": Kind(open_table, COLUMNS, has_paths=True),
    "arrays": Kind(open_arrays, ("arrays",)),
    "lists": Kind(open_lists, ("lists", "pattern"), has_paths=True),
    "bin": Kind(open_bin),
    "recordio": Kind(open_recordio),
    "webdataset": Kind(open_webdataset, ("id_column", "label_column", "image_column")),
    "huggingface": Kind(open_huggingface, COLUMNS, has_paths=True),
    TORCHVISION: Kind(open_torchvision, has_paths=True),
}
"""Kinds of data by the names that ``kind`` in a description takes."""

_BY_SUFFIX = {
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".npz": "arrays",
    ".bin": "bin",
    ".rec": "recordio",
    ".tar": "webdataset",
}


@takes_settings(Reading)
def open_data(data: str | os.PathLike[str], *, images: bool = True, settings: Reading) -> Source:
    """Open a data set.

    Args:
        data: an image folder, a ``.csv``/``.tsv``/``.parquet`` manifest (a path or a URI such as
            ``s3://...``), MXNet RecordIO (``train.rec`` or its folder), WebDataset tars, a verification
            ``.bin`` or a folder of them, a folder that ``datasets`` saved, ``torchvision:NAME``, or a
            ``.toml`` description (a file, or the name of one that ships with kdbias).
        images: whether there must be images; without, a table of ids, labels and groups will do.

    Returns:
        A source with at least one sample and unique ids. Conditions of ``where`` are "column=value" or
        "column!=value", see :mod:`kdbias.data.filters`. Paths start from ``root`` and may not leave it;
        without a description it is refused for data that holds its images itself.

    Raises:
        KdbiasError: nothing there, unknown columns or values, options that this kind of data makes no use
            of, repeated ids, paths that leave the root, or no samples.
    """
    name = without_scheme(os.fspath(data))
    root = None if settings.root is None else without_scheme(settings.root)
    options = Options(**vars(settings) | {"root": root, "images": images})
    if name.lower().endswith(".toml"):
        return _open_described(name, options)
    kind = kind_of(name)
    if root is not None and not KINDS[kind].has_paths:
        raise KdbiasError(f"{name}: {kind} data holds its images and has no paths: leave out --root {root}")
    return filter_source(_open(name, kind, options), options.where)


def kind_of(data: str) -> str:
    """The kind of data at a path.

    Raises:
        KdbiasError: nothing there, or nothing kdbias can read.
    """
    if data.startswith(f"{TORCHVISION}:"):
        return TORCHVISION
    suffix = os.path.splitext(data.partition("?")[0] if is_uri(data) else data)[1].lower()
    refuse_special(data)
    if is_uri(data):
        if _BY_SUFFIX.get(suffix, "table") != "table":
            raise KdbiasError(
                f"{data}: only .csv, .tsv and .parquet are read from a store; copy it to a disk"
            )
        return "table"
    if os.path.isdir(data):
        kind = _kind_of_folder(data)
        for name in os.listdir(data) if kind != "folder" else ():  # of which each image is looked at
            refuse_special(os.path.join(data, name))
        return kind
    if suffix not in _BY_SUFFIX:
        if not os.path.exists(data):
            raise KdbiasError(f"{data}: no such file or folder")
        if data.lower().endswith(COMPRESSED):
            raise KdbiasError(f"{data}: a compressed tar; decompress it first: images are read in any order")
        known = ", ".join((*_BY_SUFFIX, ".toml"))
        raise KdbiasError(f"{data}: not a kind of data kdbias reads; give a folder or one of {known}")
    is_pattern = suffix == ".tar" and any(c in data for c in "*?[{")
    if not is_pattern and not os.path.exists(data):
        raise KdbiasError(f"{data}: no such file or folder")
    return _BY_SUFFIX[suffix]


def _kind_of_folder(folder: str) -> str:
    """By what lies directly in the folder; one of folders holds images, or Parquet files and no image."""
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if is_saved_by_datasets(names):
        return "huggingface"
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    if ".rec" in suffixes:
        return "recordio"
    if ".tar" in suffixes:
        return "webdataset"
    if suffixes == {".bin"}:
        return "bin"
    return "table" if parquet_below(folder) else "folder"


def _open(data: str, kind: str, options: Options) -> Source:
    """Open data of a kind, and refuse what was said and would be overlooked."""
    wanted = (*COLUMNS, "arrays", "lists", "pattern")
    idle = f"{kind} data ({data}) makes no use of it"
    options.refuse_idle({name: idle for name in wanted if name not in KINDS[kind].uses})
    return KINDS[kind].open(data, options)


def _open_described(file: str, given: Options) -> Source:
    """The source of a dataset description, checked against what it expects."""
    description = read_description(file)
    root = description.data_root(given.root)
    of_library = description.source.startswith(f"{TORCHVISION}:")
    path = description.source if of_library else description.source_path(root)
    kind = description.kind or kind_of(path)
    if kind not in KINDS:
        raise KdbiasError(f"{description.file}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
    source = _open(path, kind, options_of(description, given, root))
    source = replace(source, about=about(description, root))
    check_counts(description, source, own_labels=given.label_column is None)
    return filter_source(source, [*description.where, *given.where])
