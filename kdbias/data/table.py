"""Tabular manifests: CSV and Parquet, with the images' paths or the images themselves; of one file or many.

Of many: which files a folder has, what their names and metadata say, one schema for all.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.access import digests_of, is_uri, join, names_in, open_input, parent_of
from kdbias.data.columns import ROW_ID, Columns, source_of
from kdbias.data.folder import EXTENSIONS
from kdbias.data.settings import Options
from kdbias.data.sharded import ParquetImages, holds_images
from kdbias.data.source import Source, numbered_parts, repeated
from kdbias.errors import KdbiasError
from kdbias.tables.columns import plain_type
from kdbias.tables.csv_file import DELIMITERS, csv_columns, read_csv
from kdbias.tables.joins import shown
from kdbias.tables.listing import LISTING
from kdbias.tables.parquet_file import open_parquet, readable, require_texts
from kdbias.tables.run_record import RECORD

_NUMBERED = re.compile(r"(?:.*/)?(?P<split>[^/]+?)-\d+-of-\d+(-[0-9a-f]+)?\.parquet", re.IGNORECASE)
_SPLITS = frozenset(
    ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
)


def open_table(data: str, options: Options) -> Source:
    """Open a ``.csv``, ``.tsv`` or ``.parquet`` manifest, or a folder of Parquet files with the same columns.

    Columns: the id is ``options.id_column``, else ``sample_id``, else the path relative to the root, else the
    file's name within the folder and the row; the label is ``options.label_column``, else ``label`` where
    there is one; images come from ``options.image_column``, else from the path column where one is named,
    else from a binary column ``image`` (or a struct with a field ``bytes``; where the bytes are null, from
    the file that its field ``path`` names), else from the files in ``path``. All further columns of plain
    values that have a name become groups, and so do the splits that files are named after
    (``train-00000-of-00002.parquet``). Ids, labels and groups that say there is none (see
    :mod:`kdbias.tables.columns`) are missing.

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
    schema, features = _schema(files)
    options = told(options, features)
    columns = Columns.choose(data, schema, options)
    table = _read(files, names, columns, schema, options.groups is None)
    digest: Any = digests_of(files)
    if not {ROW_ID, *(["split"] if "split" not in schema.names else [])}.isdisjoint(table.column_names):
        digest = [digest, names]  # ids or splits come from them
    images = None if columns.image is None else ParquetImages(files, columns.image, root=root)
    source = source_of("table", data, table, columns, options, root, digest, images)
    if images is not None and images.is_slow_at_random:
        note = "images lie in large row groups: reading them in random order, as training does, is slow"
        way_out = "rewrite with 1,000 rows a group, or kdbias train --sharded"
        source = replace(source, notes=(*source.notes, f"{note} ({way_out})"))
    return source


def _files(data: str) -> tuple[list[str], list[str], str]:
    """The files of a manifest, their names within it, and the folder that holds it."""
    names = names_in(data)
    if names is None:
        return [data], [os.path.basename(data.partition("?")[0])], parent_of(data)
    below = [] if is_uri(data) else parquet_below(data)
    parts = below or sorted(_shards(names))
    if not parts:
        raise KdbiasError(f"{data}: no .parquet files in this folder")
    return [join(data, name) for name in parts], parts, data


def _delimiter(file: str) -> str | None:
    """What separates a text table's columns, by the file's extension; None for Parquet."""
    return DELIMITERS.get(os.path.splitext(file.partition("?")[0])[1].lower())


def _schema(files: Sequence[str]) -> tuple[pa.Schema, list[tuple[str, Any]]]:
    """The columns, and what the ``datasets`` library left in the metadata of each file."""
    if (delimiter := _delimiter(files[0])) is not None:
        with _csv_input(files[0]) as handle:
            names = csv_columns(handle, delimiter, files[0])
        return pa.schema([(name, pa.string()) for name in names]), []
    schemas = [(file, _stored_schema(file)) for file in files]
    return unified(schemas), [(file, _features(schema)) for file, schema in schemas]


def _stored_schema(file: str) -> pa.Schema:
    """The columns of a Parquet file, and its metadata."""
    with readable(file), open_input(file) as handle:
        return pq.read_schema(handle)


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


def parquet_below(folder: str) -> list[str]:
    """Paths of the Parquet files in a folder and below, relative with ``/``, sorted; none beside images.

    Hidden files and outputs of kdbias count for nothing; what images lie deeper than all is not looked for
    where Parquet files lie directly in the folder and nothing below it.
    """
    found = []
    for place, folders, names in _visible(folder):
        shards = _shards(names)
        alone = place == folder and shards and not folders
        if not alone and any(os.path.splitext(name)[1][1:].lower() in EXTENSIONS for name in names):
            return []
        below = os.path.relpath(place, folder)
        found += [os.path.normpath(os.path.join(below, name)).replace(os.sep, "/") for name in shards]
    return sorted(found)


def _visible(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(place, its folders, its files) from a folder down, but for hidden ones and outputs of kdbias."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and RECORD not in names)
        if RECORD not in names:
            yield place, folders, [name for name in names if not name.startswith(".")]


def _shards(names: Sequence[str]) -> list[str]:
    """Those of a folder's files that hold rows of a table."""
    shown = (name for name in names if not name.startswith(".") and name != LISTING)
    return [name for name in shown if name.lower().endswith(".parquet")]


def splits_of(names: Sequence[str]) -> list[str] | None:
    """The split that each file is named after (``train-00000-of-00002.parquet``, ``test/0.parquet``).

    None where some are named after none, or all after one that is no usual name of a split.
    """
    splits = []
    for name in names:
        usual = [part for part in os.path.splitext(name)[0].split("/") if part.lower() in _SPLITS]
        if found := _NUMBERED.fullmatch(name):
            splits.append(found["split"])
        elif usual:
            splits.append(usual[-1])
        else:
            return None
    return None if len(set(splits)) == 1 and splits[0].lower() not in _SPLITS else splits


def unified(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """The columns of the first file with types that hold the values of all.

    A column of nulls fits any other, integers fit wider ones and floats, texts fit each other however Arrow
    keeps them. The order of columns does not matter.

    Args:
        schemas: (file, its schema) of each.

    Raises:
        KdbiasError: a file lacks a column or has another, or types do not go together (both are named).
    """
    name, first = schemas[0]
    fields = {field.name: field for field in first}
    holders = dict.fromkeys(fields, name)
    for file, schema in schemas[1:]:
        if schema.equals(first):
            continue
        if sorted(schema.names) != sorted(first.names):
            odd = sorted(set(schema.names) ^ set(first.names)) or ["one twice"]
            raise KdbiasError(
                f"{file}: other columns ({', '.join(schema.names)}) than {name} ({', '.join(first.names)}); "
                f"only one has {', '.join(odd)}"
            )
        for field in schema:
            common = _common(fields[field.name].type, field.type)
            if common is None:
                raise KdbiasError(
                    f"{file}: its column {field.name!r} holds {field.type}, that of {holders[field.name]} "
                    f"{fields[field.name].type}; write both with one type"
                )
            if common != fields[field.name].type:
                fields[field.name], holders[field.name] = pa.field(field.name, common), file
    return pa.schema(list(fields.values()), first.metadata)


def conform(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """The columns of a table in the order and types that `unified` found for them.

    Raises:
        KdbiasError: a value that the common type cannot hold.
    """
    columns = {}
    for field in schema:
        if field.name in table.column_names:
            values = table[field.name]
            try:
                columns[field.name] = values if values.type == field.type else values.cast(field.type)
            except pa.ArrowException as error:
                raise KdbiasError(
                    f"{where}: its column {field.name!r} does not fit the {field.type} of the other files "
                    f"({error})"
                ) from None
    return pa.table(columns)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type for the values of both, None where there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    plain, second = plain_type(one), plain_type(other)
    if plain is None or second is None:
        # Files of images are read one by one, other such columns are left out.
        alike = holds_images(one) == holds_images(other) and plain is second
        return one if alike else None
    try:
        pair = [pa.schema([("x", kind)]) for kind in (plain, second)]
        return plain_type(pa.unify_schemas(pair, promote_options="permissive").field(0).type)
    except pa.ArrowException:
        return None


def told(options: Options, files: Iterable[tuple[str, Any]]) -> Options:
    """The options, with what ``features`` documents say of ``image_column`` and ``label_names`` beside them.

    Args:
        files: (file, its document) of each; those that are no mapping say nothing.

    Raises:
        KdbiasError: files number the classes of the label in different ways.
    """
    known = [(file, features) for file, features in files if isinstance(features, Mapping)]
    images = {name for _, document in known for name in document if _said(document[name], "_type") == "Image"}
    if options.image_column is None and options.path_column is None and len(images) == 1:
        options = replace(options, image_column=images.pop())
    label = options.label_column or "label"
    named: dict[tuple[str, ...], str] = {}
    for file, features in known if options.label_names is None else ():
        if names := _class_names(features.get(label)):
            named.setdefault(names, file)
    if len(named) > 1:
        (names, file), (others, other) = list(named.items())[:2]
        raise KdbiasError(
            f"{other}: names the classes of {label!r} {shown(pa.array(others))}, but {file} "
            f"{shown(pa.array(names))}; the same number would mean two of them: read the files one by one"
        )
    return replace(options, label_names=next(iter(named))) if named else options


def _class_names(feature: Any) -> tuple[str, ...]:
    """Names of a Hugging Face feature's classes; none where it has none."""
    names = _said(feature, "names")
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else ()


def _said(feature: Any, what: str) -> Any:
    """What a Hugging Face feature says under a name; None where it says nothing."""
    return feature.get(what) if isinstance(feature, Mapping) else None
