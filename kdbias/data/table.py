"""Tabular manifests: CSV and Parquet, with the images' paths or the images themselves."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.access import UNREADABLE, digests_of, is_uri, join, names_in, open_input, parent_of
from kdbias.data.columns import ROW_ID, Columns, source_of
from kdbias.data.image_columns import ParquetImages
from kdbias.data.settings import Options
from kdbias.data.shards import conform, parquet_below, splits_of, told, unified
from kdbias.data.source import Source, numbered_parts, repeated
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.csv_file import DELIMITERS, csv_columns, read_csv
from kdbias.tables.foreign import mistaken
from kdbias.tables.parquet_file import open_parquet, require_texts


def open_table(data: str, options: Options) -> Source:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` manifest, or a folder of Parquet files with the same columns.

    Columns: the id is ``options.id_column``, else ``sample_id``, else the path relative to the root, else the
    file's name within the folder and the row; the label is ``options.label_column``, else ``label`` where
    there is one; images come from ``options.image_column``, else from the path column where one is named,
    else from a binary column ``image`` (or a struct with a field ``bytes``; where the bytes are null, from
    the file that its field ``path`` names), else from the files in ``path``. All further columns of plain
    values that have a name become groups, and so do the splits that files are named after
    (``train-00000-of-00002.parquet``). Ids, labels and groups that say there is none (see
    :mod:`kdbias.tables.plain`) are missing.

    Paths start from the root (default: the manifest's folder) and may not leave it. The fingerprint covers
    the manifest's content (see :mod:`kdbias.data.access`), not that of image files it points to. Manifest
    and root may be URIs of a store.

    Raises:
        KdbiasError: missing columns, files whose columns differ, paths that leave the root, repeated ids, no
            rows.
    """
    files, names, folder = _files(data)
    root = options.root or folder
    root = root if is_uri(root) else os.path.abspath(root)
    try:
        schema, features = _schema(files)
        options = told(options, features)
        columns = Columns.choose(data, schema, options)
        table = _read(files, names, columns, schema, options.groups is None)
        digest: Any = digests_of(files)
    except UNREADABLE as error:
        raise KdbiasError(f"{data}: cannot be read ({first_line(error)})") from None
    if not {ROW_ID, *(["split"] if "split" not in schema.names else [])}.isdisjoint(table.column_names):
        digest = [digest, names]  # ids or splits come from them
    source = source_of(
        "table",
        data,
        table,
        columns,
        options,
        root,
        digest,
        lambda: _images(data, files, columns.image or "", root),
    )
    if isinstance(source.images, ParquetImages) and source.images.is_slow_at_random:
        note = "images lie in large row groups: reading them in random order, as training does, is slow"
        source = replace(source, notes=(*source.notes, f"{note} (rewrite with 1,000 rows a group)"))
    return source


def _images(data: str, files: Sequence[str], column: str, root: str) -> ParquetImages:
    """Reader of the image bytes in a column of Parquet files."""
    try:
        return ParquetImages(files, column, root=root)
    except UNREADABLE as error:
        raise KdbiasError(f"{data}: cannot be read ({first_line(error)})") from None


def _files(data: str) -> tuple[list[str], list[str], str]:
    """The files of a manifest, their names within it, and the folder that holds it."""
    names = names_in(data)
    if names is None:
        return [data], [os.path.basename(data.partition("?")[0])], parent_of(data)
    below = [] if is_uri(data) else parquet_below(data)
    parts = below or sorted(n for n in names if n.endswith(".parquet") and not n.startswith("."))
    if not parts:
        raise KdbiasError(f"{data}: no .parquet files in this folder")
    return [join(data, name) if is_uri(data) else os.path.join(data, name) for name in parts], parts, data


def _delimiter(file: str) -> str | None:
    """What separates a text table's columns, by the file's extension; None for Parquet."""
    return DELIMITERS.get(os.path.splitext(file.partition("?")[0])[1].lower())


def _schema(files: Sequence[str]) -> tuple[pa.Schema, list[tuple[str, Any]]]:
    """The columns, and what the ``datasets`` library left in the metadata of each file."""
    if (delimiter := _delimiter(files[0])) is not None:
        with _csv_input(files[0]) as handle:
            names = csv_columns(handle, delimiter, files[0])
        return pa.schema([(name, pa.string()) for name in names]), []
    schemas = []
    for file in files:
        try:
            with open_input(file) as handle:
                schemas.append((file, pq.read_schema(handle)))
        except UNREADABLE:
            if (mistake := mistaken(file, "Parquet")) is not None:
                raise KdbiasError(mistake) from None
            raise
    return unified(schemas), [(file, _features(schema)) for file, schema in schemas]


def _csv_input(file: str) -> pa.NativeFile:
    """Like ``open_input``, for files that may be empty (which cannot be mapped)."""
    return open_input(file) if is_uri(file) else pa.OSFile(file)


def _features(schema: pa.Schema) -> Any:
    """Hugging Face's description of the columns in a schema; None where there is none."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(
    files: Sequence[str], names: Sequence[str], columns: Columns, schema: pa.Schema, splits: bool
) -> pa.Table:
    """All plain columns, and those that the files' names stand for; the image column stays where it is."""
    tables, lengths = zip(*(_plain(file, columns, schema) for file in files), strict=True)
    table = pa.concat_tables(tables)
    found = dict(zip(table.column_names, table.columns, strict=True))
    if columns.id is None and columns.path is None:
        found[ROW_ID] = numbered_parts([f"{os.path.splitext(name)[0]}/" for name in names], lengths, 8)
    split_names = splits_of(names) if splits and "split" not in schema.names else None
    if split_names is not None:
        found["split"] = repeated(split_names, lengths)
    return pa.table(found)


def _plain(file: str, columns: Columns, schema: pa.Schema) -> tuple[pa.Table, int]:
    """The plain columns of a file, and how many rows it has."""
    if (delimiter := _delimiter(file)) is not None:
        texts = [name for name in (columns.id, columns.label, columns.path) if name is not None]
        with _csv_input(file) as handle:
            table = read_csv(handle, texts, columns.plain, delimiter, file)
        return table, table.num_rows
    if is_uri(file):
        with open_input(file) as handle:
            parquet = pq.ParquetFile(handle, page_checksum_verification=True)
            table, n = parquet.read(columns=list(columns.plain)), parquet.metadata.num_rows
        require_texts(table)
    else:
        with open_parquet(file) as opened:
            held = [name for name in columns.plain if name in opened.schema.names]
            table, n = opened.read(held), opened.file.metadata.num_rows
    return conform(table.replace_schema_metadata(), schema, file), n
