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


def test_columns_that_make_no_groups_have_rows_but_no_table(tmp_path):
    columns = {
        "sample_id": ["a", "b", "c"],
        "key": ["k1", "k2", "k3"],
        "one": ["x"] * 3,
        "race": ["P", "Q", "P"],
    }
    changes = what_changed(hand_made(tmp_path / "w.parquet", weight=[1.0, 1.0, 1.0], **columns))
    assert changes.groups.num_rows == 3 + 1 + 2
    text = changes.summary()
    assert (
        "left out, as no groups: one (one value for all samples); key (another value for each sample)" in text
    )
    assert "k1" not in text
    assert "\nrace " in text


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
        ("race", "P"),
        ("race", "Q"),
        ("label", "x"),
        ("label", None),
    ]
    label = rows[2]
    assert (label["samples"], label["share_before"], label["share_after"]) == (3, 0.75, 0.5)
    assert label["weight"] == pytest.approx(2 / 3)
    assert label["ess_after"] == pytest.approx(4 / 1.5)
    assert label["log_density_before"] == pytest.approx(-2)
    assert label["log_density_after"] == pytest.approx((-0.5 - 1 - 3) / 2)
    race = rows[1]
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


def test_samples_of_equal_weight_are_ranked_by_density_then_by_id(tmp_path):
    manifest = hand_made(
        tmp_path / "w.parquet",
        sample_id=["e", "d", "c", "b", "a"],
        log_density=[-1.0, -3.0, -2.0, -3.0, -3.0],
        weight=[1.0, 1.0, 1.0, 1.0, 1.0],
    )
    samples = what_changed(manifest, top=2).samples.to_pydict()
    assert samples["sample_id"] == ["a", "b", "e", "c"]
    samples = what_changed(manifest).samples.to_pydict()  # fewer than twice ten: none is listed twice
    assert samples["change"] == ["most"] * 3 + ["least"] * 2
    assert samples["sample_id"] == ["a", "b", "d", "e", "c"]


def test_the_summary_shows_groups_before_labels_and_every_sample_asked_for(tmp_path):
    n = 60
    manifest = hand_made(
        tmp_path / "w.parquet",
        sample_id=[f"s{i:02d}" for i in range(n)],
        label=[f"who{i // 2:02d}" for i in range(n)],
        gender=["F" if i % 3 else "" for i in range(n)],
        weight=np.linspace(0.5, 1.5, n),
    )
    changes = what_changed(manifest, top=15)
    tables = changes.summary().split("\n\n")[1:]
    assert [table.split()[0] for table in tables] == ["gender", "label", "change"]
    assert [line.split()[:3] for line in tables[0].splitlines()[1:]] == [
        ["F", "40", "66.7"],
        ["(none)", "20", "33.3"],
    ]
    assert tables[1].splitlines()[1].split()[0] == "who00"  # of one size, by name
    assert tables[1].endswith("... and 18 more: -o DIR writes them all")
    assert [line.split()[0] for line in tables[2].splitlines()[1:]] == ["most"] * 15 + ["least"] * 15


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
    assert "share after" in changes.summary()


def test_bad_requests_are_refused(tmp_path):
    manifest = hand_made(tmp_path / "w.parquet", sample_id=["a", "b"], weight=[1.0, 1.0])
    with pytest.raises(KdbiasError, match="no column 'race'; it has: none"):
        what_changed(manifest, group_by=["race"])
    with pytest.raises(KdbiasError, match="changes: top is 0, should be at least 1"):
        what_changed(manifest, top=0)
    with pytest.raises(KdbiasError, match=r"holds no schemes.parquet"):
        what_changed(manifest, tmp_path)
    assert what_changed(manifest).groups.num_rows == 0
