"""The files of one data set: which of a folder, what their names and metadata say, one schema for all."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from kdbias.data.folder import EXTENSIONS
from kdbias.data.image_columns import holds_images
from kdbias.data.settings import Options
from kdbias.errors import KdbiasError
from kdbias.tables.plain import plain_type
from kdbias.tables.run_record import RECORD

_NUMBERED = re.compile(r"(?:.*/)?(?P<split>[^/]+?)-\d+-of-\d+(-[0-9a-f]+)?\.parquet", re.IGNORECASE)
_SPLITS = frozenset(
    ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
)


def parquet_below(folder: str) -> list[str]:
    """Paths of the Parquet files in a folder and below, relative with ``/``, sorted; none beside images.

    Hidden files and outputs of kdbias count for nothing; what images lie deeper than all is not looked for
    where Parquet files lie directly in the folder and nothing below it.
    """
    found = []
    for place, folders, names in os.walk(folder):
        if RECORD in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in names if not name.startswith(".")]
        shards = [name for name in names if name.lower().endswith(".parquet")]
        alone = place == folder and shards and not folders
        if not alone and any(os.path.splitext(name)[1][1:].lower() in EXTENSIONS for name in names):
            return []
        below = os.path.relpath(place, folder)
        found += [os.path.normpath(os.path.join(below, name)).replace(os.sep, "/") for name in shards]
    return sorted(found)


def splits_of(names: Sequence[str]) -> list[str] | None:
    """The split that each file is named after (``train-00000-of-00002.parquet``, ``test/0.parquet``).

    None where some are named after none, or all after one that is no usual name of a split.
    """
    splits = [_split_of(name) for name in names]
    known = [split for split in splits if split is not None]
    if len(known) < len(names) or (len(set(known)) == 1 and known[0].lower() not in _SPLITS):
        return None
    return known


def _split_of(name: str) -> str | None:
    """The split that a shard's name states, if any."""
    if found := _NUMBERED.fullmatch(name):
        return found["split"]
    parts = os.path.splitext(name)[0].split("/")
    return next((part for part in reversed(parts) if part.lower() in _SPLITS), None)


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
    images = {name for _, features in known for name in features if _is_image(features[name])}
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
            f"{other}: names the classes of {label!r} {_few(others)}, but {file} {_few(names)}; the same "
            "number would mean two of them: read the files one by one"
        )
    return replace(options, label_names=next(iter(named))) if named else options


def _is_image(feature: Any) -> bool:
    """Whether a Hugging Face feature is an image."""
    return isinstance(feature, Mapping) and feature.get("_type") == "Image"


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """Names of a Hugging Face feature's classes; None where it has none."""
    names = feature.get("names") if isinstance(feature, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _few(names: Sequence[str]) -> str:
    """The first three names and how many there are, for a message."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
