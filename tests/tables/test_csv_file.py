"""CSV files with a header line: what spreadsheets, pandas and people write, and one line for what is none."""

import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables import csv_file
from kdbias.tables.csv_file import csv_columns, csv_head, read_csv


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
        ("id;n\n007;1\n", {"id": "007", "n": 1}),
        ("\ufeffid;n\r\n007;1\r\n", {"id": "007", "n": 1}),
        ("id\tn\n007\t1\n", {"id": "007", "n": 1}),
        ("id|n\n007|1\n", {"id": "007", "n": 1}),
        ("id,n,m\n007,1,2\n008,None,<NA>\n", {"id": "007", "n": 1, "m": 2}),
        ("id;score\n007;0,5\n", {"id": "007", "score": "0,5"}),
        ('id,n\n"a;b",1\n', {"id": "a;b", "n": 1}),
        ('"id;x",n\n"a;b;c",1\n', {"id;x": "a;b;c", "n": 1}),
        ("id , n\n 007 , 1\n", {"id": "007", "n": 1}),
        ("id,n\r007,1\r", {"id": "007", "n": 1}),
        ("id,n\n007,é\n".encode("utf-16"), {"id": "007", "n": "é"}),
        (b"\xfe\xff" + "id;n\n007;é\n".encode("utf-16-be"), {"id": "007", "n": "é"}),
        ("id\tn\n007\té\n".encode("utf-32"), {"id": "007", "n": "é"}),
    ],
)
def test_what_people_write(file, content, row):
    assert rows(file, content, "id", "not there")[0] == row


def test_tabs_and_some_columns(file):
    assert rows(file, "id\tn\n007\t1\n", delimiter="\t", columns=["n"]) == [{"n": 1}]


@pytest.mark.parametrize("last", ["unknown", "3.5", '"two\nlines"'])
def test_the_last_row_may_change_a_column(file, last):
    n = 250_000  # past the first block
    values = [row["age"] for row in rows(file, "id,age\n" + "1,30\n" * n + f"1,{last}\n", "id")]
    assert len(values) == n + 1
    assert str(values[-1]) == last.strip('"')


@pytest.mark.parametrize("shown", [0, 3, 200_000])
def test_the_head_of_a_large_file_is_read_by_blocks(file, monkeypatch, shown):
    n = 250_000
    file.write_text("id,age\n" + "".join(f"{i:06d},{i}\n" for i in range(n)))
    whole = read_csv(file, ["id"])
    monkeypatch.delattr(csv_file, "read_csv")
    head, counted = csv_head(file, shown, ["id"])
    assert counted == n
    assert head == whole.slice(0, shown)


@pytest.mark.parametrize(
    "content",
    [
        "id,age\n",
        "id,age\n1,2",
        "id,age\n" + "1,30\n" * 250_000 + "1,unknown\n",
        "id\n" + "1\n" * 5 + '"a\nb"\n',
    ],
)
def test_the_head_is_the_head_of_what_is_read(file, content):
    file.write_text(content)
    whole = read_csv(file)
    assert csv_head(file, 2) == (whole.slice(0, 2), len(whole))


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
        (b"\xff\xfe,b\n1,2\n", "not a readable CSV file"),
        (b"a,b\n1,\xe9\n", "not a readable CSV file in UTF-8"),
        (b"a,b\n1,2\n" * 200_000 + b"\xe9,2\n", "not a readable CSV file"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes"),
        (b"a, b,b \n1,2,3\n", "occur twice"),
        (b"a;b\n1;2;3\n", "Expected 2 columns, got 3"),
        (b'a,b\n1,"2\n3,4\n5,6\n', "line 2 opens a quote that is not closed"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,"8\n9,0\n', "line 3 opens a quote that is not closed"),
        (b"PAR1 and more \x00", "a Parquet file, not a CSV file; name it .parquet"),
        (None, "no such file"),
    ],
)
def test_anything_else_is_one_line(file, content, message):
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KdbiasError, match=message):
        csv_head(file, 5)
    with pytest.raises(KdbiasError, match=message) as caught:
        read_csv(file)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)
