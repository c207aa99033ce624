"""Text files of paths and labels ("path label" a line), as re-identification and face sets come with."""

import os
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.access import digests_of, join_root
from kdbias.data.columns import Columns, source_of
from kdbias.data.folder import named_parts
from kdbias.data.settings import Options
from kdbias.data.source import Source, joined
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.csv_file import read_text
from kdbias.tables.joins import as_strings

_KEYS = ("file", "prefix", "columns", "label_prefix")


def open_lists(data: str, options: Options) -> Source:
    """Open a folder of images through the lists that a description names.

    Each of ``options.lists`` has "file" (below ``data``), "columns" (default path, label; separated by
    blanks or tabs), "prefix" (folder that its paths start from) and "label_prefix" (put before its labels,
    where lists number their people anew); other entries become groups of that list. Ids are the paths
    relative to the root. A pattern, if there is one, adds columns found in the paths. The fingerprint
    covers the lists.

    Raises:
        KdbiasError: lists that are missing or damaged, paths that leave the root or occur twice.
    """
    if not options.lists:
        raise KdbiasError(f"{data}: lists need a .toml description with [[lists]]")
    folder = os.path.abspath(data)
    root = os.path.abspath(options.root or data)
    files = [join_root(folder, entry["file"], data) for entry in options.lists]
    names = [key for entry in options.lists for key in entry if key not in _KEYS]
    tables = [_read(file, entry, names) for file, entry in zip(files, options.lists, strict=True)]
    table = pa.concat_tables(tables, promote_options="default")
    if options.pattern is not None:
        rows, parts = named_parts(data, as_strings(table["path"]), options.pattern)
        if len(rows) < table.num_rows:
            bad = set(range(table.num_rows)) - set(rows.tolist())
            raise KdbiasError(f"{data}: path {table['path'][min(bad)].as_py()!r} does not fit the pattern")
        for name, values in parts.items():
            table = table.append_column(name, values)
    above = os.path.relpath(folder, root).replace(os.sep, "/")
    if above != ".":
        paths = joined(f"{above}/", table["path"])
        table = table.set_column(table.column_names.index("path"), "path", paths)
    columns = Columns.choose(data, table.schema, options)
    digest = [digests_of(files), [dict(entry) for entry in options.lists], options.pattern]
    return source_of("lists", data, table.select(list(columns.plain)), columns, options, root, digest)


def _read(file: str, entry: Mapping[str, Any], groups: list[str]) -> pa.Table:
    """Table of one [[lists]] entry's file: its columns, and those of its groups."""
    names = list(entry.get("columns", ["path", "label"]))
    every = [*names, *dict.fromkeys(groups)]
    if len(set(every)) != len(every):
        raise KdbiasError(f"{file}: the columns and groups of its [[lists]] occur twice ({', '.join(every)})")
    try:
        table = _parsed(read_text(file), names)
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise KdbiasError(f"{file}: not a list of {', '.join(names)} ({first_line(error)})") from None
    if "path" not in names:
        raise KdbiasError(f"{file}: its columns must include path, not only {', '.join(names)}")
    for name, before in (("path", entry.get("prefix")), ("label", entry.get("label_prefix"))):
        if before and name in names:
            text = f"{before.rstrip('/')}/" if name == "path" else before
            table = table.set_column(names.index(name), name, joined(text, table[name]))
    for name in dict.fromkeys(groups):
        value = pa.scalar(entry.get(name), pa.large_string())
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _parsed(text: str, names: list[str]) -> pa.Table:
    """Lines of values with tabs between them, or blanks: then a path with a suffix may hold blanks, too."""
    from pyarrow import csv

    def parsed(text: str, delimiter: str) -> pa.Table:
        texts = [name for name in ("path", "label") if name in names]
        table = csv.read_csv(
            pa.BufferReader(text.encode()),
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.large_string())),
        )
        for name in texts:
            table = table.set_column(names.index(name), name, pc.utf8_trim_whitespace(table[name]))
        return table

    if "\t" in text[: text.find("\n")]:
        return parsed(text, "\t")
    try:
        return parsed(text, " ")
    except pa.ArrowInvalid:  # more words than columns
        if len(names) == 1:
            raise
        words = (r"(\S.*\.\w+)" if name == "path" else r"(\S+)" for name in names)
        tabs = "\t".join(rf"\{number}" for number in range(1, len(names) + 1))
        return parsed(re.sub(rf"^ *{' +'.join(words)} *$", tabs, text, flags=re.MULTILINE), "\t")
