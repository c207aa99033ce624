"""A table that is one Parquet file or, past `listing.FILE_ROWS` rows, a folder of parts, read as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints, provenance
from kdbias.tables.columns import plain_type
from kdbias.tables.files import MEND, remove
from kdbias.tables.joins import ColumnParts, Ids, as_strings, digest_of_ids
from kdbias.tables.listing import (
    LISTING,
    PART_PATTERN,
    PART_ROWS,
    ListedPart,
    by_footers,
    digest_of_contents,
    in_parts,
    part_name,
    part_names,
    read_listing,
    remove_parts,
    whole_parts,
    write_listing,
)
from kdbias.tables.parquet_file import (
    ParquetTable,
    open_parquet,
    parquet_writer,
    read_schema,
    read_table,
    stream_vectors,
)
from kdbias.wording import counted

_GROUP = PART_ROWS  # rows that are written at a time


@dataclass(frozen=True)
class PartedTable:
    """A table in parts; what is asked of it is read then, a part at a time.

    Attributes:
        path: the folder.
        parts: what is known of them, in order.
        schema: of the first.
        listed: whether a listing says so; its parts are whole, and their ids unique.
    """

    path: Path
    parts: tuple[ListedPart, ...]
    schema: pa.Schema
    listed: bool

    @classmethod
    def open(
        cls,
        folder: Path,
        pattern: str = PART_PATTERN,
        lacking: Sequence[str] = (),
        fingerprint: str | None = None,
    ) -> PartedTable:
        """Open a folder of parts.

        Args:
            pattern: of the names of parts.
            lacking: columns that some parts may lack.
            fingerprint: of the table, where that is known: a listing of another one does not count.

        Raises:
            KdbiasError: no parts, others than are listed, or parts that differ in their columns.
        """
        names, listing = part_names(folder, pattern), read_listing(folder)
        if listing is not None and fingerprint in (None, digest_of_contents(listing)):
            listed = [part.name for part in listing]
            for name in sorted({*names} ^ {*listed}):
                what = "is missing" if name in listed else f"is not among those that {LISTING} lists"
                raise KdbiasError(f"{folder / name} {what}; {MEND}")
            return cls(folder, tuple(listing), read_schema(folder / listed[0]), True)
        if not names:
            raise KdbiasError(f"{folder} holds no part of a table ({pattern})")
        parts, schemas = zip(*by_footers(folder, names), strict=True)
        said = (provenance.from_schema(schemas[0], folder / names[0]) or {}).get("parts", len(parts))
        if said != len(parts):
            raise KdbiasError(
                f"{folder} holds {len(parts):,} of the {counted(said, 'part')} that were to be written: run "
                "the command that wrote them again"
            )
        vital = [_kinds(schema, lacking) for schema in schemas]
        for name, kinds in zip(names, vital, strict=True):
            if kinds != vital[0]:
                raise KdbiasError(f"{folder / name}: its columns or dimension differ from {names[0]}'s")
        return cls(folder, parts, schemas[0], False)

    @property
    def files(self) -> list[Path]:
        """The parts' paths."""
        return [self.path / part.name for part in self.parts]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows of each part."""
        return tuple(part.rows for part in self.parts)

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return sum(self.lengths)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return self.schema.names

    @contextlib.contextmanager
    def opened(self, part: int) -> Iterator[ParquetTable]:
        """A part's file, if it is the one that was there when the table was opened.

        Raises:
            KdbiasError: it is not, or damaged.
        """
        known = self.parts[part]
        with open_parquet(self.path / known.name) as file:
            if (file.mark, file.file.metadata.num_rows) != (known.seal, known.rows):
                raise KdbiasError(
                    f"{file.path} was changed since {LISTING} was written; {MEND}, or remove {LISTING} to "
                    "take the folder as it is"
                    if self.listed and read_listing(self.path) == [*self.parts]
                    else f"{self.path} was changed while it was read; run the command again"
                )
            yield file

    def read(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a part, of these columns or of all."""
        with self.opened(part) as file:
            return file.read(columns)

    def select(self, names: Sequence[str]) -> pa.Table:
        """All rows of some columns, in memory."""
        tables = (self.read(part, names).replace_schema_metadata() for part in range(len(self.parts)))
        return pa.concat_tables(tables, promote_options="permissive")

    def column(self, name: str) -> pa.ChunkedArray:
        """A column, in memory."""
        return self.select([name]).column(0)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.column(name)

    def take(self, rows: pa.Array) -> pa.Table:
        """Rows (m,), ascending, of all columns, in memory."""
        wanted, ends = np.asarray(rows), np.cumsum(self.lengths)
        found, begin = [self.schema.empty_table().replace_schema_metadata()], 0
        for part, end in enumerate(ends.tolist()):
            first, last = np.searchsorted(wanted, [begin, end])
            if last > first:
                some = self.read(part).replace_schema_metadata()
                found.append(some.take(pa.array(wanted[first:last] - begin)))
            begin = end
        return pa.concat_tables(found, promote_options="permissive")

    def slice(self, start: int, length: int) -> pa.Table:
        """Rows from one on, in memory."""
        return self.take(pa.array(np.arange(start, min(start + length, self.num_rows))))

    def to_pandas(self) -> Any:
        """All of it as a data frame."""
        return self.select(self.column_names).to_pandas()

    def vectors(self, rows: int, column: str, dim: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Stream (first row, (m, dim) vectors as they are stored), as `parquet_file.stream_vectors` does."""
        return stream_vectors(map(self.opened, range(len(self.parts))), rows, column, dim)

    def parts_of(self, name: str) -> ColumnParts:
        """A column, read when a part of it is asked for."""
        return ColumnParts(self.lengths, lambda part: self.read(part, [name]).column(0).combine_chunks())

    def ids(self) -> Ids:
        """The column ``sample_id``."""
        digests = tuple(part.ids if part.seal else "" for part in self.parts)
        return Ids(
            self.lengths,
            lambda part: as_strings(self.read(part, ["sample_id"]).column(0)),
            digests if all(digests) else None,
            unique=self.listed,
        )

    def fingerprint(self, apart: Sequence[str] = ()) -> str:
        """Digest of the parts' contents; of columns but some, where that is not what they say."""
        contents = [part.content if part.seal else "" for part in self.parts]
        if not all(contents):
            kept = [name for name in self.column_names if name not in apart]
            contents = [fingerprints.of_table(self.read(part, kept)) for part in range(len(self.parts))]
            return fingerprints.of_json(contents)
        return digest_of_contents(self.parts)


def _kinds(schema: pa.Schema, lacking: Sequence[str]) -> dict[str, pa.DataType]:
    """The types of columns, less those that may be lacking; texts are alike however Arrow keeps them."""
    return {f.name: plain_type(f.type) or f.type for f in schema if f.name not in lacking}


def read_columns(table: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a table that is a file or a folder of parts: of these columns or of all."""
    if not table.is_dir():
        return read_table(table, columns)
    parted = PartedTable.open(table)
    return parted.select(parted.column_names if columns is None else columns)


def read_head(table: Path, rows: int) -> tuple[pa.Table, int, pa.Schema]:
    """The first rows of a table that is a file or a folder of parts, how many it has, and its columns."""
    if not table.is_dir():
        with open_parquet(table) as file:
            return file.head(rows), file.file.metadata.num_rows, file.schema
    parted = PartedTable.open(table, "*.parquet")
    with parted.opened(0) as file:
        return file.head(rows), parted.num_rows, parted.schema


def read_ids(table: Path) -> Ids:
    """The column ``sample_id`` of a table that is a file or a folder of parts."""
    if table.is_dir():
        return PartedTable.open(table).ids()
    return Ids.of(read_table(table, ["sample_id"]).column(0))


def write_rows(
    file: Path,
    folder: Path,
    cut: Sequence[int],
    make: Callable[[int, int], pa.Table],
    doc: dict[str, Any],
    apart: Sequence[str] = (),
    group: int = _GROUP,
    **encoding: Any,
) -> Path:
    """Write a table as one file or, past `FILE_ROWS` rows, as parts in a folder; replaces what is there.

    A folder without its listing, as a kill leaves it where there was none before (or, in a store, in any
    case), holds too few parts, and says so.

    Args:
        cut: rows of each part.
        make: gives the table of the rows from one on, up to another (exclusive), some at a time.
        doc: provenance.
        apart: columns that the digests of contents leave out.
        group: rows that are written at a time.
        encoding: further arguments of `pyarrow.parquet.ParquetWriter`.

    Returns:
        ``file`` or ``folder``.
    """
    if not in_parts(sum(cut)):
        if folder.is_dir():
            remove_parts(folder)
        _write(file, make, sum(cut), group, doc, encoding)
        return file
    parts, start = [], 0
    with whole_parts(folder) as new:
        for index, rows in enumerate(cut):
            table, path = make(start, start + rows), new / part_name(index)
            values = table.select([name for name in table.column_names if name not in apart])
            ids = digest_of_ids(table.column("sample_id"))
            about = {"part": index, "parts": len(cut), "content": fingerprints.of_table(values), "ids": ids}
            _write(path, partial(_rows_of, table), rows, group, {**doc, **about}, encoding)
            with open_parquet(path) as written:
                parts.append(ListedPart.of(path.name, written))
            start += rows
        write_listing(new, parts, doc)
    if file != folder:
        remove(file)
    return folder


def _rows_of(table: pa.Table, start: int, stop: int) -> pa.Table:
    return table.slice(start, stop - start)


def _write(
    path: Path,
    make: Callable[[int, int], pa.Table],
    rows: int,
    group: int,
    doc: dict[str, Any],
    encoding: dict[str, Any],
) -> None:
    """Write a file of the rows that ``make`` gives, so many at a time."""
    table = provenance.attach(make(0, min(group, rows)), doc)
    with parquet_writer(path, table.schema, **{"compression": "ZSTD", **encoding}) as writer:
        writer.write_table(table)
        for start in range(group, rows, group):
            writer.write_table(make(start, min(start + group, rows)))
