"""Tabular manifests: CSV and Parquet, with the images' paths or the images themselves."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.columns import Columns, source_of
from kdbias.data.digests import digests_of
from kdbias.data.options import COLUMNS, Options
from kdbias.data.parquet_images import ParquetImages
from kdbias.data.source import Source
from kdbias.data.stores import UNREADABLE, is_uri, join, names_in, open_input, parent_of
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.csv_file import DELIMITERS, csv_columns, read_csv


def open_table(data: str, options: Options) -> Source:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` manifest, or a folder of Parquet files with one schema.

    Columns: the id is ``options.id_column``, else ``sample_id``, else the path relative to the root; the
    label is ``options.label_column``, else ``label`` where there is one; images come from
    ``options.image_column``, else from the path column where one is named, else from a binary column
    ``image`` (or a struct with a field ``bytes``), else from the files in ``path``. All further columns
    of plain values that have a name become groups.

    Paths start from the root (default: the manifest's folder) and may not leave it. The fingerprint covers
    the manifest's content (see :mod:`kdbias.data.digests`), not that of image files it points to. Manifest
    and root may be URIs of a store.

    Raises:
        KdbiasError: missing columns, paths that leave the root, repeated ids, no rows.
    """
    options.refuse_unused(f"table {data}", *COLUMNS)
    files, folder = _files(data)
    try:
        schema = _schema(files)
        if options.label_names is None:
            options = replace(options, label_names=_class_names(schema, options.label_column or "label"))
        columns = Columns.choose(data, schema, options)
        table = _read(files, columns)
        digest = digests_of(files)
    except UNREADABLE as error:
        reason = first_line(error)
        raise KdbiasError(f"{data}: cannot be read ({reason})") from None
    root = options.root or folder
    source = source_of(
        "table",
        data,
        table,
        columns,
        options,
        root if is_uri(root) else os.path.abspath(root),
        lambda: _images(data, files, columns.image or ""),
        digest,
    )
    if isinstance(source.images, ParquetImages) and source.images.is_slow_at_random:
        note = "images lie in large row groups: reading them in random order, as training does, is slow"
        source = replace(source, notes=(*source.notes, f"{note} (rewrite with 1,000 rows a group)"))
    return source


def _images(data: str, files: Sequence[str], column: str) -> ParquetImages:
    try:
        return ParquetImages(files, column)
    except UNREADABLE as error:
        raise KdbiasError(f"{data}: cannot be read ({first_line(error)})") from None


def _files(data: str) -> tuple[list[str], str]:
    """The files of a manifest, and the folder they lie in."""
    names = names_in(data)
    if names is None:
        return [data], parent_of(data)
    parts = sorted(n for n in names if n.endswith(".parquet") and not n.startswith("."))
    return [join(data, name) if is_uri(data) else os.path.join(data, name) for name in parts], data


def _delimiter(file: str) -> str | None:
    return DELIMITERS.get(os.path.splitext(file.partition("?")[0])[1].lower())


def _schema(files: Sequence[str]) -> pa.Schema:
    if not files:
        raise KdbiasError("no .parquet files in this folder")
    if (delimiter := _delimiter(files[0])) is not None:
        with _csv_input(files[0]) as handle:
            names = csv_columns(handle, delimiter, files[0])
        return pa.schema([(name, pa.string()) for name in names])
    schemas = []
    for file in files:
        with open_input(file) as handle:
            schemas.append(pq.read_schema(handle))
        if not schemas[-1].equals(schemas[0]):
            raise KdbiasError(f"{file}: other columns ({', '.join(schemas[-1].names)}) than {files[0]}")
    return schemas[0]


def _csv_input(file: str) -> pa.NativeFile:
    """Like ``open_input``, for files that may be empty (which cannot be mapped)."""
    return open_input(file) if is_uri(file) else pa.OSFile(file)


def _class_names(schema: pa.Schema, label: str) -> list[str] | None:
    """Names of integer labels that the ``datasets`` library left in a Parquet file's metadata."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None or label not in schema.names or not pa.types.is_integer(schema.field(label).type):
        return None
    try:
        return class_names(json.loads(text)["info"]["features"], label)
    except (ValueError, KeyError, TypeError):
        return None


def class_names(features: dict, label: str) -> list[str] | None:
    """Names of integer labels in a ``features`` document of the ``datasets`` library."""
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _read(files: Sequence[str], columns: Columns) -> pa.Table:
    """All plain columns; the image column stays where it is."""
    delimiter = _delimiter(files[0])
    if delimiter is not None:
        texts = [name for name in (columns.id, columns.label, columns.path) if name is not None]
        with _csv_input(files[0]) as handle:
            return read_csv(handle, texts, columns.plain, delimiter, files[0])
    tables = []
    for file in files:
        with open_input(file) as handle:
            tables.append(pq.ParquetFile(handle).read(columns=list(columns.plain)).replace_schema_metadata())
    return pa.concat_tables(tables)
