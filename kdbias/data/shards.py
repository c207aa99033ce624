"""Parquet files that make one data set: which of a folder, and what their names say of their rows."""

import os
import re
from collections.abc import Sequence

import pyarrow as pa

from kdbias.data.folder import EXTENSIONS
from kdbias.data.source import numbered
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


def row_ids(name: str, n: int) -> pa.Array:
    """(n,) ids of rows that have none: the file's name without its suffix, and the row."""
    return numbered(n, 8, f"{os.path.splitext(name)[0]}/")


def _split_of(name: str) -> str | None:
    if found := _NUMBERED.fullmatch(name):
        return found["split"]
    parts = os.path.splitext(name)[0].split("/")
    return next((part for part in reversed(parts) if part.lower() in _SPLITS), None)
