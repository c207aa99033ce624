"""Columns that make no groups."""

import pyarrow as pa
import pytest

from kdbias.tables.telling import no_groups, telling


def test_constant_and_unique_columns_are_left_out_in_one_line():
    columns = {
        "race": ["a", "b", "a"],
        "one": ["x", "x", "x"],
        "mostly": ["x", None, "x"],
        "id": ["1", "2", "3"],
        "number": [1, 2, 3],
        "empty": [None, None, None],
        "some": ["p", None, "q"],
    }
    kept, line = telling((name, pa.array(values)) for name, values in columns.items())
    assert kept == ["race", "mostly"]
    assert line == (
        "left out, as no groups: one (one value for all samples); id, number, some (another value for each "
        "sample)"
    )
    assert telling([("race", pa.array(["a", "b", "a"]))]) == (["race"], None)


@pytest.mark.parametrize(
    ("sizes", "n", "why"),
    [
        ([3], 3, "one value"),
        ([2], 3, None),
        ([1, 1], 2, "another"),
        ([2, 1], 3, None),
        ([1], 1, None),
        ([], 0, None),
    ],
)
def test_why(sizes, n, why):
    found = no_groups(sizes, n)
    assert found is None if why is None else found.startswith(why)
