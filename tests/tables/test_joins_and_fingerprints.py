"""Joins by id and digests of inputs."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.joins import align, require_unique


def test_align_finds_rows_whatever_the_order():
    have = pa.chunked_array([["a", "b"], ["c"]])
    np.testing.assert_array_equal(align(pa.array(["c", "a", "c"]), have, "weights", "table"), [2, 0, 2])


def test_align_names_what_is_missing():
    have = pa.array(["a", "b"])
    with pytest.raises(
        KdbiasError, match=r"2 of the 3 ids of weights are not among the 2 ids of table \('x', 'y'\)"
    ):
        align(pa.array(["x", "a", "y"]), have, "weights", "table")
    rows = align(pa.array(["x", "a"]), have, "weights", "table", allow_missing=True)
    np.testing.assert_array_equal(rows, [-1, 0])


def test_null_ids_are_refused():
    with pytest.raises(KdbiasError, match="1 row has no sample_id"):
        require_unique(pa.array(["a", None]), "data")


def test_arrow_digest_depends_on_values_alone():
    whole = pa.array(["ab", "c", None, "d"])
    sliced = pa.concat_arrays([pa.array(["zz"]), whole]).slice(1)
    chunked = pa.chunked_array([whole.slice(0, 1), whole.slice(1)])
    assert fingerprints.of_arrays(whole) == fingerprints.of_arrays(sliced) == fingerprints.of_arrays(chunked)
    for other in (["a", "bc", None, "d"], ["ab", "c", "", "d"], ["ab", "c", None]):
        assert fingerprints.of_arrays(pa.array(other)) != fingerprints.of_arrays(whole)


def test_numpy_digest_depends_on_dtype_shape_and_values():
    x = np.arange(6, dtype=np.float32)
    digests = {fingerprints.of_arrays(a) for a in (x, x.reshape(2, 3), x.astype(np.float64), x[::-1])}
    assert len(digests) == 4
    assert fingerprints.of_arrays(x[::2]) == fingerprints.of_arrays(x[::2].copy())


def test_json_digest_ignores_the_order_of_keys(tmp_path):
    assert fingerprints.of_json({"a": 1, "b": 2}) == fingerprints.of_json({"b": 2, "a": 1})
    (tmp_path / "f").write_bytes(b"x")
    before = fingerprints.of_file(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"y")
    assert fingerprints.of_file(tmp_path / "f") != before


def test_repeated_and_null_ids_never_join():
    with pytest.raises(KdbiasError, match="'a'"):
        align(pa.array(["a"]), pa.array(["a", "a"]), "weights", "table")
    with pytest.raises(KdbiasError, match="1 row has no sample_id"):
        align(pa.array(["a", None]), pa.array(["a", "b"]), "weights", "table")


def test_table_digest_ignores_who_wrote_it_and_when():
    table = pa.table({"a": [1.0, None], "b": [True, False], "c": ["x", None]})
    same = pa.table({"a": [1.0, None], "b": [True, False], "c": ["x", None]}).replace_schema_metadata(
        {"created": "now"}
    )
    assert fingerprints.of_table(table) == fingerprints.of_table(same)
    for column, values in {"a": [1.0, 0.0], "b": [True, None], "c": ["x", ""]}.items():
        other = table.set_column(table.column_names.index(column), column, pa.array(values))
        assert fingerprints.of_table(other) != fingerprints.of_table(table), column


DAY = datetime.date(2020, 1, 2)
ANY_TYPE = {
    "nothing": pa.nulls(4),
    "date": pa.array([DAY, None, DAY, None]),
    "time": pa.array([datetime.time(1), None] * 2, pa.time32("s")),
    "decimal": pa.array([decimal.Decimal("1.5"), None] * 2, pa.decimal128(5, 2)),
    "bytes": pa.array([b"a", None] * 2),
    "bytes of one length": pa.array([b"ab", None] * 2, pa.binary(2)),
    "view of text": pa.array(["as long as a view", None] * 2, pa.string_view()),
    "list": pa.array([[1], None, [2, 3], None]),
    "list of one length": pa.array([[1.0, 2.0], None] * 2, pa.list_(pa.float32(), 2)),
    "struct": pa.array([{"a": 1}, None] * 2),
    "dates by number": pa.array([DAY, None] * 2).dictionary_encode(),
    "extension": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None] * 2, pa.int8())),
}


@pytest.mark.parametrize("values", ANY_TYPE.values(), ids=ANY_TYPE)
def test_any_type_of_column_has_a_digest_of_its_values(values):
    chunked = pa.chunked_array([values.slice(0, 1), values.slice(1)])
    assert fingerprints.of_arrays(values) == fingerprints.of_arrays(chunked)
    assert fingerprints.of_arrays(values) != fingerprints.of_arrays(values.slice(1))
    if values.null_count < len(values):
        moved = pa.concat_arrays([values.slice(1), values.slice(0, 1)])
        assert fingerprints.of_arrays(values) != fingerprints.of_arrays(moved)


def test_digests_of_tables_stay_what_they_were():
    table = pa.table(
        {
            "id": ["a", "b"],
            "n": pa.array([1, None], pa.int16()),
            "x": [0.5, None],
            "seen": [True, None],
            "race": pa.array(["x", None], pa.large_string()),
            "role": pa.array(["x", None]).dictionary_encode(),
            "when": pa.array([0, None], pa.timestamp("us")),
            "list": [[1.0], [2.0, 3.0]],
        }
    )
    assert fingerprints.of_table(table) == "915599bae3495b25ac1d9987d8ea2c49"
