"""Data sets that the Hugging Face ``datasets`` library saved to a folder (``save_to_disk``).

Such a folder holds Arrow streams and two small JSON files, so it is read (memory-mapped) without that
library. What the Hub offers as Parquet files is read as a table (see :mod:`kdbias.data.table`).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.access import digests_of, join_root
from kdbias.data.columns import Columns, source_of
from kdbias.data.settings import Options
from kdbias.data.sharded import ArrowImages, holds_images, mapped_stream
from kdbias.data.source import Source, numbered_parts, repeated
from kdbias.data.table import conform, told, unified
from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_document

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def is_saved_by_datasets(names: Sequence[str]) -> bool:
    """Whether a folder with these entries was written by ``save_to_disk``."""
    return _DICT in names or (_STATE in names and _INFO in names)


def open_huggingface(data: str, options: Options) -> Source:
    """Open a folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``.

    The splits of a dict become the group ``split``. Columns play their parts as in a table; without an id
    column the id is "<split>/<row>". Names of a ``ClassLabel`` become the labels. The fingerprint covers
    the content of the files (see :mod:`kdbias.data.access`).

    Raises:
        KdbiasError: damaged files, splits with other columns, no images.
    """
    root = os.path.abspath(options.root or data)
    splits = _splits(data)
    files = [file for _, group in splits for file in group]
    found = [(file, mapped_stream(file)) for file in files]
    digests = dict(zip(files, digests_of(files), strict=True))
    schema = unified([(file, table.schema.remove_metadata()) for file, table in found])
    options = told(options, [(group[0], _features(group[0])) for _, group in splits])
    options = _with_images(options, schema)
    lengths = [table.num_rows for _, table in found]
    made = _made_columns(splits, lengths, schema, options)
    schema = pa.schema([*schema, *(pa.field(name, values.type) for name, values in made.items())])
    columns = Columns.choose(data, schema, options)
    if options.images and columns.image is None:
        raise KdbiasError(
            f"{data}: no column of images; name one with --image-column ({', '.join(schema.names)})"
        )
    plain = _plain(found, schema, columns, made)
    digest = [[name, [digests[file] for file in group]] for name, group in splits]
    images = ArrowImages(files, columns.image, lengths, root) if columns.image else None
    return source_of("huggingface", data, plain, columns, options, root, digest, images)


def _with_images(options: Options, schema: pa.Schema) -> Options:
    """The only column that can hold images is the image column, whatever its name."""
    rich = [field.name for field in schema if holds_images(field.type)]
    known = options.image_column is not None or len(rich) != 1
    return options if known else replace(options, image_column=rich[0])


def _plain(
    found: list[tuple[str, pa.Table]], schema: pa.Schema, columns: Columns, made: dict[str, pa.Array]
) -> pa.Table:
    """The plain columns of all files, and those made here."""
    stored = [name for name in columns.plain if name not in made]
    read = pa.concat_tables([conform(table.select(stored), schema, file) for file, table in found])
    return pa.table({name: made[name] if name in made else read[name] for name in columns.plain})


def _splits(data: str) -> list[tuple[str, list[str]]]:
    """(split, Arrow files) of each split; a lone data set is one split without a name."""
    root = os.path.abspath(data)
    if not os.path.isfile(os.path.join(root, _DICT)):
        return [("", _arrow_files(root))]
    names = read_document(os.path.join(root, _DICT), {"splits": [str]})["splits"]
    if not names:
        raise KdbiasError(f"{data}: {_DICT} names no splits")
    return [(name, _arrow_files(join_root(root, name, data))) for name in names]


def _arrow_files(folder: str) -> list[str]:
    """Paths of the Arrow files that a saved data set's state names."""
    state = os.path.join(folder, _STATE)
    entries = read_document(state, {"_data_files": [{"filename": str}]})["_data_files"]
    if not entries:
        raise KdbiasError(f"{folder}: {_STATE} names no files")
    return [join_root(folder, entry["filename"], state) for entry in entries]


def _made_columns(
    splits: list[tuple[str, list[str]]], lengths: list[int], schema: pa.Schema, options: Options
) -> dict[str, pa.Array]:
    """``split`` and, unless there is an id column, ``sample_id`` of all rows, by the lengths of files."""
    made: dict[str, pa.Array] = {}
    names = [name for name, files in splits for _ in files]
    if any(names) and "split" not in schema.names:
        made["split"] = repeated(names, lengths)
    if options.id_column is None and "sample_id" not in schema.names:
        rows = np.add.reduceat(lengths, np.cumsum([0, *(len(files) for _, files in splits[:-1])]))
        made["sample_id"] = numbered_parts([f"{name}/" if name else "" for name, _ in splits], rows, 8)
    return made


def _features(file: str) -> Any:
    """What the library wrote of the columns beside this Arrow file."""
    info = os.path.join(os.path.dirname(file), _INFO)
    return read_document(info, {str: object}).get("features") if os.path.isfile(info) else None
