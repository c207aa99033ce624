"""CSV files with a header line: what spreadsheets, pandas and people write, and one line for what is none."""

import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables.csv_file import csv_columns, read_csv


def rows(file, content: str | bytes, *texts: str, **options) -> list[dict]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    table = read_csv(file, texts, **options)
    assert table.column_names == (options.get("columns") or csv_columns(file, options.get("delimiter", ",")))
    return table.to_pylist()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("id,n\n007,1\n", {"id": "007", "n": 1}),
        ("\ufeffid,n\r\n007,1\r\n", {"id": "007", "n": 1}),
        (",id,n\n0,007,1\n", {"id": "007", "n": 1}),
        ("\nid,n\n\n007,1\n", {"id": "007", "n": 1}),
        ('id,"of\ntwo"\n007,"a\nb"\n', {"id": "007", "of\ntwo": "a\nb"}),
    ],
)
def test_what_people_write(file, content, row):
    assert rows(file, content, "id", "not there") == [row]


def test_tabs_and_some_columns(file):
    assert rows(file, "id\tn\n007\t1\n", delimiter="\t", columns=["n"]) == [{"n": 1}]


@pytest.mark.parametrize("last", ["unknown", "3.5", '"two\nlines"'])
def test_the_last_row_may_change_a_column(file, last):
    n = 250_000  # past the first block
    values = [row["age"] for row in rows(file, "id,age\n" + "1,30\n" * n + f"1,{last}\n", "id")]
    assert len(values) == n + 1
    assert str(values[-1]) == last.strip('"')


def test_an_open_file_has_the_name_it_is_given(file):
    file.write_text("id,n\n007,1\n")
    with pa.memory_map(str(file)) as handle:
        assert read_csv(handle, ["id"], where="s3://there").to_pylist() == [{"id": "007", "n": 1}]
    with pa.BufferReader(b"") as handle, pytest.raises(KdbiasError, match="s3://there: empty"):
        read_csv(handle, where="s3://there")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; the first line must name the columns"),
        (b"\n\n", "empty; the first line must name the columns"),
        (b"a,b,a\n", r"column names occur twice \(a, b, a\)"),
        (b"a,b\n1,2,3\n", "not a readable CSV file"),
        (b"\xff\xfe,b\n1,2\n", "not a readable CSV file in UTF-8"),
        (None, "no such file"),
    ],
)
def test_anything_else_is_one_line(file, content, message):
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KdbiasError, match=message) as caught:
        read_csv(file)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)
