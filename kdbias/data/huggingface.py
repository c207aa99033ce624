"""Data sets that the Hugging Face ``datasets`` library saved to a folder (``save_to_disk``).

Such a folder holds Arrow streams and two small JSON files, so it is read (memory-mapped) without that
library. What the Hub offers as Parquet files is read as a table (see :mod:`kdbias.data.table`).
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.columns import Columns, holds_images, source_of
from kdbias.data.decode import UnreadableImage
from kdbias.data.digests import digests_of
from kdbias.data.options import COLUMNS, Options
from kdbias.data.roots import join_root
from kdbias.data.source import Source, numbered
from kdbias.data.stores import UNREADABLE
from kdbias.data.table import class_names
from kdbias.errors import KdbiasError, first_line

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MAX_JSON_BYTES = 1 << 26


def is_saved_by_datasets(names: Sequence[str]) -> bool:
    """Whether a folder with these entries was written by ``save_to_disk``."""
    return _DICT in names or (_STATE in names and _INFO in names)


class ArrowImages:
    """A column of images in Arrow streams, memory-mapped by each process on first use.

    Args:
        files: absolute paths, one schema.
        column: a binary column, or a struct with a binary field ``bytes``.
    """

    def __init__(self, files: Sequence[str], column: str) -> None:
        self.files, self.column = tuple(files), column
        self._mapped: tuple[list[pa.Array], np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}

    def read(self, row: int) -> bytes:
        if self._mapped is None:
            chunks = [c for file in self.files for c in _mapped(file)[self.column].chunks]
            self._mapped = chunks, np.concatenate([[0], np.cumsum([len(c) for c in chunks])])
        chunks, starts = self._mapped
        number = int(np.searchsorted(starts, row, side="right")) - 1
        value = chunks[number][row - int(starts[number])]
        path = None
        if pa.types.is_struct(value.type):
            has_path = value.is_valid and value.type.get_field_index("path") >= 0
            path = value["path"].as_py() if has_path else None
            value = value["bytes"] if value.is_valid else value
        if not value.is_valid:
            where = f"; it was left at {path!r}" if path else ""
            raise UnreadableImage(f"no image: its bytes are not in the data set{where}")
        return value.as_py()

    def location(self, row: int) -> str:
        return f"{os.path.basename(os.path.dirname(self.files[0]))}#{row}"


def open_huggingface(data: str, options: Options) -> Source:
    """Open a folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``.

    The splits of a dict become the group ``split``. Columns play their parts as in a table; without an id
    column the id is "<split>/<row>". Names of a ``ClassLabel`` become the labels. The fingerprint covers
    the content of the files (see :mod:`kdbias.data.digests`).

    Raises:
        KdbiasError: damaged files, splits with other columns, no images.
    """
    options.refuse_unused(f"saved data set {data}", *COLUMNS)
    parts = _splits(data)
    try:
        tables = [[_mapped(file) for file in files] for _, files in parts]
        digests = iter(digests_of([file for _, files in parts for file in files]))
    except UNREADABLE as error:
        raise KdbiasError(f"{data}: cannot be read ({first_line(error)})") from None
    digest = [[name, [next(digests) for _ in files]] for name, files in parts]
    schema = tables[0][0].schema.remove_metadata()
    for (name, files), group in zip(parts, tables, strict=True):
        for table in group:
            if not table.schema.remove_metadata().equals(schema):
                raise KdbiasError(f"{data}: the split {name!r} has other columns ({files[0]})")
    names, counts = [name for name, _ in parts], [sum(t.num_rows for t in group) for group in tables]
    table = pa.concat_tables([t.replace_schema_metadata() for group in tables for t in group])
    table = _with_ids(table, names, counts, options)
    if options.image_column is None:
        options = _image_option(options, schema)
    if options.label_names is None:
        options = _label_option(options, os.path.dirname(parts[0][1][0]), schema)
    columns = Columns.choose(data, table.schema, options)
    if columns.image is None:
        raise KdbiasError(
            f"{data}: no column of images; name one with --image-column ({', '.join(schema.names)})"
        )
    files = [file for _, group in parts for file in group]
    image = columns.image
    plain = table.select(list(columns.plain))
    return source_of(
        "huggingface", data, plain, columns, options, data, lambda: ArrowImages(files, image), digest
    )


def _splits(data: str) -> list[tuple[str, list[str]]]:
    """(split, Arrow files) of each split; a lone data set is one split without a name."""
    if os.path.isfile(os.path.join(data, _DICT)):
        names = _json(os.path.join(data, _DICT)).get("splits")
        if not isinstance(names, list) or not names:
            raise KdbiasError(f"{data}: {_DICT} names no splits")
        return [
            (str(name), _arrow_files(join_root(os.path.abspath(data), str(name), data))) for name in names
        ]
    return [("", _arrow_files(os.path.abspath(data)))]


def _arrow_files(folder: str) -> list[str]:
    entries = _json(os.path.join(folder, _STATE)).get("_data_files")
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise KdbiasError(f"{folder}: {_STATE} names no files")
    return [join_root(folder, str(e.get("filename")), os.path.join(folder, _STATE)) for e in entries]


def _json(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as handle:
            content = json.loads(handle.read(_MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise KdbiasError(f"{file}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise KdbiasError(f"{file}: holds no JSON object")
    return content


def _mapped(file: str) -> pa.Table:
    with pa.ipc.open_stream(pa.memory_map(file)) as stream:
        table = stream.read_all()
    table.validate(full=True)  # a damaged stream could point outside its memory
    return table


def _with_ids(table: pa.Table, names: list[str], counts: list[int], options: Options) -> pa.Table:
    """The table with ``split`` and, unless there is an id column, ``sample_id``."""
    named = any(names)
    if named and "split" not in table.column_names:
        splits = pa.array(names, pa.large_string()).take(pa.array(np.repeat(np.arange(len(names)), counts)))
        table = table.append_column("split", splits)
    if options.id_column is None and "sample_id" not in table.column_names:
        parts = zip(names, counts, strict=True)
        ids = [numbered(count, 8, f"{name}/" if named else "") for name, count in parts]
        table = table.append_column("sample_id", pa.concat_arrays(ids))
    return table


def _image_option(options: Options, schema: pa.Schema) -> Options:
    """The only column that can hold images is the image column, whatever its name."""
    from dataclasses import replace

    rich = [field.name for field in schema if holds_images(field.type)]
    return replace(options, image_column=rich[0]) if len(rich) == 1 else options


def _label_option(options: Options, folder: str, schema: pa.Schema) -> Options:
    from dataclasses import replace

    label = options.label_column or "label"
    if label not in schema.names or not pa.types.is_integer(schema.field(label).type):
        return options
    info = os.path.join(folder, _INFO)
    features = _json(info).get("features") if os.path.isfile(info) else None
    return replace(options, label_names=class_names(features, label) if isinstance(features, dict) else None)
