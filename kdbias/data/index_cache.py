"""Indexes of large files, built once and kept in the user's cache folder.

The folder is ``$KDBIAS_CACHE``, else ``$XDG_CACHE_HOME/kdbias``, else ``~/.cache/kdbias``; it may be
removed at any time. An entry belongs to a file's path, size and times of change: that of its content, which
copying may carry over, and that of the file itself, which it cannot. Where the folder cannot be written,
indexes are built anew each time.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.parquet_file import parquet_writer, read_table


def cache_folder() -> Path:
    """Where indexes are kept."""
    chosen = os.environ.get("KDBIAS_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "kdbias"


def cached_index(file: str, form: str, build: Callable[[str], pa.Table]) -> pa.Table:
    """The index of a file: from the cache if the file is unchanged, else built and stored.

    Args:
        file: absolute path.
        form: name and version of the index's form; another form is another entry.
        build: makes the index of a file.
    """
    status = os.stat(file)
    times = [status.st_mtime_ns, status.st_ctime_ns]
    key = fingerprints.of_json([form, os.path.realpath(file), status.st_size, *times])
    entry = cache_folder() / f"{key}.parquet"
    try:
        return read_table(entry)
    except (OSError, KdbiasError):  # none yet, or a damaged one
        pass
    table = build(file)
    try:
        with parquet_writer(entry, table.schema, compression="ZSTD") as writer:
            writer.write_table(table)
    except OSError:
        pass
    return table
