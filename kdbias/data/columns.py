"""Which columns of tabular data are ids, labels, paths, images and groups."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import is_uri, leaves_root
from kdbias.data.folder import FolderImages
from kdbias.data.image_columns import holds_images
from kdbias.data.settings import Options
from kdbias.data.source import Images, NoImages, Source, make_source
from kdbias.errors import KdbiasError
from kdbias.tables.joins import as_strings, shown
from kdbias.tables.plain import as_names, plain_type, without_missing
from kdbias.wording import counted

ROW_ID = "\0row"
"""Column of the ids that stand in for those that a table lacks; no file has one of this name."""

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # pandas's row numbers, a group of nothing


@dataclass(frozen=True)
class Columns:
    """The part each column plays.

    Attributes:
        id, label, path, image: names, None where there is no such column.
        plain: columns of plain values (among them the above, but not the image).
        skipped: columns of lists, structs and bytes, which are left out.
    """

    id: str | None
    label: str | None
    path: str | None
    image: str | None
    plain: tuple[str, ...]
    skipped: tuple[str, ...]

    @classmethod
    def choose(cls, data: str, schema: pa.Schema, options: Options) -> "Columns":
        """Columns by the options, else by their usual names ``sample_id``, ``label``, ``path``, ``image``.

        Raises:
            KdbiasError: a named column does not exist or holds values of another kind, or a name occurs
                twice.
        """
        if len(set(schema.names)) != len(schema.names):
            raise KdbiasError(f"{data}: column names occur twice ({', '.join(schema.names)})")
        for name in options.groups or ():
            _pick(data, schema, name, name, "groups")
        image = _image_column(data, schema, options)
        id = _pick(data, schema, options.id_column, "sample_id", "--id-column")
        label = _pick(data, schema, options.label_column, "label", "--label-column")
        path = _pick(data, schema, options.path_column, "path", "--path-column")
        if id is None and path is None and "sample_id" in schema.names:
            _pick(data, schema, "sample_id", "sample_id", "--id-column")  # refused: of no plain values
        named = (id, label, path, *(options.groups or ()))
        others = [n for n in schema.names if n != image and (n in named or not _PANDAS_INDEX.fullmatch(n))]
        plain = [name for name in others if plain_type(schema.field(name).type) is not None]
        if options.groups is not None:
            plain = [name for name in plain if name in (*options.groups, id, label, path)]
        skipped = [name for name in others if plain_type(schema.field(name).type) is None]
        if options.images and image is None and path is None:
            raise KdbiasError(
                f"{data}: no column 'image' with image bytes and no column 'path'; name one with "
                f"--image-column or --path-column; it has {', '.join(schema.names)}"
            )
        return cls(id, label, path, image, tuple(plain), tuple(skipped))


def source_of(
    kind: str,
    data: str,
    table: pa.Table,
    columns: Columns,
    options: Options,
    root: str,
    stored: Callable[[], Images],
    digest: Any,
) -> Source:
    """A source of the plain columns of a table.

    Args:
        table: the plain columns.
        root: folder or URI that paths start from.
        stored: gives the reader of the image column.
        digest: evidence of the content.

    Raises:
        KdbiasError: no rows, rows without a path, paths that leave the root, repeated ids.
    """
    if not table.num_rows:
        raise KdbiasError(f"{data}: holds no samples")
    by_path = options.images and columns.image is None
    paths = None
    if columns.path is not None and (by_path or columns.id is None):
        paths = relative_paths(data, table[columns.path], root, refuse=by_path)
    if by_path:
        images: Images = FolderImages(root, paths)
    else:
        images = NoImages() if columns.image is None else stored()
    notes = [f"columns of no plain values left out: {', '.join(columns.skipped)}"] if columns.skipped else []
    if columns.id is None and paths is None:
        columns = replace(columns, id=ROW_ID)
        notes.append("no column of ids: they are the file's name and the row")
    ids = pc.replace_substring(paths, "\\", "/") if columns.id is None else as_names(table[columns.id])
    labels = None if columns.label is None else table[columns.label]
    if labels is not None:
        notes += _said(columns.label, labels)
        labels = as_names(labels) if options.label_names is None else without_missing(labels)
    used = (columns.id, columns.label, columns.path, ROW_ID)
    groups = {name: table[name] for name in table.column_names if name not in used}
    notes += [note for name, values in groups.items() for note in _said(name, values)]
    groups = {name: without_missing(values) for name, values in groups.items()}
    chosen = {columns.id: "sample_id", columns.label: "label"}
    return make_source(
        kind,
        data,
        replace(options, groups=None),  # chosen when the columns were read
        ids=ids,
        images=images,
        digest=[digest, columns.id, columns.label, columns.path, columns.image, sorted(table.column_names)],
        labels=labels,
        groups=groups,
        names={name: role for name, role in chosen.items() if name not in (None, ROW_ID, role)},
        notes=notes,
    )


def relative_paths(data: str, values: pa.ChunkedArray, root: str, refuse: bool = True) -> pa.Array:
    """Paths relative to the root.

    Args:
        refuse: paths that leave the root are an error (they are mere names where the images lie elsewhere).

    Raises:
        KdbiasError: paths that are missing or leave the root.
    """
    paths = without_missing(as_strings(values))
    if missing := paths.null_count:
        raise KdbiasError(f"{data}: {missing:,} rows have no path; drop them, or name another --path-column")
    base = root.rstrip("/" if is_uri(root) else os.sep) + ("/" if is_uri(root) else os.sep)
    inside = pc.starts_with(paths, base)
    if pc.any(inside).as_py():
        paths = pc.if_else(inside, pc.replace_substring_regex(paths, "^.{%d}" % len(base), ""), paths)  # noqa: UP031
    if pc.any(pc.match_substring_regex(paths, r"^\.[/\\]")).as_py():
        paths = pc.replace_substring_regex(paths, r"^(\.[/\\])+", "")
    suspect = paths.filter(pc.match_substring_regex(paths, r"^[/\\]|^.:|://|(^|[/\\])\.\.([/\\]|$)|\x00"))
    leaving = [path for path in suspect.to_pylist() if leaves_root(path) or is_uri(path)] if refuse else []
    if leaving:
        raise KdbiasError(
            f"{data}: {len(leaving):,} paths leave the data root {root} ({shown(pa.array(leaving))}); give "
            "the folder above all images as --root"
        )
    return paths


def _pick(data: str, schema: pa.Schema, named: str | None, usual: str, option: str) -> str | None:
    if named is None:
        return usual if usual in schema.names and plain_type(schema.field(usual).type) is not None else None
    if named not in schema.names:
        raise KdbiasError(f"{data}: no column {named!r} for {option}; it has {', '.join(schema.names)}")
    if plain_type(schema.field(named).type) is None:
        raise KdbiasError(
            f"{data}: column {named!r} for {option} holds {schema.field(named).type}, not plain values"
        )
    return named


def _image_column(data: str, schema: pa.Schema, options: Options) -> str | None:
    named = options.image_column
    if named is None:
        usual = options.path_column is None and "image" in schema.names
        return "image" if usual and holds_images(schema.field("image").type) else None
    if named not in schema.names:
        raise KdbiasError(f"{data}: no column {named!r} for --image-column; it has {', '.join(schema.names)}")
    if not holds_images(schema.field(named).type):
        raise KdbiasError(
            f"{data}: column {named!r} holds {schema.field(named).type}, not image bytes; columns of paths "
            "go to --path-column"
        )
    return named


def _said(name: str | None, values: pa.ChunkedArray) -> list[str]:
    """A note on texts other than the empty one that are taken for missing values."""
    if plain_type(values.type) != pa.large_string():
        return []
    values = as_strings(values)
    lost = values.filter(pc.and_(pc.is_null(without_missing(values)), pc.not_equal(values, "")))
    texts = ", ".join(map(repr, pc.unique(lost).to_pylist()))
    return [f"{counted(len(lost), 'value')} of {name} read as missing ({texts})"] if len(lost) else []
