"""Where an output lies that a record names: folders are renamed, copied and brought from other machines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kdbias.errors import KdbiasError
from kdbias.scratch import store_uri, uri_of
from kdbias.tables.mirrors import local_path
from kdbias.tables.run_record import read_record

_LEVELS = 4  # folders above the record that are tried


def bases(record: str | os.PathLike[str]) -> Iterator[Path]:
    """Folders that a relative path may start from: the current one, the record's, and those above that."""
    yield Path()
    folder = Path(record).resolve()
    for _ in range(_LEVELS):
        yield folder
        folder = folder.parent


def candidates(
    recorded: str | os.PathLike[str], record: str | os.PathLike[str], known: bool = False
) -> Iterator[Path]:
    """Places that a path recorded in the folder or file ``record`` may mean, the likeliest first.

    ``known``: a fingerprint tells whether it is the right one, so that the ends of the path may be tried too,
    for a folder that was renamed or brought from another machine.
    """
    path = Path(recorded)
    if store_uri(recorded) is not None:
        with contextlib.suppress(KdbiasError):  # where it cannot be reached, what was copied from it may do
            yield local_path(recorded)
    elif path.is_absolute():
        yield path
    else:
        for base in bases(record):
            yield base / path
    if known:
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        for start in range(not path.is_absolute(), len(parts)):
            for base in list(bases(record))[1:]:
                yield base.joinpath(*parts[start:])


def found_again(recorded: str, record: str | os.PathLike[str], fingerprint: str | None) -> str:
    """The folder that a record means: one with the fingerprint, neighbours of the record's own before others.

    Outputs that were moved or copied together stay together; as named where nothing fits.
    """
    if fingerprint is None:
        return os.fspath(local_path(recorded))
    beside = Path(record).parent / Path(recorded).name
    beside = local_path(uri_of(beside) or beside)
    for place in (beside, *candidates(recorded, record, known=True)):
        try:
            if read_record(place).get("fingerprint") == fingerprint:
                return os.fspath(place)
        except (KdbiasError, OSError):
            continue
    return recorded
