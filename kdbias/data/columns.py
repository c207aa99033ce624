"""Which columns of tabular data are ids, labels, paths, images and groups."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import is_uri, leaves_root
from kdbias.data.folder import FolderImages
from kdbias.data.settings import Options
from kdbias.data.sharded import holds_images
from kdbias.data.source import Images, NoImages, Source, make_source, require_column
from kdbias.errors import KdbiasError
from kdbias.tables.columns import as_names, plain_type, refuse_repeated, without_missing
from kdbias.tables.joins import as_strings, shown
from kdbias.wording import counted

ROW_ID = "\0row"
"""Column of the ids that stand in for those that a table lacks; no file has one of this name."""

_ROLES = ("image", "id", "label", "path")
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
        names, groups = schema.names, options.groups or ()
        refuse_repeated(names, data)
        for name in groups:
            _require_kind(data, schema, name, "groups")
        image, id, label, path = (_column_for(role, data, schema, options) for role in _ROLES)
        if (id or path) is None and "sample_id" in names:
            _require_kind(data, schema, "sample_id", "--id-column")  # refused: of no plain values
        if options.images:
            _require_images(data, names, image or path)
        wanted = {id, label, path, *groups}
        others = [n for n in names if n != image and (n in wanted or not _PANDAS_INDEX.fullmatch(n))]
        plain, skipped = _parted(others, lambda name: _is_plain(schema.field(name).type))
        if options.groups is not None:
            plain, _ = _parted(plain, wanted.__contains__)
        return cls(id, label, path, image, plain, skipped)


def _parted(names: Iterable[str], fits: Callable[[str], bool]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that fit, and those that do not."""
    chosen = {name: fits(name) for name in names}
    return tuple(n for n in chosen if chosen[n]), tuple(n for n in chosen if not chosen[n])


def _require_images(data: str, names: Sequence[str], column: str | None) -> None:
    """Refuse a table for which no column of images is known."""
    if column is None:
        raise KdbiasError(
            f"{data}: no column 'image' with image bytes and no column 'path'; name one with --image-column "
            f"or --path-column; it has {', '.join(names)}"
        )


def _is_plain(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds single values that a group column may have."""
    return plain_type(kind) is not None


def _require_kind(data: str, schema: pa.Schema, name: str | None, use: str) -> None:
    """Refuse a named column that does not exist or holds values of another kind."""
    require_column(data, name, schema.names, f" for {use}")
    fits, wanted = _is_plain, "plain values"
    if use == "--image-column":
        fits, wanted = holds_images, "image bytes; columns of paths go to --path-column"
    if name is not None and not fits(schema.field(name).type):
        raise KdbiasError(f"{data}: column {name!r} for {use} holds {schema.field(name).type}, not {wanted}")


def _column_for(role: str, data: str, schema: pa.Schema, options: Options) -> str | None:
    """The column that plays a part: the named one, else that of the usual name where it can."""
    named = getattr(options, f"{role}_column")
    _require_kind(data, schema, named, f"--{role}-column")
    usual = "sample_id" if role == "id" else role
    if named is not None or usual not in schema.names:
        return named
    kind = schema.field(usual).type
    fits = options.path_column is None and holds_images(kind) if role == "image" else _is_plain(kind)
    return usual if fits else None


def source_of(
    kind: str,
    data: str,
    table: pa.Table,
    columns: Columns,
    options: Options,
    root: str,
    digest: Any,
    stored: Images | None = None,
) -> Source:
    """A source of the plain columns of a table.

    Args:
        table: the plain columns.
        root: folder or URI that paths start from.
        digest: evidence of the content.
        stored: the reader of the image column, where there is one.

    Raises:
        KdbiasError: no rows, rows without a path, paths that leave the root, repeated ids.
    """
    by_path = options.images and columns.image is None
    notes = [f"columns of no plain values left out: {', '.join(columns.skipped)}"] if columns.skipped else []
    paths = None
    if columns.path is not None and (by_path or columns.id is None):
        paths = relative_paths(data, table[columns.path], root, refuse=by_path)
    elif columns.id is None:
        columns = replace(columns, id=ROW_ID)
        notes.append("no column of ids: they are the file's name and the row")
    ids = pc.replace_substring(paths, "\\", "/") if columns.id is None else as_names(table[columns.id])
    values, lost = _values(table, columns)
    labels = None if columns.label is None else values.pop(columns.label)
    if labels is not None and options.label_names is None:
        labels = as_names(labels)
    return make_source(
        kind,
        data,
        replace(options, groups=None),  # chosen when the columns were read
        ids=ids,
        images=FolderImages(root, paths) if by_path else stored or NoImages(),
        digest=[digest, columns.id, columns.label, columns.path, columns.image, sorted(table.column_names)],
        labels=labels,
        groups=values,
        names={None if columns.id == ROW_ID else columns.id: "sample_id", columns.label: "label"},
        notes=[*notes, *lost],
    )


def _values(table: pa.Table, columns: Columns) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
    """The label, where there is one, and all groups, with what says that there is none as nulls; and notes on
    texts other than the empty one that were taken for missing."""
    used = (columns.id, columns.label, columns.path, ROW_ID)
    names = [] if columns.label is None else [columns.label]
    found, notes = {}, []
    for name in (*names, *(name for name in table.column_names if name not in used)):
        values = table[name]
        found[name] = kept = without_missing(values)
        if plain_type(values.type) == pa.large_string():
            values = as_strings(values)
            lost = values.filter(pc.and_(pc.is_null(kept), pc.not_equal(values, "")))
            texts = ", ".join(map(repr, pc.unique(lost).to_pylist()))
            notes += [f"{counted(len(lost), 'value')} of {name} read as missing ({texts})"] * bool(texts)
    return found, notes


def relative_paths(data: str, values: pa.ChunkedArray, root: str, refuse: bool = True) -> pa.Array:
    """Paths relative to the root.

    Args:
        refuse: paths that leave the root are an error (they are mere names where the images lie elsewhere).

    Raises:
        KdbiasError: paths that are missing or leave the root.
    """
    paths = without_missing(as_strings(values))
    if missing := paths.null_count:
        raise KdbiasError(
            f"{data}: {counted(missing, 'row', 'has/have')} no path; drop them, or name another --path-column"
        )
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
            f"{data}: {counted(len(leaving), 'path', 'leaves/leave')} the data root {root} "
            f"({shown(pa.array(leaving))}); give the folder above all images as --root"
        )
    return paths
