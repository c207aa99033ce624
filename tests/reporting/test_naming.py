"""Unlike things never share a name: what is averaged over seeds differs in nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from kdbias.reporting import report
from kdbias.reporting.gathering import collect, recipes, told_apart
from kdbias.reporting.tables import values_by_scheme
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.weight_manifest import read_manifest, write_manifest


@pytest.fixture
def own(outputs, tmp_path) -> Path:
    """A copy of all outputs, whose evaluations name its own runs."""
    copy = Path(shutil.copytree(outputs.root, tmp_path / "copy"))
    for file in copy.glob("evaluations/*/run.json"):
        write_json(file, json.loads(file.read_text().replace(str(outputs.root), str(copy))))
    return copy


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert told_apart([Path("/d/a/w.parquet"), Path("/d/v.parquet")]) == ["w", "v"]
    assert told_apart([Path("/d/a/w.parquet"), Path("/d/b/w.parquet")]) == ["a/w", "b/w"]
    assert told_apart([Path("/1/a/w.parquet"), Path("/2/a/w.parquet")]) == ["1/a/w", "2/a/w"]
    assert told_apart([Path("/d/a/w.parquet")], taken=["w"]) == ["a/w"]


def test_runs_of_one_scheme_are_told_apart_by_what_differs_but_the_seed():
    def record(seed=0, weights="f1", **config):
        return {"config": {"lr": 0.1, **config, "seed": seed}, "inputs": {"weights": weights}}

    seeds = [("w", record(seed, student="small")) for seed in (0, 1)]
    assert recipes(seeds) == ["w", "w"]
    others = [("w", record(student="large", lr=0.2)), ("v", record(student="large"))]
    assert recipes([*seeds, *others]) == ["w (student small)"] * 2 + ["w (student large)", "v"]
    drawn = [("w", {**record(weights=f), "paths": {"weights": "a/w.parquet"}}) for f in ("abc", "abd")]
    assert recipes(drawn) == ["w (weights w.parquet abc)", "w (weights w.parquet abd)"]


def test_another_student_is_no_seed(own):
    file = own / "students" / "natural-0" / "run.json"
    record = read_json(file)
    write_json(file, {**record, "config": {**record["config"], "loss": "cosine"}})
    values = values_by_scheme(collect([own]).judged_alike)["centroid_balanced_accuracy"]
    assert values["natural (loss cosine)"] == [0.70]
    assert values["natural (loss l2e)"] == [0.72, 0.74]
    assert values["equilibrium"] == [0.80, 0.81, 0.85]


def test_a_record_that_lacks_an_option_has_its_default(own):
    before = values_by_scheme(collect([own]).judged_alike)
    for file, own_config in (
        (own / "students" / "natural-0" / "run.json", {"ema": 0.0, "milestones": [0.5, 0.75, 0.9]}),
        (own / "evaluations" / "natural-0" / "run.json", {"options": {"k": 5}, "where": []}),
    ):
        record = read_json(file)
        write_json(file, {**record, "config": record["config"] | own_config})
    assert values_by_scheme(collect([own]).judged_alike) == before
    write_json(file, {**record, "config": record["config"] | {"options": {"k": 6}}})
    alike = values_by_scheme(collect([own]).judged_alike)["centroid_balanced_accuracy"]
    assert len(alike["natural"]) == len(before["centroid_balanced_accuracy"]["natural"]) - 1


def test_manifests_of_one_name_are_two_schemes(outputs, tmp_path):
    old = read_manifest(outputs["equilibrium.parquet"])
    other = tmp_path / "other" / "equilibrium.parquet"
    other.parent.mkdir()
    weights = old.weights[::-1].copy()
    write_manifest(other, old.ids, old.labels, {}, outputs.log_density, weights, old.provenance)
    found = collect([outputs["density"], other])
    assert [scheme.name for scheme in found.manifests] == ["equilibrium", "other/equilibrium"]


def test_evaluations_of_other_test_data_enter_no_mean(own, tmp_path):
    file = own / "evaluations" / "natural-0" / "metrics.json"
    write_json(file, {**read_json(file), "n": 7})
    values = values_by_scheme(collect([own]).judged_alike)["centroid_balanced_accuracy"]
    assert values["natural"] == [0.72, 0.74]
    result = report(own, tmp_path / "r.html", pictures=0)
    assert result.notices == (
        "judged by other options, --where or test data than most students, so shown one by one and in no "
        f"mean: {file.parent}",
    )
    assert "0.7000" in (tmp_path / "r.html").read_text()  # its own line
