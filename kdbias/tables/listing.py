"""The parts of a table that is a folder: their names, and the file that lists them.

Parts are named ``part-00000.parquet`` and so on, in the order of rows. `LISTING`, written after all of them,
has of each its rows and digests of its values, of its ids and of its bytes: opening a table reads this, not
10^4 footers; tables are matched part by part by the digests of ids; and a part whose seal is not the listed
one is refused. The listing's name begins with an underscore, as pandas, Spark and DuckDB pass over such files
in a folder that they read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.scratch import uri_of
from kdbias.tables import fingerprints, provenance
from kdbias.tables.files import exchange, move, remove, remove_tree, sync_folder
from kdbias.tables.joins import digest_of_ids
from kdbias.tables.parquet_file import ParquetTable, open_parquet, read_table, write_table
from kdbias.tables.temporaries import done_with, temporary_beside

FILE_ROWS = 1 << 22
"""Rows of the largest table that is one file."""
PART_ROWS = 131_072
"""Rows of a part where no other table sets them."""
LISTING = "_parts.parquet"
PART_PATTERN = "part-*.parquet"
_MANY = 256  # parts, of fewer all footers are soon read
_LISTED = ("name", "rows", "first_row", "content", "ids", "seal")


def in_parts(n: int) -> bool:
    """Whether a table of n rows is written in parts."""
    return n > FILE_ROWS


def part_name(index: int) -> str:
    """File name of a part, of which the order of names is the order of rows."""
    return f"part-{index:05d}.parquet"


def cut_of(n: int, rows: int = PART_ROWS) -> list[int]:
    """Rows of each part of a table of n rows, so many but for the last."""
    return [min(rows, n - start) for start in range(0, n, rows)]


def located(file: Path) -> Path:
    """Where a table lies that is this file or the folder of its name: the file, if neither is there."""
    folder = file.with_suffix("")
    return folder if not file.exists() and (folder / LISTING).exists() else file


@dataclass(frozen=True)
class ListedPart:
    """A part of a table.

    Attributes:
        name: of its file.
        rows: how many.
        content: digest of its values; "" where that is not known.
        ids: digest of its ids (`joins.digest_of_ids`); "" likewise.
        seal: mark of its seal, see `tables.seal`; "" where it was rewritten, which leaves the digests.
    """

    name: str
    rows: int
    content: str
    ids: str
    seal: str

    @classmethod
    def of(cls, name: str, file: ParquetTable) -> ListedPart:
        """Of an open file, by what its footer says."""
        doc = provenance.from_schema(file.schema, file.path) or {}
        digests = doc.get("content", ""), doc.get("ids", "")
        return cls(name, file.file.metadata.num_rows, *digests, file.mark)


def read_listing(folder: Path) -> list[ListedPart] | None:
    """The parts that a folder's listing names; None where it has none.

    Raises:
        KdbiasError: the listing is damaged.
    """
    if not (folder / LISTING).exists():
        return None
    table = read_table(folder / LISTING, _LISTED).to_pydict()
    return [
        ListedPart(*row)
        for row in zip(*(table[name] for name in _LISTED if name != "first_row"), strict=True)
    ]


def write_listing(folder: Path, parts: Sequence[ListedPart], doc: dict[str, Any]) -> None:
    """List the parts of a folder, all of which are whole; ``doc`` is the provenance of the table."""
    rows = np.array([part.rows for part in parts], dtype=np.int64)
    columns: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in ("name", "rows")}
    columns["first_row"] = np.cumsum(rows) - rows
    columns |= {name: [getattr(part, name) for part in parts] for name in _LISTED[3:]}
    write_table(folder / LISTING, pa.table(columns), doc)


def list_parts(folder: Path, rows: int, doc: dict[str, Any]) -> None:
    """List the parts of a folder, all of which are written, by their footers, where they are many.

    Args:
        rows: of all parts.
        doc: provenance of the table.
    """
    remove(folder / LISTING)
    names = part_names(folder)
    if in_parts(rows) or len(names) > _MANY:
        write_listing(folder, [_with_ids(folder, part) for part, _ in by_footers(folder, names)], doc)


def _with_ids(folder: Path, part: ListedPart) -> ListedPart:
    """The part, with the digest of its ids, which earlier versions did not note."""
    if part.ids:
        return part
    return replace(part, ids=digest_of_ids(read_table(folder / part.name, ["sample_id"]).column(0)))


def by_footers(folder: Path, names: Sequence[str]) -> Iterator[tuple[ListedPart, pa.Schema]]:
    """What the parts of these names say, and their columns."""
    for name in names:
        with open_parquet(folder / name) as file:
            yield ListedPart.of(name, file), file.schema


def part_names(folder: Path, pattern: str = PART_PATTERN) -> list[str]:
    """Names of the parts in a folder, in order."""
    return sorted(path.name for path in folder.glob(pattern) if path.name[0] not in "._")


def remove_parts(folder: Path) -> None:
    """Remove a table's folder, its listing first, and the folder unless it holds something else."""
    for name in (LISTING, *part_names(folder)):
        remove(folder / name)
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def whole_parts(folder: Path) -> Iterator[Path]:
    """A folder to write parts and their listing into, which is then at ``folder``, in place of what was.

    That stays as it is until then, and on an error. In a store, where nothing is renamed, it goes first:
    cut short, too few parts are there, and say so.
    """
    if uri_of(folder) is not None or not folder.exists():
        (remove_parts if folder.is_dir() else remove)(folder)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir()
        yield temporary
        put_parts(temporary, folder)
    finally:
        remove_tree(temporary)
        done_with(temporary)


def put_parts(new: Path, folder: Path) -> None:
    """Give a folder of parts the place of another one, or of a file; what else was in that stays."""
    if uri_of(folder) is not None or not folder.is_dir():
        (remove_parts if folder.is_dir() else remove)(folder)
        move(new, folder)
        return
    exchange(new, folder)
    sync_folder(folder.parent)
    remove_parts(new)
    for entry in new.iterdir() if new.exists() else ():
        if not (folder / entry.name).exists():
            move(entry, folder / entry.name)


def is_only_parts(folder: Path) -> bool:
    """Whether a folder holds nothing but parts of a table, whole or begun."""
    return all(entry.match(f"{PART_PATTERN}*") or entry.match(f"{LISTING}*") for entry in folder.iterdir())


def head_of(table: Path) -> Path:
    """The file that says what made a table: itself, or of a folder the listing, else the first part."""
    if not table.is_dir():
        return table
    names = [name for name in (LISTING, *part_names(table)) if (table / name).exists()]
    return table / names[0] if names else table


def digest_of_contents(parts: Sequence[ListedPart]) -> str:
    """The fingerprint of a table of these parts."""
    return fingerprints.of_json([part.content for part in parts])
