"""CSV files as tables: the one way that kdbias reads those with a header line."""

import codecs
import contextlib
import csv as text_csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError, first_line
from kdbias.tables.columns import NO_VALUE, refuse_repeated
from kdbias.tables.files import absent, refuse_special
from kdbias.tables.given import mistaken

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Suffix -> what usually separates the columns."""

_OTHERS = (",", ";", "\t", "|")
_MAX_HEADER_BYTES = 1 << 20

# A cell that a spreadsheet would compute, with any number of the marks that keep it from doing so.
_FORMULA = "('*[=+\\-@\\t\\r\\n＝＋－＠])"
_FOR_PEOPLE = (
    ["change", "sample_id"],
    ["column", "value"],
    ["exclude", "sample_id"],
)  # how the files of `for_people` begin
_ROWS_LOOKED_AT = 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

CsvSource: TypeAlias = "str | os.PathLike[str] | pa.NativeFile"
"""A path, or a file open at its beginning."""


@dataclass(frozen=True)
class _Form:
    """How a file is written: its encoding, what separates its columns, their names as they stand there."""

    encoding: str
    delimiter: str
    names: list[str]

    def options(self, texts: Sequence[str], columns: Sequence[str] | None) -> dict[str, Any]:
        """How pyarrow is to read it; `columns` None are those that have a name."""
        from pyarrow import csv

        chosen = [n for n in self.names if n.strip() and (columns is None or n.strip() in columns)]
        return {
            "read_options": csv.ReadOptions(encoding=self.encoding),
            "parse_options": csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            "convert_options": csv.ConvertOptions(
                null_values=[*csv.ConvertOptions().null_values, *NO_VALUE],
                column_types={name: pa.string() for name in chosen if name.strip() in texts},
                include_columns=chosen,
            ),
        }


def encoding_of(head: bytes) -> str:
    """The encoding that a text file's first bytes mark; UTF-8 where they mark none."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8 or, with a byte order mark, UTF-16; all ends of lines as ``\\n``.

    Raises:
        UnicodeDecodeError: another encoding.
        KdbiasError: no plain file.
    """
    refuse_special(path)
    with open(path, "rb") as handle:
        encoding = encoding_of(handle.read(4))
    with open(path, encoding="utf-8-sig" if encoding == "utf-8" else encoding) as text:
        return text.read()


def csv_columns(source: CsvSource, delimiter: str = ",", where: object = None) -> list[str]:
    """Names of the columns, without those that have none (so pandas writes its row numbers).

    Args:
        delimiter: what usually separates the columns, see `read_csv`.
        where: what to call the source in a message, where it is no path.

    Raises:
        KdbiasError: not a text file, no header, or a name that occurs twice.
    """
    with _opened(source) as handle:
        form = _form_of(handle, delimiter, source if where is None else where)
    return [name.strip() for name in form.names if name.strip()]


def read_csv(
    source: CsvSource,
    texts: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    where: object = None,
) -> pa.Table:
    """The rows of a CSV file in UTF-8 or, with a byte order mark, UTF-16; quoted values may hold line breaks.

    Blanks around names and texts are no part of them.

    Args:
        texts: columns that stay text whatever they hold: read as numbers, "0012" would become "12".
        columns: those to read; None reads all that have a name.
        delimiter: what usually separates the columns; where the first rows show that it is another of comma,
            semicolon, tab and bar, that is taken.
        where: what to call the source in a message, where it is no path.

    Raises:
        KdbiasError: not a CSV file in these encodings, no header, a name that occurs twice, rows of another
            length, or a quote that is not closed.
    """
    from pyarrow import csv

    where = source if where is None else where
    with _opened(source) as handle:
        form = _form_of(handle, delimiter, where)
        try:
            table = csv.read_csv(handle, **form.options(texts, columns))
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise KdbiasError(f"{where}: not a readable CSV file ({first_line(error)})") from None
    with _opened(source) as handle:
        _require_closed_quotes(handle, form, table.num_rows, where)
    return _tidy(table, where)


def csv_head(
    path: str | os.PathLike[str], rows: int, texts: Sequence[str] = (), delimiter: str = ","
) -> tuple[pa.Table, int]:
    """The first ``rows`` of what `read_csv` reads, and how many there are; of a large file never all at once.

    Raises:
        KdbiasError: as `read_csv`.
    """
    from pyarrow import csv

    with _opened(path) as handle:
        form = _form_of(handle, delimiter, path)
        try:
            with csv.open_csv(handle, **form.options(texts, None)) as batches:
                first, n = [], 0
                for batch in batches:
                    if n < rows:
                        first.append(batch.slice(0, rows - n))
                    n += batch.num_rows
                table = pa.Table.from_batches(first, batches.schema)
        except (pa.ArrowException, UnicodeDecodeError):
            table = None
    if table is None:
        # The first block does not show the type of a column: only the whole file does, or what is wrong.
        table = read_csv(path, texts, delimiter=delimiter)
        return table.slice(0, rows), table.num_rows
    with _opened(path) as handle:
        _require_closed_quotes(handle, form, n, path)
    return _tidy(table, path), n


def for_people(table: pa.Table) -> pa.Table:
    """A table for a CSV file that people open: texts that a spreadsheet would take for formulas begin with '.

    `read_csv` takes that mark away again from tables that begin with the columns of `_FOR_PEOPLE`.
    """
    return _replaced(table, f"^{_FORMULA}", r"'\1")


def _as_meant(table: pa.Table) -> pa.Table:
    """Undo `for_people` where a table begins as those do."""
    return _replaced(table, f"^'{_FORMULA}", r"\1") if table.column_names[:2] in _FOR_PEOPLE else table


def _replaced(table: pa.Table, pattern: str, replacement: str) -> pa.Table:
    """All columns of texts with a regular expression replaced."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            values = pc.replace_substring_regex(table.column(i), pattern, replacement)
            table = table.set_column(i, field.name, values)
    return table


def _form_of(handle: pa.NativeFile, usual: str, where: object) -> _Form:
    """How an open file is written, which is left at its beginning."""
    head = handle.read(_MAX_HEADER_BYTES)
    handle.seek(0)
    encoding = encoding_of(head)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)().decode(head)
        if "\0" in text:
            raise KdbiasError(
                mistaken(str(where), "CSV")
                or f"{where}: not a readable CSV file (it holds zero bytes); save it as text in UTF-8"
            )
        delimiter = _delimiter(text, usual)
        names = next(_rows(text, delimiter), [])
    except (UnicodeDecodeError, text_csv.Error) as error:
        raise KdbiasError(
            mistaken(str(where), "CSV")
            or f"{where}: not a readable CSV file in UTF-8 ({error}); save it in that encoding"
        ) from None
    named = [name.strip() for name in names if name.strip()]
    if not named:
        raise KdbiasError(f"{where}: empty; the first line must name the columns")
    refuse_repeated(named, where)
    return _Form(encoding, delimiter, names)


def _delimiter(text: str, usual: str) -> str:
    """The usual one, unless another separates the first rows into columns, as many each, and it does not."""
    split = []
    for candidate in dict.fromkeys((usual, *_OTHERS)):
        try:
            widths = [len(row) for row in islice(_rows(text, candidate), _ROWS_LOOKED_AT)]
        except text_csv.Error:
            continue
        if widths and widths[0] > 1:
            split.append((len(set(widths)) > 1, candidate))
    return min(split, key=lambda found: found[0])[1] if split else usual


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """The rows of a CSV text that are not empty."""
    return (row for row in text_csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row)


def _require_closed_quotes(handle: pa.NativeFile, form: _Form, rows: int, where: object) -> None:
    """Refuse a file where a quote swallows the rows below it: pyarrow takes them for one value.

    Only where there are fewer rows than lines, which is rare, is the file gone through row by row.
    """
    lines = returns = 0
    while block := handle.read(1 << 22):
        lines += block.count(b"\n")
        returns += block.count(b"\r")
    if max(lines, returns) <= rows + 1:
        return
    handle.seek(0)
    with io.TextIOWrapper(handle, encoding=form.encoding, newline="") as text:
        number = 0
        reader = text_csv.reader(text, delimiter=form.delimiter, strict=True)
        try:
            for _ in reader:
                number = reader.line_num
        except text_csv.Error as error:
            raise KdbiasError(
                f"{where}: not a readable CSV file (line {number + 1} opens a quote that is not closed as it "
                f"should: {error})"
            ) from None


def _tidy(table: pa.Table, where: object) -> pa.Table:
    """Names and texts without the blanks around them; bytes that are no text are refused."""
    table = table.rename_columns([name.strip() for name in table.column_names])
    for index, field in enumerate(table.schema):
        if pa.types.is_binary(field.type):
            raise KdbiasError(
                f"{where}: not a readable CSV file in UTF-8 (column {field.name!r}); save it in that encoding"
            )
        if not pa.types.is_string(field.type):
            continue
        if pc.any(pc.match_substring_regex(table.column(index), r"^\s|\s$")).as_py():
            trimmed = pc.utf8_trim_whitespace(table.column(index))
            table = table.set_column(index, field.name, trimmed)
    return _as_meant(table)


@contextlib.contextmanager
def _opened(source: CsvSource) -> Iterator[pa.NativeFile]:
    """The source, open at its beginning; a path is closed again.

    Raises:
        KdbiasError: no such file, or no plain one.
    """
    if isinstance(source, pa.NativeFile):
        source.seek(0)
        yield source
        return
    refuse_special(source)
    try:
        handle = pa.OSFile(os.fspath(source))  # not mapped, which an empty file cannot be
    except FileNotFoundError:
        raise absent(source) from None
    with handle:
        yield handle
