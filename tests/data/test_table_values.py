"""Values and paths of tables as spreadsheets, pandas and other systems write them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    for name in ["0001.png", "sub/0002.png", "sub/0003.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "faces.csv"


def test_values_that_say_there_is_none(csv):
    lines = ["path,label,race", "0001.png,nan,NA", "sub/0002.png,NULL,<NA>", "sub/0003.png, 7 ,Asian"]
    csv.write_text("\n".join(lines))
    source = open_data(csv)
    assert source.labels.to_pylist() == [None, None, "7"]
    assert source.column("race").to_pylist() == [None, None, "Asian"]
    assert "2 values of label read as missing ('nan', 'NULL')" in source.describe()
    assert "2 values of race read as missing ('NA', '<NA>')" in source.describe()
    csv.write_text("path,label\n0001.png,None\nsub/0002.png,n/a\n")
    assert open_data(csv).labels is None


@pytest.mark.parametrize("missing", ["", "nan", "NULL", "None", "NA", '""'])
def test_ids_that_say_there_is_none_are_refused(csv, missing):
    csv.write_text(f"sample_id,path\n{missing},0001.png\nb,sub/0002.png\n")
    with pytest.raises(KdbiasError, match="1 row has no sample_id"):
        open_data(csv)
    csv.write_text(f"path,label\n{missing},x\nsub/0002.png,y\n")
    if missing:
        with pytest.raises(KdbiasError, match="1 row has no path"):
            open_data(csv)


def test_floats_with_nan_in_parquet_are_names_of_whole_numbers(tmp_path):
    labels = pa.array([7.0, np.nan, 12345678901.0], pa.float64())
    columns = {"sample_id": [1e10, 2.0, 3.0], "label": labels, "age": [1.5, np.nan, 2.0], "image": [b"x"] * 3}
    pq.write_table(pa.table({**columns, "race": ["nan", "", "a"]}), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet")
    assert source.ids.to_pylist() == ["10000000000", "2", "3"]
    assert source.labels.to_pylist() == ["7", None, "12345678901"]
    assert source.column("age").to_pylist() == [1.5, None, 2.0]
    assert source.column("race").to_pylist() == [None, None, "a"]
    columns["sample_id"] = [1.0, np.nan, 3.0]
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(KdbiasError, match="1 row has no sample_id"):
        open_data(tmp_path / "m.parquet")


@pytest.mark.parametrize("written", ["sub\\0002.png", ".\\sub\\0002.png", "./sub\\0002.png"])
def test_backslashes_find_the_file_and_give_the_usual_id(csv, written):
    csv.write_text(f"path,label\n{written},x\n")
    source = open_data(csv)
    assert source.ids.to_pylist() == ["sub/0002.png"]
    assert source.read(0) == b"sub/0002.png"


@pytest.mark.parametrize("folder", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_composed_and_decomposed_names_find_the_file(tmp_path, folder, name, written):
    from unicodedata import normalize

    place = tmp_path / normalize(folder, "Zoë")
    place.mkdir()
    (place / normalize(name, "é.png")).write_bytes(b"found")
    (tmp_path / "m.csv").write_text(f"path\n{normalize(written, 'Zoë/é.png')}\n", encoding="utf-8")
    assert open_data(tmp_path / "m.csv").read(0) == b"found"


def test_a_name_that_is_there_as_it_stands_comes_first(tmp_path):
    (tmp_path / "a\\b.png").write_bytes(b"literal")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.png").write_bytes(b"other")
    (tmp_path / "m.csv").write_text("path\na\\b.png\n")
    assert open_data(tmp_path / "m.csv").read(0) == b"literal"


def test_no_spelling_leads_out_of_the_root(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "in/link").symlink_to(tmp_path)
    (tmp_path / "in/m.csv").write_text("path\nlink\\secret.png\n")
    with pytest.raises(UnreadableImage, match="leaves the data root"):
        open_data(tmp_path / "in/m.csv").read(0)


def test_a_table_without_images_only_where_none_are_needed(tmp_path):
    columns = {"sample_id": ["a", "b"], "label": ["x", "y"], "path": ["/elsewhere/a.png", None]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet", images=False)
    assert (source.ids.to_pylist(), source.labels.to_pylist()) == (["a", "b"], ["x", "y"])
    with pytest.raises(UnreadableImage, match="no images"):
        source.read(0)
    pq.write_table(pa.table({"label": ["x", "y"]}), tmp_path / "m.parquet")
    source = open_data(tmp_path / "m.parquet", images=False)
    assert source.ids.to_pylist() == ["m/00000000", "m/00000001"]
    with pytest.raises(KdbiasError, match="no column 'image'"):
        open_data(tmp_path / "m.parquet")


def test_another_format_named_parquet(tmp_path):
    import pandas as pd

    pd.DataFrame({"sample_id": ["a"]}).to_feather(tmp_path / "m.parquet")
    with pytest.raises(KdbiasError, match=r"an Arrow \(Feather\) file, not a Parquet file"):
        open_data(tmp_path / "m.parquet")
