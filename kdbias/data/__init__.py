"""Data sources: ``open_data`` finds the kind of a data set and opens it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from kdbias.data.arrays import open_arrays
from kdbias.data.bin_pairs import open_bin
from kdbias.data.description import about, check_counts, options_of, read_description
from kdbias.data.filters import filter_source
from kdbias.data.folder import open_folder
from kdbias.data.recordio import open_recordio
from kdbias.data.source import Options, Source
from kdbias.data.table import open_table
from kdbias.data.webdataset import open_webdataset
from kdbias.errors import KdbiasError

__all__ = ["KINDS", "Options", "Source", "open_data"]

KINDS: dict[str, Callable[[str, Options], Source]] = {
    "folder": open_folder,
    "table": open_table,
    "arrays": open_arrays,
    "bin": open_bin,
    "recordio": open_recordio,
    "webdataset": open_webdataset,
}
"""Kind of data -> the function that opens it. ``kind`` in a description takes these names."""

_BY_SUFFIX = {
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".npz": "arrays",
    ".bin": "bin",
    ".rec": "recordio",
    ".tar": "webdataset",
}


def open_data(
    data: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
) -> Source:
    """Open a data set.

    Args:
        data: an image folder, a ``.csv``/``.tsv``/``.parquet`` manifest, or a ``.toml`` description (a file,
            or the name of one that ships with kdbias).
        id_column: column of unique ids (default ``sample_id``, else the path relative to the root).
        label_column: column of identities or classes (default ``label`` where there is one).
        path_column: column of image paths relative to the root (default ``path``).
        image_column: column of encoded images (default ``image``).
        where: conditions "column=value" or "column!=value", see :mod:`kdbias.data.filters`.
        root: folder that paths start from and may not leave (default: the manifest's or description's own).

    Returns:
        A source with at least one sample and unique ids.

    Raises:
        KdbiasError: nothing there, unknown columns or values, repeated ids, paths that leave the root, or
            no samples.
    """
    name = os.fspath(data)
    options = Options(
        id_column=id_column,
        label_column=label_column,
        path_column=path_column,
        image_column=image_column,
        root=None if root is None else os.fspath(root),
    )
    if name.lower().endswith(".toml"):
        return _open_described(name, options, where)
    return filter_source(_opener(name, kind_of(name))(name, options), where)


def kind_of(data: str) -> str:
    """The kind of data at a path.

    Raises:
        KdbiasError: nothing there, or nothing kdbias can read.
    """
    if not os.path.exists(data):
        if data.endswith(".tar") and any(c in data for c in "*?[{"):
            return "webdataset"
        raise KdbiasError(f"{data}: no such file or folder")
    if not os.path.isdir(data):
        kind = _BY_SUFFIX.get(os.path.splitext(data)[1].lower())
        if kind is None:
            known = ", ".join((*_BY_SUFFIX, ".toml"))
            raise KdbiasError(f"{data}: not a kind of data kdbias reads; give a folder or one of {known}")
        return kind
    names = [name for name in os.listdir(data) if not name.startswith(".")]
    if any(n.endswith(".rec") for n in names):
        return "recordio"
    if any(n.endswith(".tar") for n in names):
        return "webdataset"
    if any(n.endswith(".parquet") for n in names) and not any(
        os.path.isdir(os.path.join(data, n)) for n in names
    ):
        return "table"
    return "folder"


def _opener(data: str, kind: str) -> Callable[[str, Options], Source]:
    if kind not in KINDS:
        raise KdbiasError(f"{data}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind]


def _open_described(file: str, given: Options, where: Sequence[str]) -> Source:
    description = read_description(file)
    root = description.data_root(given.root)
    path = description.source_path(root)
    kind = description.kind or kind_of(path)
    source = _opener(description.file, kind)(path, options_of(description, given, root))
    source = replace(source, about=about(description, root))
    check_counts(description, source, own_labels=given.label_column is None)
    return filter_source(source, [*description.where, *where])
