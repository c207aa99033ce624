"""The density table: read with its bandwidths, and refused where a value in it cannot be."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables.density_table import read_density, write_density
from kdbias.tables.parquet_file import write_table

TABLE = pa.table(
    {
        "sample_id": ["a", "b", "c"],
        "label": ["x", None, "y"],
        "race": ["r", "r", "s"],
        "knn_distance": [0.1, 0.2, None],
        "potential_t2.5": [0.5, 0.6, 0.7],
        "log_density": [-0.7, -0.5, None],
        "duplicate_of": pa.array([None, None, "a"], pa.string()),
        "near_duplicates": [0, 0, 1],
    }
)


def test_bandwidths_groups_and_numbers(tmp_path):
    write_density(tmp_path / "density.parquet", TABLE, {"stage": "uniformity"})
    density = read_density(tmp_path)
    assert (density.n, density.bandwidths, density.group_columns) == (3, [2.5], ["race"])
    np.testing.assert_array_equal(density.potential(2.5), [0.5, 0.6, 0.7])
    np.testing.assert_array_equal(density.numbers("knn_distance"), [0.1, 0.2, np.nan])
    with pytest.raises(KdbiasError, match=r"no potential at t=5; measured: 2\.5"):
        density.potential(5)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("log_density", ["low", "high", "low"], "column log_density holds string, not numbers"),
        ("near_duplicates", ["0", "0", "1"], "column near_duplicates holds string, not numbers"),
        ("potential_t2.5", ["0.5", "0.6", "0.7"], "column potential_t2.5 holds string, not numbers"),
        ("potential_tx", [0.5, 0.6, 0.7], "'potential_tx' names no bandwidth"),
        ("duplicate_of", [[1], [2], [3]], "column duplicate_of holds list.*, not one plain value"),
        ("label", [b"\xff", b"\xfe", b"\xfd"], "column label holds binary, not one plain value"),
        ("sample_id", ["a", "a", "b"], "'a'"),
    ],
)
def test_columns_of_another_kind_are_refused(tmp_path, name, values, message):
    write_table(
        tmp_path / "density.parquet",
        TABLE.drop([name] if name in TABLE.column_names else []).append_column(name, pa.array(values)),
        {},
    )
    with pytest.raises(KdbiasError, match=message) as caught:
        read_density(tmp_path)
    assert str(tmp_path / "density.parquet") in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, None, 0.0, -1.0, np.inf])
def test_a_potential_that_cannot_be_is_refused_where_it_is_used(tmp_path, value):
    place = TABLE.column_names.index("potential_t2.5")
    table = TABLE.set_column(place, "potential_t2.5", pa.array([0.5, value, 0.7]))
    write_table(tmp_path / "density.parquet", table, {})
    with pytest.raises(KdbiasError, match=r"1 of 3 values of potential_t2\.5 .*'b'"):
        read_density(tmp_path).potential(2.5)


def test_an_empty_table_is_refused(tmp_path):
    write_table(tmp_path / "density.parquet", TABLE.slice(0, 0), {})
    with pytest.raises(KdbiasError, match="holds no samples"):
        read_density(tmp_path)
