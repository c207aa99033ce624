"""The weight manifest: mean one, readable in pandas, and refused when it cannot be sampled from."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbias.errors import KdbiasError
from kdbias.inspection.describe import inspect
from kdbias.tables.weight_manifest import mean_one, never_drawn, read_manifest, write_manifest

IDS = pa.array(["a", "b", "c", "d"])


def write(path, weights):
    groups = {"race": pa.array(["x", "x", "y", "y"])}
    write_manifest(
        path, IDS, None, groups, np.zeros(4), np.asarray(weights, float), {"config": {"method": "m"}}
    )


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1.0, 1e300, 8.9e307])
def test_weights_of_any_size_have_a_mean_of_one(tmp_path, scale):
    pd.DataFrame({"sample_id": IDS.to_pylist(), "weight": scale * np.array([1, 2, 2, 1])}).to_csv(
        tmp_path / "w.csv", index=False
    )
    np.testing.assert_allclose(read_manifest(tmp_path / "w.csv").weights, [2 / 3, 4 / 3, 4 / 3, 2 / 3])


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_mean_is_one(weights):
    assert mean_one(np.array(weights)).mean() == pytest.approx(1, abs=1e-14)


def test_survives_filtering_in_pandas(tmp_path):
    write(tmp_path / "w.parquet", [1, 2, 3, 10])
    frame = pd.read_parquet(tmp_path / "w.parquet")
    assert frame.attrs["kdbias"]["config"] == {"method": "m"}
    assert list(frame.columns) == ["sample_id", "label", "race", "log_density", "weight"]
    frame[frame.race == "y"].to_parquet(tmp_path / "kept.parquet")
    kept = read_manifest(tmp_path / "kept.parquet")
    assert kept.ids.to_pylist() == ["c", "d"]
    np.testing.assert_allclose(kept.weights, [6 / 13, 20 / 13])
    assert kept.provenance["config"] == {"method": "m"}
    assert kept.group_columns == ["race"]


def test_a_hand_made_file_serves(tmp_path):
    pd.DataFrame({"sample_id": ["007", "8"], "weight": [1, 3]}).to_csv(tmp_path / "w.csv", index=False)
    manifest = read_manifest(tmp_path / "w.csv")
    assert manifest.ids.to_pylist() == ["007", "8"]
    np.testing.assert_allclose(manifest.weights, [0.5, 1.5])
    assert manifest.labels.null_count == 2


def test_tabs_and_row_numbers_that_pandas_wrote(tmp_path):
    frame = pd.DataFrame({"sample_id": ["007", "8"], "weight": [1, 3], "race": ["x", "y"]})
    frame.to_csv(tmp_path / "w.tsv", sep="\t")
    manifest = read_manifest(tmp_path / "w.tsv")
    assert manifest.ids.to_pylist() == ["007", "8"]
    assert manifest.group_columns == ["race"]


def test_a_doubled_column_is_refused(tmp_path):
    (tmp_path / "w.csv").write_text("sample_id,weight,weight\na,1,2\n")
    columns = [pa.array(["a"]), pa.array([1.0]), pa.array([2.0])]
    pq.write_table(pa.table(columns, names=["sample_id", "weight", "weight"]), tmp_path / "w.parquet")
    for name in ("w.csv", "w.parquet"):
        with pytest.raises(KdbiasError, match=r"column names occur twice \(sample_id, weight, weight\)"):
            read_manifest(tmp_path / name)


def test_a_column_of_nothing_and_one_of_dates_do_no_harm(tmp_path):
    (tmp_path / "w.csv").write_text("sample_id,weight,site,taken\na,1,,\nb,3,,2020-01-02\n")
    manifest = read_manifest(tmp_path / "w.csv")
    assert manifest.group_columns == ["site", "taken"]
    np.testing.assert_allclose(manifest.weights, [0.5, 1.5])
    pq.write_table(manifest.table, tmp_path / "w.parquet")
    assert read_manifest(tmp_path / "w.parquet").fingerprint == manifest.fingerprint


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -1, 1, 1], r"1 of 4 .* -1 .*'b'"),
        ([1, np.nan, np.inf, 1], "2 of 4"),
        ([0, 0, 0, 0], "all 4 weights are zero"),
    ],
)
def test_unusable_weights_are_refused(tmp_path, weights, message):
    with pytest.raises(KdbiasError, match=message):
        write(tmp_path / "w.parquet", weights)
    pd.DataFrame({"sample_id": IDS.to_pylist(), "weight": weights}).to_parquet(tmp_path / "hand.parquet")
    with pytest.raises(KdbiasError, match=message):
        read_manifest(tmp_path / "hand.parquet")


def test_missing_column_repeated_ids_text_weights_and_no_file(tmp_path):
    pd.DataFrame({"sample_id": ["a"], "w": [1.0]}).to_parquet(tmp_path / "w.parquet")
    with pytest.raises(KdbiasError, match="no column 'weight'"):
        read_manifest(tmp_path / "w.parquet")
    pd.DataFrame({"sample_id": ["a", "a"], "weight": [1.0, 1.0]}).to_parquet(tmp_path / "w.parquet")
    with pytest.raises(KdbiasError, match="'a'"):
        read_manifest(tmp_path / "w.parquet")
    pd.DataFrame({"sample_id": ["a"], "weight": ["many"]}).to_parquet(tmp_path / "w.parquet")
    with pytest.raises(KdbiasError, match="not numbers"):
        read_manifest(tmp_path / "w.parquet")
    pd.DataFrame({"sample_id": ["a"], "weight": [1.0], "log_density": ["low"]}).to_parquet(
        tmp_path / "w.parquet"
    )
    with pytest.raises(KdbiasError, match=r"log_density holds .*, not numbers"):
        read_manifest(tmp_path / "w.parquet")
    pd.DataFrame({"sample_id": [[1]], "weight": [1.0]}).to_parquet(tmp_path / "w.parquet")
    with pytest.raises(KdbiasError, match=r"sample_id holds list.*, not one plain value"):
        read_manifest(tmp_path / "w.parquet")
    pd.DataFrame({"sample_id": [], "weight": []}).to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(KdbiasError, match="holds no samples"):
        read_manifest(tmp_path / "w.csv")
    with pytest.raises(KdbiasError, match="no such file"):
        read_manifest(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(KdbiasError, match="not a readable Parquet"):
        read_manifest(tmp_path / "text.parquet")


def test_what_is_no_plain_value_is_no_group(tmp_path):
    columns = {"sample_id": ["a", "b"], "weight": [1, 3], "box": [[1, 2], [3, 4]], "race": ["x", "y"]}
    pd.DataFrame(columns).to_parquet(tmp_path / "w.parquet")
    assert read_manifest(tmp_path / "w.parquet").group_columns == ["race"]


def test_what_would_never_be_drawn_is_0_to_every_reader(tmp_path):
    file, values = tmp_path / "w.csv", [1.0, 3.0, 1e-300, 5e-324, -0.0, 1e-12, 0.0, 1e-8]
    pd.DataFrame({"sample_id": list("abcdefgh"), "weight": values}).to_csv(file, index=False)
    weights = read_manifest(file).weights
    assert weights.tolist() == pytest.approx([2, 6, 0, 0, 0, 0, 0, 2e-8])
    assert (weights == 0).tolist() == [False, False, True, True, True, True, True, False]
    assert not np.signbit(weights).any()
    assert never_drawn(weights) == 5
    assert "5 never drawn" in inspect(file)["summary"]
