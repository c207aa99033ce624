import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.weighting.changes import what_changed
from kdbias.weighting.stage import weights


def hand_made(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_groups_show_share_weight_and_density_before_and_after(tmp_path):
    manifest = hand_made(
        tmp_path / "w.parquet",
        sample_id=["a", "b", "c", "d"],
        label=["x", "x", "x", None],
        race=["P", "Q", "P", "Q"],
        log_density=[-1.0, -2.0, -3.0, -4.0],
        weight=[0.5, 0.5, 1.0, 2.0],
    )
    rows = what_changed(manifest).groups.to_pylist()
    assert [(r["column"], r["value"]) for r in rows] == [
        ("label", "x"),
        ("label", None),
        ("race", "P"),
        ("race", "Q"),
    ]
    label = rows[0]
    assert (label["samples"], label["share_before"], label["share_after"]) == (3, 0.75, 0.5)
    assert label["weight"] == pytest.approx(2 / 3)
    assert label["ess_after"] == pytest.approx(4 / 1.5)
    assert label["log_density_before"] == pytest.approx(-2)
    assert label["log_density_after"] == pytest.approx((-0.5 - 1 - 3) / 2)
    race = rows[3]
    assert (race["share_before"], race["share_after"], race["log_density_after"]) == (0.5, 0.625, -3.6)
    only = what_changed(manifest, group_by=["race"]).groups
    assert set(only.column("column").to_pylist()) == {"race"}


def test_samples_name_the_most_and_the_least_drawn(tmp_path):
    ids = [f"s{i}" for i in range(30)]
    manifest = hand_made(tmp_path / "w.parquet", sample_id=ids, weight=np.arange(30.0))
    samples = what_changed(manifest, top=3).samples.to_pydict()
    assert samples["sample_id"] == ["s29", "s28", "s27", "s0", "s1", "s2"]
    assert samples["change"] == ["most"] * 3 + ["least"] * 3
    assert samples["weight"][0] == pytest.approx(29 / 14.5)
    assert samples["log_density"] == [None] * 6


def test_hardness_comes_from_the_measurement_that_the_manifest_names(long_tailed, tmp_path):
    manifest = weights(long_tailed.density, tmp_path / "w.parquet", method="hard").path
    assert what_changed(manifest).hardness.num_rows == 0
    n = len(long_tailed.x)
    hardness = np.linspace(0, 1, n)
    hardness[:3] = np.nan
    ids = [f"s{i:04d}" for i in range(n)]
    table = pa.table({"sample_id": ids, "hardness": pa.array(hardness, mask=np.isnan(hardness))})
    pq.write_table(
        table.take(np.random.default_rng(0).permutation(n)), long_tailed.density / "schemes.parquet"
    )
    rows = what_changed(manifest).hardness.to_pylist()
    assert [r["quarter"] for r in rows] == ["easiest", "2", "3", "hardest"]
    assert sum(r["samples"] for r in rows) == n - 3
    w = pq.read_table(manifest).column("weight").to_numpy()
    assert rows[3]["share_after"] == pytest.approx(w[-48:].sum() / w[3:].sum())
    assert sum(r["share_after"] for r in rows) == pytest.approx(1)


def test_tables_are_written_and_shown(long_tailed, tmp_path):
    changes = what_changed(weights(long_tailed.density, tmp_path / "w.parquet").path)
    written = changes.write(tmp_path / "changes")
    assert [path.name for path in written] == ["groups.csv", "hardness.csv", "samples.csv"]
    with open(written[0], newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["column"] for row in rows} == {"label", "camera"}
    assert "share_after" in changes.summary()


def test_bad_requests_are_refused(tmp_path):
    manifest = hand_made(tmp_path / "w.parquet", sample_id=["a", "b"], weight=[1.0, 1.0])
    with pytest.raises(KdbiasError, match="no column 'race'; it has: none"):
        what_changed(manifest, group_by=["race"])
    with pytest.raises(KdbiasError, match="top 0 lists no samples"):
        what_changed(manifest, top=0)
    with pytest.raises(KdbiasError, match=r"holds no schemes.parquet"):
        what_changed(manifest, tmp_path)
    assert what_changed(manifest).groups.num_rows == 0
