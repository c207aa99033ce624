"""CSV files as tables: the one way that kdbias reads those with a header line."""

import codecs
import contextlib
import csv as text_csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError, first_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Suffix -> what separates the columns."""

_MAX_HEADER_BYTES = 1 << 20

# A cell that a spreadsheet would compute, with any number of the marks that keep it from doing so.
_FORMULA = "('*[=+\\-@\\t\\r\\n＝＋－＠])"
_FOR_PEOPLE = (["change", "sample_id"], ["column", "value"])  # how the files of `for_people` begin

CsvSource: TypeAlias = "str | os.PathLike[str] | pa.NativeFile"
"""A path, or a file open at its beginning."""


def csv_columns(source: CsvSource, delimiter: str = ",", where: object = None) -> list[str]:
    """Names of the columns, without those that have none (so pandas writes its row numbers).

    Args:
        where: what to call the source in a message, where it is no path.

    Raises:
        KdbiasError: not UTF-8, no header, or a name that occurs twice.
    """
    where = source if where is None else where
    with _opened(source) as handle:
        head = handle.read(_MAX_HEADER_BYTES)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
        rows = text_csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [name for name in next((row for row in rows if row), []) if name]
    except (UnicodeDecodeError, text_csv.Error) as error:
        raise KdbiasError(f"{where}: not a readable CSV file in UTF-8 ({error})") from None
    if not names:
        raise KdbiasError(f"{where}: empty; the first line must name the columns")
    if len(set(names)) != len(names):
        raise KdbiasError(f"{where}: column names occur twice ({', '.join(names)})")
    return names


def read_csv(
    source: CsvSource,
    texts: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    where: object = None,
) -> pa.Table:
    """The rows of a CSV file; a quoted value may hold line breaks.

    Args:
        texts: columns that stay text whatever they hold: read as numbers, "0012" would become "12".
        columns: those to read; None reads all that have a name.
        where: what to call the source in a message, where it is no path.

    Raises:
        KdbiasError: not a CSV file in UTF-8, no header, or a name that occurs twice.
    """
    from pyarrow import csv

    where = source if where is None else where
    with _opened(source) as handle:
        options = _options(handle, texts, columns, delimiter, where)
        try:
            return _as_meant(csv.read_csv(handle, **options))
        except pa.ArrowException as error:
            reason = first_line(error)
            raise KdbiasError(f"{where}: not a readable CSV file ({reason})") from None


def csv_head(
    path: str | os.PathLike[str], rows: int, texts: Sequence[str] = (), delimiter: str = ","
) -> tuple[pa.Table, int]:
    """The first ``rows`` of what `read_csv` reads, and how many there are; of a large file never all at once.

    Raises:
        KdbiasError: as `read_csv`.
    """
    from pyarrow import csv

    with _opened(path) as handle:
        options = _options(handle, texts, None, delimiter, path)
        try:
            with csv.open_csv(handle, **options) as batches:
                first, n = [], 0
                for batch in batches:
                    if n < rows:
                        first.append(batch.slice(0, rows - n))
                    n += batch.num_rows
                return _as_meant(pa.Table.from_batches(first, batches.schema)), n
        except pa.ArrowException:
            pass
    # The first block does not show the type of a column: only the whole file does, or what is wrong with it.
    table = read_csv(path, texts, delimiter=delimiter)
    return table.slice(0, rows), table.num_rows


def for_people(table: pa.Table) -> pa.Table:
    """A table for a CSV file that people open: texts that a spreadsheet would take for formulas begin with '.

    `read_csv` takes that mark away again from tables that begin with the columns of `_FOR_PEOPLE`.
    """
    return _replaced(table, f"^{_FORMULA}", r"'\1")


def _as_meant(table: pa.Table) -> pa.Table:
    return _replaced(table, f"^'{_FORMULA}", r"\1") if table.column_names[:2] in _FOR_PEOPLE else table


def _replaced(table: pa.Table, pattern: str, replacement: str) -> pa.Table:
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            values = pc.replace_substring_regex(table.column(i), pattern, replacement)
            table = table.set_column(i, field.name, values)
    return table


def _options(
    handle: pa.NativeFile,
    texts: Sequence[str],
    columns: Sequence[str] | None,
    delimiter: str,
    where: object,
) -> dict[str, Any]:
    """How pyarrow is to read an open CSV file, which is left at its beginning."""
    from pyarrow import csv

    if columns is None:
        columns = csv_columns(handle, delimiter, where)
        handle.seek(0)
    return {
        "parse_options": csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            column_types=dict.fromkeys(texts, pa.string()), include_columns=list(columns)
        ),
    }


@contextlib.contextmanager
def _opened(source: CsvSource) -> Iterator[pa.NativeFile]:
    if isinstance(source, pa.NativeFile):
        yield source
        return
    try:
        handle = pa.OSFile(os.fspath(source))  # not mapped, which an empty file cannot be
    except FileNotFoundError:
        raise KdbiasError(f"{source}: no such file") from None
    with handle:
        yield handle
