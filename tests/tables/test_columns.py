"""Plain values: one array of a type that can be compared, whatever type a file has them in."""

import datetime

import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables.columns import as_plain


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (pa.nulls(1), pa.large_string()),
        (pa.array(["x"]).cast(pa.string_view()), pa.large_string()),
        (pa.array(["x"]).dictionary_encode(), pa.large_string()),
        (pa.array([datetime.date(2020, 1, 2)]).dictionary_encode(), pa.date32()),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), pa.int8()),
        (pa.array([1], pa.uint8()), pa.uint8()),
    ],
)
def test_values_are_kept_in_a_plain_type(values, kept):
    for column in (values, pa.chunked_array([values, values])):
        plain = as_plain(column, "g", "here")
        assert plain.type == kept
        assert len(plain) == len(column)
        if values.null_count == 0 and not isinstance(values, pa.ExtensionArray):
            assert plain.to_pylist() == column.to_pylist()


@pytest.mark.parametrize(
    "values", [[b"x"], [[1]], [{"a": 1}], pa.array([b"x"], pa.binary(1)), pa.array([b"x"], pa.binary_view())]
)
def test_bytes_lists_and_structs_are_no_plain_values(values):
    with pytest.raises(KdbiasError, match=r"here: the group column 'g' holds .*not one plain value"):
        as_plain(pa.array(values) if isinstance(values, list) else values, "g", "here")
