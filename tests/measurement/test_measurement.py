"""uniformity(): every number of its files against float64, and what happens when it is called again."""

import copy
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.display.quantities import write
from kdbias.errors import KdbiasError
from kdbias.measurement import best as best_of
from kdbias.measurement import distribution, passes, session
from kdbias.measurement.distribution import hardness_mass, hardness_quarters, rectify
from kdbias.measurement.files import read_neighbors
from kdbias.measurement.stage import uniformity
from kdbias.measurement.summary import summary_table
from kdbias.sphere import all_pairs
from kdbias.sphere.equilibrium.solution import GapShare
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.null import log_null
from kdbias.sphere.snapshots import Snapshots
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.weight_manifest import write_manifest
from tests import reference
from tests.endings import ending_after

N, D = 160, 12
ENTRY = {
    "t",
    "uniformity",
    "null",
    "excess",
    "energy",
    "effective_distinct",
    "distinct_ceiling",
    "rectification",
    "pairs",
    "standard_error",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """A long-tailed table in which rows 30 and 31 repeat row 3 and row 40 nearly does."""
    x = reference.clustered_sphere(N, D, 8, seed=4)
    x[30:32] = x[3]
    x[40] = reference.unit_rows(x[3:4] + 0.005)[0]
    labels = [f"person {i % 20}" if i != 159 else None for i in range(N)]
    groups = {"camera": pa.array([f"c{i % 3}" for i in range(N)]), "age": pa.array([i % 2 for i in range(N)])}
    ids = pa.array([f"id{i:03d}" for i in range(N)])
    out = tmp_path_factory.mktemp("emb") / "emb"
    return write_embedding_table(out, ids, x, pa.array(labels), groups, dtype="float32")


def write_weights(path: Path, table: EmbeddingTable, w: np.ndarray, order: np.ndarray | None = None) -> Path:
    order = np.arange(table.n) if order is None else order
    ids = table.ids().take(pa.array(order))
    write_manifest(path, ids, None, {}, np.zeros(len(order)), w[order], {"stage": "weights"})
    return path


def skewed(n: int = N) -> np.ndarray:
    return np.random.default_rng(8).random(n) ** 3


@pytest.fixture(scope="module")
def measured(table: EmbeddingTable, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("density")
    shuffled = write_weights(
        folder / "skewed.parquet", table, skewed(), np.random.default_rng(0).permutation(N)
    )
    return uniformity(
        table.path,
        folder / "out",
        weights=[shuffled],
        k=7,
        t="4,2,50",
        group_by=["camera", "label"],
        keep_neighbors=True,
        rectification="all",
    )


def test_schema_of_the_document(measured) -> None:
    document = read_json(measured.out / "uniformity.json")
    assert document == measured.document
    assert (document["n"], document["d"], document["t_chosen"]) == (N, D, 4.0)
    assert document["search"] == {"kind": "exact", "k": 7, "recall": 1.0}
    assert [s["name"] for s in document["schemes"]] == ["natural", "skewed"]
    assert document["schemes"][0]["weights"] is None
    assert document["schemes"][1]["weights"].endswith("skewed.parquet")
    for scheme in document["schemes"]:
        assert {"name", "weights", "ess", "effective_identities", "groups", "bandwidths"} <= scheme.keys()
        assert [entry["t"] for entry in scheme["bandwidths"]] == [2, 4, 50]
        assert all(entry.keys() >= ENTRY for entry in scheme["bandwidths"])


def test_bandwidth_numbers_against_float64(table: EmbeddingTable, measured) -> None:
    x = table.vectors()
    for scheme, p in zip(
        measured.document["schemes"], (None, reference.probabilities(skewed())), strict=True
    ):
        for entry in scheme["bandwidths"]:
            t = entry["t"]
            assert entry["uniformity"] == pytest.approx(reference.uniformity(x, t, p), abs=1e-5 * t)
            assert entry["energy"] == pytest.approx(reference.energy(x, t, p), rel=1e-5)
            assert entry["effective_distinct"] == pytest.approx(1 / entry["energy"])
            assert entry["null"] == log_null(D, t)
            assert entry["excess"] == pytest.approx(entry["uniformity"] - entry["null"])
            assert entry["distinct_ceiling"] == pytest.approx(math.exp(-entry["null"]))
            assert entry["pairs"] == N * (N - 1) // 2
            assert entry["standard_error"] is None


def test_scheme_numbers_against_float64(table: EmbeddingTable, measured) -> None:
    natural, other = measured.document["schemes"]
    p = reference.probabilities(skewed())
    assert natural["ess"] == pytest.approx(N)
    assert other["ess"] == pytest.approx(reference.ess(p))
    assert other["ess_share"] == pytest.approx(reference.ess(p) / N)
    assert other["max_weight"] == pytest.approx(p.max() * N)
    assert other["top_mass"] == pytest.approx(np.sort(p)[-2:].sum())  # 1 % of 160 samples, rounded
    assert other["vendi_score"] == pytest.approx(reference.vendi_score(table.vectors(), p), rel=1e-4)
    person = np.arange(N - 1) % 20  # the last sample has no label
    mass = reference.probabilities(np.bincount(person, weights=p[:-1]))
    assert other["effective_identities"] == pytest.approx(np.exp(-(mass * np.log(mass)).sum()))
    gram = reference.cosines(table.vectors())
    gram[gram > 1 - 1e-9] = -1  # self and exact duplicates
    nearest = np.sqrt(2 - 2 * gram.max(axis=1))
    assert other["koleo_entropy"] == pytest.approx(p @ np.log(nearest), abs=1e-4)


def test_groups_before_and_after(measured) -> None:
    natural, other = (s["groups"]["camera"] for s in measured.document["schemes"])
    p = reference.probabilities(skewed())
    for row in other:
        member = np.arange(N) % 3 == int(row["value"][1])
        before = next(r for r in natural if r["value"] == row["value"])
        assert row["count"] == before["count"] == member.sum()
        assert before["mass"] == pytest.approx(before["share"])
        assert row["mass"] == pytest.approx(p[member].sum())
        assert row["weight"] == pytest.approx(row["mass"] / row["share"])
    assert {row["value"] for row in measured.document["schemes"][0]["groups"]["label"]} >= {None, "person 0"}


def test_group_density_is_under_the_scheme(table: EmbeddingTable, measured) -> None:
    p = reference.probabilities(skewed())
    expected = np.log(reference.potentials(table.vectors(), 4.0, p))
    for row in measured.document["schemes"][1]["groups"]["camera"]:
        member = np.arange(N) % 3 == int(row["value"][1])
        assert row["log_density"] == pytest.approx(expected[member].mean(), abs=1e-5)


def test_hardness_quarters(measured) -> None:
    natural, other = (s["hardness"] for s in measured.document["schemes"])
    assert natural["samples"] == N - 1
    np.testing.assert_allclose(natural["mass"], 0.25, atol=0.01)
    assert sum(other["mass"]) == pytest.approx(1)
    assert other["easy"] == other["mass"][0]
    assert other["hard"] == other["mass"][3]


@pytest.mark.parametrize(
    ("known", "sizes"), [(3, None), (4, [1, 1, 1, 1]), (5, [2, 1, 1, 1]), (7, [2, 2, 2, 1])]
)
def test_quarters_are_equal_by_rank(known: int, sizes: list[int] | None) -> None:
    hardness = np.append(np.round(np.arange(known)[::-1] / 4), [np.nan, np.nan])  # with ties
    quarters = hardness_quarters(hardness)
    assert [len(rows) for rows in quarters] == (sizes or [])
    mass = hardness_mass(hardness, np.full(known + 2, 1 / (known + 2)))
    if sizes is None:
        assert mass is None
    else:
        assert (np.diff(hardness[np.concatenate(quarters)]) >= 0).all()
        assert mass["mass"] == pytest.approx([size / known for size in sizes])


def test_density_table(table: EmbeddingTable, measured) -> None:
    density = read_density(measured.out)
    x = table.vectors()
    assert density.ids.to_pylist() == table.ids().to_pylist()
    assert density.group_columns == ["camera", "age"]
    assert density.bandwidths == [2, 4, 50]
    for t in density.bandwidths:
        np.testing.assert_allclose(density.potential(t), reference.potentials(x, t), rtol=1e-6 * (5 + t))
    np.testing.assert_allclose(density.numbers("log_density"), np.log(density.potential(4.0)))
    _, cosines = reference.neighbors(x, 7)
    np.testing.assert_allclose(density.numbers("knn_distance"), np.sqrt(2 - 2 * cosines[:, -1]), atol=1e-6)
    frame = density.table.to_pandas().set_index("sample_id")
    assert frame.duplicate_of.dropna().to_dict() == {"id030": "id003", "id031": "id003"}
    assert frame.near_duplicates[["id003", "id030", "id040"]].tolist() == [3, 3, 3]
    assert measured.document["duplicates"]["exact_duplicates"] == 2
    attrs = pd.read_parquet(measured.density_path).attrs["kdbias"]
    assert attrs["stage"] == "uniformity"
    assert attrs["t_chosen"] == 4.0
    assert attrs["inputs"] == {"embeddings": table.fingerprint}


def test_kept_neighbours(table: EmbeddingTable, measured) -> None:
    ids, positions, cosines = read_neighbors(measured.out)
    assert ids.to_pylist() == table.ids().to_pylist()
    assert not (positions == np.arange(N)[:, None]).any()
    np.testing.assert_allclose(cosines, reference.neighbors(table.vectors(), 7)[1], atol=1e-6)
    assert "kdbias" in pd.read_parquet(measured.out / "neighbors.parquet").attrs


def test_rectification_runs_from_natural_to_the_best(table: EmbeddingTable, measured) -> None:
    natural, other = measured.document["schemes"]
    for i, best in enumerate(measured.document["best"]):
        assert natural["bandwidths"][i]["rectification"] == 0
        start, end = natural["bandwidths"][i]["energy"], best["energy"]
        assert end <= start
        value = other["bandwidths"][i]["rectification"]
        assert value == pytest.approx((start - other["bandwidths"][i]["energy"]) / (start - end))
        assert value < 1  # random weights are not the best ones
        # No distribution that a crude search finds beats the certified best.
        p = reference.natural(N)
        kernel = reference.kernel(table.vectors(), best["t"])
        for _ in range(200):
            p = reference.probabilities(p / (kernel @ p))
        assert p @ kernel @ p >= end - best["gap"] - 1e-6 * end


@pytest.mark.parametrize(
    ("gap", "value", "reason"),
    [(0.0039, 0.25, None), (0.0041, None, "certified to 1.0%"), (0.2, None, "certified to 50.0%")],
)
def test_rectification_needs_a_certificate_of_one_percent(gap, value, reason) -> None:
    entry = {"energy": 0.9}
    rectify([{"bandwidths": [entry]}], [{"energy": 1.0}], [{"energy": 0.6, "gap": gap, "reason": None}])
    assert entry["rectification"] == (value if value is None else pytest.approx(value))
    assert (
        entry["rectification_reason"] is None if reason is None else reason in entry["rectification_reason"]
    )


def test_rectification_starts_at_the_exact_energy_of_natural_sampling() -> None:
    natural, other = {"energy": 1.05}, {"energy": 0.9}  # estimates
    best = {"energy": 0.6, "natural_energy": 1.0, "gap": 0.0, "reason": None}
    rectify([{"bandwidths": [natural]}, {"bandwidths": [other]}], [natural], [best])
    assert natural["rectification"] == 0
    assert other["rectification"] == pytest.approx(0.25)


def test_nothing_to_gain_is_a_reason() -> None:
    entry = {"energy": 1.0}
    rectify([{"bandwidths": [entry]}], [{"energy": 1.0}], [{"energy": 1.0, "gap": 0.0, "reason": None}])
    assert entry["rectification"] is None
    assert "no re-weighting beats natural" in entry["rectification_reason"]


def test_same_call_again_does_nothing(
    table: EmbeddingTable, measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **k: pytest.fail("measured again"))
    before = {p.name: p.stat().st_mtime_ns for p in measured.out.iterdir()}
    again = uniformity(table.path, measured.out, k=7, t="4,2,50", keep_neighbors=True)
    assert again.state == "finished"
    assert again.document == measured.document
    assert {p.name: p.stat().st_mtime_ns for p in measured.out.iterdir()} == before


def test_further_weights_and_groups_are_added(table: EmbeddingTable, tmp_path: Path) -> None:
    first = write_weights(tmp_path / "a.parquet", table, skewed())
    second = write_weights(tmp_path / "b.parquet", table, np.arange(N) + 1.0)
    options = {"k": 5, "t": "3,6"}
    at_once = uniformity(table.path, tmp_path / "once", weights=[first, second], group_by=["age"], **options)
    uniformity(table.path, tmp_path / "steps", weights=[first], **options)
    stored = (tmp_path / "steps" / "density.parquet").read_bytes()
    stepwise = uniformity(
        table.path, tmp_path / "steps", weights=[first, second], group_by=["age"], **options
    )
    assert stepwise.state == "extended"
    assert (tmp_path / "steps" / "density.parquet").read_bytes() == stored
    assert_close(stepwise.document, at_once.document)


def test_what_is_stored_is_not_computed_again(
    table: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_weights(tmp_path / "a.parquet", table, skewed())
    second = write_weights(tmp_path / "b.parquet", table, np.arange(N) + 1.0)
    options = {"k": 5, "t": "3,6"}
    at_once = uniformity(table.path, tmp_path / "once", weights=[first, second], group_by=["age"], **options)
    out = tmp_path / "steps"
    old = uniformity(table.path, out, weights=[first], **options).document["schemes"]
    computed = []
    real = distribution.vendi_score
    monkeypatch.setattr(
        distribution, "vendi_score", lambda x, p: computed.append(float(p.max() * N)) or real(x, p)
    )
    with monkeypatch.context() as patched:  # groups need no vectors at all
        patched.setattr(EmbeddingTable, "vectors", lambda *given, **more: pytest.fail("vectors are read"))
        grouped = uniformity(table.path, out, group_by=["age"], **options)
        restated = uniformity(table.path, out, estimator="knn", exponent=2, **options)
    assert (grouped.state, restated.state, computed) == ("extended", "restated", [])
    assert [entry | {"groups": {}} for entry in grouped.document["schemes"]] == old
    more = uniformity(table.path, out, weights=[second], estimator="potential", **options)
    assert computed == [pytest.approx(2 * N / (N + 1))]  # of the new scheme alone
    assert more.document["schemes"][:2] == grouped.document["schemes"]
    assert_close(more.document, at_once.document)


def test_the_seconds_of_a_measurement_are_those_of_all_its_calls(
    table: EmbeddingTable, tmp_path: Path
) -> None:
    out, options = tmp_path / "out", {"k": 5, "t": 3, "rectification": "none"}
    uniformity(table.path, out, **options)
    write_json(out / "run.json", read_json(out / "run.json") | {"seconds": 1000.0})
    uniformity(table.path, out, weights=[write_weights(tmp_path / "a.parquet", table, skewed())], **options)
    assert json.loads((out / "run.json").read_text())["seconds"] >= 1000


def assert_close(a: object, b: object, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_close(left, right, f"{where}[{i}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6), where  # a device sums schemes together in float32
    else:
        assert a == b, where


def test_only_new_weights_are_passed_over(table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"k": 5, "t": 3, "rectification": "none"}
    uniformity(table.path, tmp_path / "out", **options)
    calls = []

    def spy(x, bandwidths, weights, **more):
        calls.append((len(weights), more["k"], more["near"]))
        return original(x, bandwidths, weights, **more)

    original = passes.all_pairs
    monkeypatch.setattr(passes, "all_pairs", spy)
    manifest = write_weights(tmp_path / "w.parquet", table, skewed())
    uniformity(table.path, tmp_path / "out", **options, weights=[manifest])
    assert calls == [(1, 0, None)]
    write_weights(manifest, table, skewed() + 1)
    changed = uniformity(table.path, tmp_path / "out", **options, weights=[manifest])
    assert [s["name"] for s in changed.document["schemes"]] == ["natural", "w"]
    p = reference.probabilities(skewed() + 1)
    assert changed.document["schemes"][1]["ess"] == pytest.approx(reference.ess(p))


def test_a_name_that_another_file_has_taken_is_refused_before_the_pass(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"k": 5, "t": 3, "rectification": "none"}
    manifest = write_weights(tmp_path / "w.parquet", table, skewed())
    uniformity(table.path, tmp_path / "out", **options, weights=[manifest])
    (tmp_path / "sub").mkdir()
    other = write_weights(tmp_path / "sub" / "w.parquet", table, skewed() + 1)
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **o: pytest.fail("a pass was made"))
    with pytest.raises(KdbiasError, match=r"has a scheme 'w' from .*w\.parquet already; rename .*sub"):
        uniformity(table.path, tmp_path / "out", **options, weights=[other])


@pytest.mark.parametrize(
    ("change", "named"), [({"k": 6}, "k: 5 -> 6"), ({"t": "4"}, "t: "), ({"seed": 1}, "seed")]
)
def test_changed_options_are_refused(table, tmp_path, change: dict, named: str) -> None:
    options = {"k": 5, "t": "3", "rectification": "none"}
    uniformity(table.path, tmp_path / "out", **options)
    with pytest.raises(KdbiasError, match=named):
        uniformity(table.path, tmp_path / "out", **{**options, **change})
    assert uniformity(table.path, tmp_path / "out", **{**options, **change}, overwrite=True).state == "new"


def test_changed_data_are_refused(table, tmp_path) -> None:
    other = write_embedding_table(tmp_path / "emb", table.ids(), reference.random_sphere(N, D), None, {})
    uniformity(table.path, tmp_path / "out", k=5, t="3", rectification="none")
    with pytest.raises(KdbiasError, match="input embeddings"):
        uniformity(other.path, tmp_path / "out", k=5, t="3", rectification="none")


def test_an_interrupted_measurement_is_resumed(table, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **options) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(session, "write_json", fail)  # everything but the document is written
        with pytest.raises(KeyboardInterrupt):
            uniformity(table.path, tmp_path / "out", k=5, t="3")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "running"
    resumed = uniformity(table.path, tmp_path / "out", k=5, t="3")
    whole = uniformity(table.path, tmp_path / "whole", k=5, t="3")
    assert_close(resumed.document, whole.document)


def test_a_pass_is_not_repeated_when_what_follows_it_is_killed(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args, **options) -> None:
        raise KeyboardInterrupt

    options = {"k": 5, "t": "3", "device": "cpu"}
    monkeypatch.setattr(passes, "_SNAPSHOTS_FROM", 0)
    monkeypatch.setattr(passes, "fitting_tile", lambda *args: 32)
    monkeypatch.setattr(all_pairs, "Snapshots", lambda path, key: Snapshots(path, key, every=0.0))
    with monkeypatch.context() as patched:
        patched.setattr(best_of, "solve", fail)
        with pytest.raises(KeyboardInterrupt):
            uniformity(table.path, tmp_path / "out", **options)
    assert (tmp_path / "out" / "pass.npz").exists()
    resumed = uniformity(table.path, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "pass.npz").exists()
    whole = uniformity(table.path, tmp_path / "whole", **options)
    assert_close(resumed.document, whole.document)


def test_an_addition_killed_at_any_write_leaves_the_old_numbers_or_the_new(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"k": 5, "t": "3", "rectification": "none"}
    manifest = write_weights(tmp_path / "w.parquet", table, skewed())
    uniformity(table.path, tmp_path / "old", **options, weights=[manifest])
    write_weights(manifest, table, skewed() ** 2)
    more = {**options, "weights": [manifest], "estimator": "knn"}
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    uniformity(table.path, tmp_path / "new", **more)
    old, new = numbers_of(tmp_path / "old"), numbers_of(tmp_path / "new")
    assert all(a != b for a, b in zip(old, new, strict=True))
    seen = set()
    for last in range(20):
        out = tmp_path / f"killed at {last}"
        shutil.copytree(tmp_path / "old", out)
        with ending_after(last, monkeypatch):
            try:
                uniformity(table.path, out, **more)
            except KeyboardInterrupt:
                status = json.loads((out / "run.json").read_text())["status"]
                if status == "finished":
                    assert numbers_of(out) == old
                seen.add(status)
            else:
                break
        other = uniformity(table.path, out, **options)  # whatever the next command is
        assert other.state == "finished"
        assert numbers_of(out) == (old if status == "finished" else new)
        uniformity(table.path, out, **more)
        assert numbers_of(out) == new
        assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "new").iterdir()}
    assert last > 5
    assert seen == {"running", "finished"}


def numbers_of(out: Path) -> tuple[list, list, str]:
    """What the three files say of a scheme ``w`` and the density."""
    density, schemes = read_density(out), pq.read_table(out / "schemes.parquet")
    document = (out / "uniformity.json").read_text()
    return density.numbers("log_density").tolist(), schemes.column("weight w").to_pylist(), document


def test_defaults_on_few_samples(tmp_path) -> None:
    x = reference.random_sphere(5, 4)
    table = write_embedding_table(tmp_path / "emb", pa.array(list("abcde")), x)
    document = uniformity(table.path, tmp_path / "out").document
    assert document["search"]["k"] == 4
    assert document["bandwidth_rule"]["rule"] == "auto"
    assert document["schemes"][0]["effective_identities"] is None
    assert document["schemes"][0]["hardness"] is None


def test_single_sample_has_no_uniformity_but_a_reason(tmp_path) -> None:
    table = write_embedding_table(tmp_path / "emb", pa.array(["only"]), np.float32([[0.6, 0.8]]))
    result = uniformity(table.path, tmp_path / "out")
    entry = result.document["schemes"][0]["bandwidths"][0]
    assert (entry["uniformity"], entry["excess"], entry["rectification"], entry["pairs"]) == (
        None,
        None,
        None,
        0,
    )
    assert entry["effective_distinct"] == pytest.approx(1)
    assert "one sample" in entry["reason"]
    assert result.document["search"] == {"kind": "exact", "k": 0, "recall": None}
    assert pq.read_table(result.density_path).column("knn_distance").null_count == 1
    assert "n/a" in summary_table(result.document)
    with pytest.raises(KdbiasError, match="single sample"):
        uniformity(table.path, tmp_path / "other", keep_neighbors=True)


def test_point_mass_has_no_uniformity(table, tmp_path) -> None:
    mass = np.zeros(N)
    mass[3] = 1
    manifest = write_weights(tmp_path / "one.parquet", table, mass)
    scheme = uniformity(table.path, tmp_path / "out", k=5, t=3, weights=[manifest]).document["schemes"][1]
    entry = scheme["bandwidths"][0]
    assert entry["uniformity"] is None
    assert entry["effective_distinct"] == pytest.approx(1)
    assert entry["rectification"] < 0  # worse than natural
    assert (scheme["ess"], scheme["zero_weights"]) == (pytest.approx(1), N - 1)


def test_a_sample_that_is_never_drawn_may_see_nothing_at_a_large_bandwidth(tmp_path) -> None:
    x = reference.clustered_sphere(30, 8, 1, seed=1)
    x = np.concatenate([x, -x.mean(axis=0, keepdims=True)])  # one alone at the other pole, of weight 0
    ids = pa.array([str(i) for i in range(31)])
    groups = {"half": pa.array(["a"] * 15 + ["b"] * 16)}
    table = write_embedding_table(tmp_path / "emb", ids, x, None, groups, dtype="float32")
    weights = write_weights(tmp_path / "w.parquet", table, np.append(np.ones(30), 0))
    result = uniformity(table.path, tmp_path / "out", t=400, weights=[weights], group_by=["half"])
    first, last = result.document["schemes"][1]["groups"]["half"]
    assert {first["value"]: first["log_density"], last["value"]: last["log_density"]}["b"] is None
    assert first["log_density_reason"] == "the potential of 1 sample is below the smallest float"
    assert last["log_density_reason"] is None
    stored = pq.read_table(tmp_path / "out" / "schemes.parquet").column("log_density w")
    assert stored.is_null().to_pylist() == [False] * 30 + [True]


def test_a_group_column_with_a_name_of_kdbias_s_own_is_refused(tmp_path) -> None:
    x = reference.random_sphere(6, 4)
    ids = pa.array(list("abcdef"))
    for name in ("weight", "knn_distance", "potential_t5", "log_density", "norm_flip"):
        with pytest.raises(KdbiasError, match=f"group column '{name}' bears the name"):
            write_embedding_table(tmp_path / name, ids, x, None, {name: pa.array(range(6))})
    table = write_embedding_table(tmp_path / "old", ids, x, None, {"mark": pa.array(range(6))})
    part = pq.read_table(table.parts[0])
    named = part.rename_columns(["weight" if name == "mark" else name for name in part.column_names])
    pq.write_table(named, table.parts[0])
    with pytest.raises(KdbiasError, match="'weight' bears the name of a column"):
        uniformity(table.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_duplicates(tmp_path) -> None:
    x = np.repeat(reference.random_sphere(1, 6), 9, axis=0)
    table = write_embedding_table(tmp_path / "emb", pa.array([str(i) for i in range(9)]), x)
    document = uniformity(table.path, tmp_path / "out").document
    entry = document["schemes"][0]["bandwidths"][0]
    assert entry["uniformity"] == pytest.approx(0, abs=1e-5)
    assert entry["effective_distinct"] == pytest.approx(1, abs=1e-5)
    assert entry["rectification"] is None
    assert document["duplicates"] == {"exact_duplicates": 8, "near_duplicates": 9}
    assert document["schemes"][0]["koleo_entropy"] is None


def test_orthonormal_basis_is_already_as_even_as_it_gets(tmp_path) -> None:
    table = write_embedding_table(
        tmp_path / "emb", pa.array([str(i) for i in range(6)]), np.eye(6, dtype=np.float32)
    )
    entry = uniformity(table.path, tmp_path / "out", t=5).document["schemes"][0]["bandwidths"][0]
    assert entry["uniformity"] == pytest.approx(-10, abs=1e-5)
    assert entry["rectification"] is None
    assert "no re-weighting" in entry["rectification_reason"]


@pytest.mark.parametrize(
    ("rectification", "said", "searched"),
    [
        ("auto", "at the chosen bandwidth", [4]),
        ("all", "at each bandwidth", [2, 4]),
        ("none", None, []),
    ],
)
def test_the_search_for_the_best_is_announced_with_the_pass(
    table, tmp_path, capsys, rectification: str, said: str | None, searched: list[float]
) -> None:
    result = uniformity(table.path, tmp_path / "out", t="4,2", device="cpu", rectification=rectification)
    first = capsys.readouterr().err.splitlines()[0]
    assert "about 1 s" in first
    assert ("--rectification none" in first) == (said is not None)
    assert said is None or said in first
    assert [best["t"] for best in result.document["best"] if best["energy"] is not None] == searched


def test_the_best_may_be_searched_later_and_nothing_else_is_computed_anew(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write_weights(tmp_path / "skewed.parquet", table, skewed())
    options = {"t": "4,2,50", "k": 5, "weights": [weights]}
    at_once = uniformity(table.path, tmp_path / "whole", rectification="all", **options).document
    out = tmp_path / "out"
    before = uniformity(table.path, out, rectification="none", **options).document
    assert {best["reason"] for best in before["best"]} == {best_of.NOT_SEARCHED}
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **k: pytest.fail("measured again"))
    assert uniformity(table.path, out, **options).state == "finished"  # auto asks a folder for nothing
    states = []
    for asked in ("chosen", "all", "chosen", "none", "all"):
        result = uniformity(table.path, out, rectification=asked, **options)
        known = [best["t"] for best in result.document["best"] if best["energy"] is not None]
        states.append((result.state, known))
    every = [2, 4, 50]
    assert states == [("extended", [4]), ("extended", every), *[("finished", every)] * 3]
    assert read_json(out / "uniformity.json") == result.document
    for mine, theirs, old in zip(
        result.document["schemes"], at_once["schemes"], before["schemes"], strict=True
    ):
        for entry, other, first in zip(*(s["bandwidths"] for s in (mine, theirs, old)), strict=True):
            assert entry["rectification"] == pytest.approx(other["rectification"], abs=0.02)
            assert entry["rectification_reason"] is None
            assert entry | {"rectification": None, "rectification_reason": first["rectification_reason"]} == (
                first
            )
    text = summary_table(result.document)
    reached = [f"{1 / best['energy']:,.1f} of {N} (t={best['t']:g})" for best in result.document["best"]]
    assert f"at best D = {', '.join(reached)}" in text
    assert "at best" not in summary_table(before)


def test_a_search_that_was_killed_leaves_what_was_and_is_made_again(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", {"t": "4,2", "k": 5}
    before = uniformity(table.path, out, **options).document
    seen = []

    def killed(*arguments, **keywords):
        seen.append(solve(*arguments, **keywords))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return seen[-1]

    monkeypatch.setattr(best_of, "solve", killed)
    with pytest.raises(KeyboardInterrupt):
        uniformity(table.path, out, rectification="all", **options)
    assert read_json(out / "uniformity.json") == before
    result = uniformity(table.path, out, rectification="all", **options)
    assert result.state == "extended"
    assert result.document["best"][0]["energy"] == pytest.approx(seen[0].energy)
    assert result.document["best"][1] == before["best"][1]


def test_a_killed_measurement_goes_on_with_another_search(
    table, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments, **keywords):
        raise KeyboardInterrupt

    out, options = tmp_path / "out", {"t": "4,2", "k": 5}
    with monkeypatch.context() as patch:
        patch.setattr(best_of, "solve", killed)
        with pytest.raises(KeyboardInterrupt):
            uniformity(table.path, out, **options)
    result = uniformity(table.path, out, rectification="none", **options)
    assert (result.state, [best["energy"] for best in result.document["best"]]) == ("new", [None, None])


def test_the_certificate_of_the_best_is_below_one_percent_of_the_gain(tmp_path) -> None:
    x = reference.clustered_sphere(700, 24, 30, seed=2)
    table = write_embedding_table(tmp_path / "emb", pa.array([str(i) for i in range(700)]), x)
    document = uniformity(table.path, tmp_path / "out", t="1,2,4,8", rectification="all").document
    for best in document["best"]:
        exact = solve(table.vectors(), best["t"], tolerance=1e-5)
        gain = best["natural_energy"] - best["energy"]
        assert 0 <= best["gap"] < 0.01 * gain
        assert exact.energy - exact.gap <= best["energy"] <= exact.energy + best["gap"] + 1e-9


def test_progress_of_a_search_goes_from_nothing_to_all(table, tmp_path) -> None:
    moved = []

    class Bar:
        def update(self, share: float) -> None:
            moved.append(share)

    solve(table.vectors(), 2.0, tolerance=9e-3, progress=GapShare(Bar(), 9e-3))
    assert min(moved) >= 0
    assert sum(moved) == pytest.approx(100)


def test_rectification_needs_room_for_the_kernel(tmp_path) -> None:
    x = reference.random_sphere(600, 4)
    table = write_embedding_table(tmp_path / "emb", pa.array([str(i) for i in range(600)]), x)
    options = {"t": 2, "memory": "600KB", "threads": 1, "device": "cpu"}
    result = uniformity(table.path, tmp_path / "out", k=3, **options)
    entry = result.document["schemes"][0]["bandwidths"][0]
    assert entry["rectification"] is None
    assert "--memory" in entry["rectification_reason"]
    assert entry["uniformity"] == pytest.approx(reference.uniformity(x, 2), abs=1e-4)
    with pytest.raises(KdbiasError, match="smaller --k"):
        uniformity(table.path, tmp_path / "less", k=500, **options)


@pytest.mark.parametrize("k", [0, N, N + 5])
def test_k_outside_the_data_is_refused(table, tmp_path, k: int) -> None:
    with pytest.raises(KdbiasError, match=f"k (is )?{k}"):
        uniformity(table.path, tmp_path / "out", k=k)
    assert not (tmp_path / "out").exists()


def test_bad_options_are_refused_before_anything_is_written(table, tmp_path) -> None:
    out = tmp_path / "out"
    bad = [
        {"t": "two"},
        {"search": "best"},
        {"group_by": ["height"]},
        {"memory": "much"},
        {"rectification": "?"},
        {"threads": 0},
        {"device": "tpu"},
    ]
    for options in bad:
        with pytest.raises(KdbiasError):
            uniformity(table.path, out, **options)
        assert not out.exists()


def test_weights_that_do_not_fit_are_refused(table, tmp_path) -> None:
    out = tmp_path / "out"
    some = write_weights(tmp_path / "some.parquet", table, skewed(), np.arange(100))
    with pytest.raises(KdbiasError, match="60 of the 160"):
        uniformity(table.path, out, weights=[some])
    more = tmp_path / "more.parquet"
    ids = pa.array([*table.ids().to_pylist(), "stranger"])
    write_manifest(more, ids, None, {}, np.zeros(N + 1), np.ones(N + 1), {})
    with pytest.raises(KdbiasError, match="161"):
        uniformity(table.path, out, weights=[more])
    (tmp_path / "sub").mkdir()
    one = write_weights(tmp_path / "w.parquet", table, skewed())
    two = write_weights(tmp_path / "sub" / "w.parquet", table, skewed() + 1)
    with pytest.raises(KdbiasError, match="'w'"):
        uniformity(table.path, out, weights=[one, two])
    assert not out.exists()


def test_float16_storage_stays_close(tmp_path) -> None:
    x = reference.clustered_sphere(200, 32, 8)
    ids = pa.array([str(i) for i in range(200)])
    table = write_embedding_table(tmp_path / "emb", ids, x, dtype="float16")
    entry = uniformity(table.path, tmp_path / "out", t=2, rectification="none").document["schemes"][0]
    assert entry["bandwidths"][0]["uniformity"] == pytest.approx(reference.uniformity(x, 2), abs=1e-3)


def test_summary_has_a_row_for_each_scheme_and_bandwidth(measured) -> None:
    text = summary_table(measured.document, verbose=True)
    lines = text.splitlines()
    for name in ("natural", "skewed"):
        assert sum(line.split()[:2] in [[name, t] for t in ("2", "4", "50")] for line in lines) == 3
    assert "camera" in text
    header = next(line for line in lines if line.startswith("scheme"))
    rows = lines[lines.index(header) + 1 : lines.index(header) + 7]
    assert {len(line) for line in rows} == {len(header)}
    assert "U leaves out pairs of a sample with itself, D and rectified count them" in text


def test_by_default_a_summary_has_the_chosen_bandwidth_alone(measured) -> None:
    text = summary_table(measured.document)
    chosen = f"{measured.document['t_chosen']:g}"
    rows = [line.split()[:2] for line in text.splitlines() if line.startswith(("natural ", "skewed "))]
    assert [row for row in rows if row[1] in ("2", "4", "50")] == [["natural", chosen], ["skewed", chosen]]
    assert "2 other bandwidths in uniformity.json, and here with --verbose" in text
    for word in ("U: ", "D: ", "ESS/n: ", "t: "):
        assert sum(line.startswith(word) for line in text.splitlines()) == 1


def test_groups_that_are_none_have_no_table(measured) -> None:
    document = copy.deepcopy(measured.document)
    for scheme in document["schemes"]:
        row = scheme["groups"]["camera"][0]
        scheme["groups"]["one"] = [{**row, "value": "x", "count": document["n"]}]
        scheme["groups"]["each"] = [{**row, "value": f"s{i}", "count": 1} for i in range(document["n"])]
    text = summary_table(document)
    assert (
        "left out, as no groups: one (one value for all samples); each (another value for each sample)"
        in text
    )
    assert not [line for line in text.splitlines() if line.startswith(("one ", "each ", "s0 "))]
    assert "\ncamera " in text


def test_summary_cuts_many_groups_and_says_where_the_rest_is(measured) -> None:
    document = copy.deepcopy(measured.document)
    for scheme in document["schemes"]:
        row = scheme["groups"]["camera"][0]
        scheme["groups"]["camera"] = [{**row, "value": f"c{i}"} for i in range(4000)]
    text = summary_table(document)
    assert "... and 3,988 more: uniformity.json has them all" in text
    assert len(text.splitlines()) < 70


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "n/a"), (0.625, "62.5 %"), (-9.99, "-999.0 %"), (-216.981, "< -999 %")],
)
def test_a_rectification_far_below_natural_sampling_stays_short(share, text) -> None:
    assert write("rectification", share) == text
