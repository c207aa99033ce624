"""uniformity(towards=): every number against float64 sums over all pairs, and targets that come later."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.inspection.describe import inspect
from kdbias.measurement import passes
from kdbias.measurement.comparison import interval
from kdbias.measurement.files import read_uniformity
from kdbias.measurement.references import References
from kdbias.measurement.shares import moved
from kdbias.measurement.stage import uniformity
from kdbias.measurement.summary import summary_table
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.weight_manifest import write_manifest
from kdbias.targets.opening import OpenTarget
from kdbias.targets.settings import Named
from tests import reference
from tests.endings import ending_after

D = 8
CENTRES = reference.random_sphere(4, D, 99)
OPTIONS = {"k": 5, "t": "3", "rectification": "none", "device": "cpu"}
KEYS = {"value", "unbiased", "interval", "noise_ratio", "removed", "p_value", "reason", "rectification"}


def clusters(member: np.ndarray, seed: int, spread: float = 0.5) -> np.ndarray:
    """Float32 unit rows around the centre of each member."""
    noise = np.random.default_rng(seed).standard_normal((len(member), D))
    return reference.unit_rows(CENTRES[member] + spread * reference.unit_rows(noise)).astype(np.float32)


def made(folder: Path, counts, seed=0, name="x", cameras=None, dtype="float32", **more) -> EmbeddingTable:
    """A table with so many samples of each of four clusters, which its column ``kind`` names."""
    member = np.repeat(np.arange(4), counts)
    n = len(member)
    groups = {"kind": pa.array([f"k{i}" for i in member])}
    if cameras is not None:
        drawn = np.random.default_rng(seed + 1).random(n) < cameras
        groups["camera"] = pa.array(np.where(drawn, "left", "right"))
    ids = [f"{name}{i}" for i in range(n)]
    return write_embedding_table(folder, ids, clusters(member, seed), None, groups, dtype=dtype, **more)


def kernel(x: np.ndarray, y: np.ndarray, a=None, b=None) -> np.ndarray:
    """(n, m) float64 mean kernel, halved where the values of a column differ."""
    cosines = np.clip(reference.unit_rows(x) @ reference.unit_rows(y).T, -1, 1)
    found = np.mean([np.exp(-2 * t * (1 - cosines)) for t in LADDER], axis=0)
    return found if a is None else found * np.where(a[:, None] == b[None, :], 1, 0.5)


def squared(p, kxx, kxy, kyy, q=None) -> float:
    """MMD^2 of p from q by the double sums."""
    q = np.full(kxy.shape[1], 1 / kxy.shape[1]) if q is None else q
    return float(p @ kxx @ p - 2 * p @ kxy @ q + q @ kyy @ q)


def unbiased(p, kxx, kxy, kyy) -> float:
    """The same over pairs of different samples on either side."""
    m = len(kyy)
    own = sum(p[i] * p[j] * kxx[i, j] for i in range(len(p)) for j in range(len(p)) if i != j)
    other = (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return own / (1 - p @ p) - 2 * float((p @ kxy).mean()) + other


def assert_close(found, expected) -> None:
    """The same documents but for rounding; files may lie elsewhere."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"gap"}:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert found == expected


def write_weights(path: Path, table: EmbeddingTable, w: np.ndarray) -> Path:
    write_manifest(path, table.ids(), None, {}, np.zeros(table.n), w, {"stage": "weights"})
    return path


def world_of(folder: Path, dtype: str):
    """Data with a long tail, a reference of even clusters, a manifest that evens them out, its p."""
    data = made(folder / "data", (120, 40, 15, 5), 1, cameras=0.9, dtype=dtype)
    ref = made(folder / "ref", (30, 30, 30, 30), 2, "y", cameras=0.5, dtype=dtype)
    even = np.repeat(1 / np.array([120, 40, 15, 5]), (120, 40, 15, 5))
    return data, ref, write_weights(folder / "even.parquet", data, even), even / even.sum()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return world_of(tmp_path_factory.mktemp("world"), "float32")


@pytest.fixture(scope="module", params=["float32", "float16"])
def stored(request, tmp_path_factory):
    return world_of(tmp_path_factory.mktemp(request.param), request.param)


def test_every_number_against_float64(stored, tmp_path):
    data, ref, manifest, p = stored
    result = uniformity(
        data.path, tmp_path / "out", weights=[manifest], towards=ref.path, group_by=["kind"], **OPTIONS
    )
    x, y = data.vectors(), ref.vectors()
    kxx, kxy, kyy = kernel(x, x), kernel(x, y), kernel(y, y)
    document = read_uniformity(result.out)
    assert document == result.document
    target, m = document["target"], 120
    noise = (1 - (kyy.sum() - m) / (m * (m - 1))) / m
    assert (target["kind"], target["size"], target["with"]) == ("reference", m, None)
    assert target["effective_size"] == pytest.approx(m)
    assert target["towards"] == str(ref.path)
    assert target["fingerprints"] == {"towards": ref.fingerprint}
    assert target["kernel"] == list(LADDER)
    assert target["constant"] == pytest.approx(kyy.mean(), rel=1e-5)
    assert target["noise"] == pytest.approx(noise, rel=1e-5)
    assert target["differs"] is True
    assert target["test"]["p_value"] == document["schemes"][0]["discrepancy"]["p_value"] == 0.001
    natural = np.full(180, 1 / 180)
    before = squared(natural, kxx, kxy, kyy)
    found_table = pq.read_table(result.out / "schemes.parquet")
    for scheme, q in zip(document["schemes"], (natural, p), strict=True):
        found = scheme["discrepancy"]
        assert found.keys() >= KEYS
        assert found["value"] == pytest.approx(squared(q, kxx, kxy, kyy), rel=1e-3, abs=1e-6)
        assert found["unbiased"] == pytest.approx(unbiased(q, kxx, kxy, kyy), rel=1e-3, abs=1e-6)
        assert found["noise_ratio"] == pytest.approx(found["value"] / noise, rel=1e-4)
        assert found["removed"] == pytest.approx(1 - found["value"] / before, abs=1e-4)
        assert found["interval"][0] < found["unbiased"] < found["interval"][1]
        assert found["standard_error"] is None
        witness = kxx @ q - kxy.mean(axis=1)
        assert found_table.column(f"witness {scheme['name']}").to_numpy() == pytest.approx(witness, abs=1e-5)
        kinds = np.repeat(np.arange(4), (120, 40, 15, 5))
        for row in scheme["groups"]["kind"]:
            assert row["witness"] == pytest.approx(witness[kinds == int(row["value"][1])].mean(), abs=1e-5)
    even = document["schemes"][1]["discrepancy"]
    assert even["removed"] > 0.8
    assert even["removed_interval"][0] < even["removed"] < even["removed_interval"][1] <= 1
    assert even["rectification"] is None
    assert "not searched" in even["rectification_reason"]
    assert target["needed"] == int(
        np.ceil(noise * m / (0.1 * document["schemes"][0]["discrepancy"]["unbiased"]))
    )
    density = read_density(result.out)
    assert density.numbers("witness") == pytest.approx(kxx @ natural - kxy.mean(axis=1), abs=1e-5)
    assert density.group_columns == ["kind", "camera"]
    # The bandwidths are those of a measurement without a target.
    plain = uniformity(data.path, tmp_path / "plain", weights=[manifest], **OPTIONS).document
    for scheme, other in zip(document["schemes"], plain["schemes"], strict=True):
        assert_close(scheme["bandwidths"], other["bandwidths"])
        assert other["discrepancy"] is None
    assert plain["target"] is None
    assert "witness" not in read_density(tmp_path / "plain").table.column_names


def test_shares_short_groups_and_blind_columns(world, tmp_path):
    data, ref, *_ = world
    target = uniformity(data.path, tmp_path / "out", towards=ref.path, **OPTIONS).document["target"]
    rows = {row["value"]: row for row in target["columns"]["kind"]}
    assert [rows[f"k{i}"]["share"] for i in range(4)] == pytest.approx(
        [120 / 180, 40 / 180, 15 / 180, 5 / 180]
    )
    assert [rows[f"k{i}"]["share_reference"] for i in range(4)] == [0.25] * 4
    assert [rows[f"k{i}"]["balance"] for i in range(4)] == ["over-full", None, "short", "short"]
    assert {row["value"]: row["balance"] for row in target["columns"]["camera"]} == {
        "left": "over-full",
        "right": "short",
    }
    assert target["blind"] == ["camera"]  # drawn apart from the vectors; the kinds are the clusters


def test_with_a_column_the_kernel_is_the_product(stored, tmp_path):
    data, ref, manifest, p = stored
    out = tmp_path / "out"
    result = uniformity(data.path, out, weights=[manifest], towards=ref.path, with_column="camera", **OPTIONS)
    x, y = data.vectors(), ref.vectors()
    a, b = (np.array(table.column("camera").to_pylist()) for table in (data, ref))
    kxx, kxy, kyy = kernel(x, x, a, a), kernel(x, y, a, b), kernel(y, y, b, b)
    for scheme, q in zip(result.document["schemes"], (np.full(180, 1 / 180), p), strict=True):
        assert scheme["discrepancy"]["value"] == pytest.approx(squared(q, kxx, kxy, kyy), rel=1e-3, abs=1e-6)
    assert result.document["target"]["with"] == "camera"
    assert "camera" not in result.document["target"]["blind"]
    # A scheme that comes later is measured by the same kernel, unasked.
    later = write_weights(tmp_path / "later.parquet", data, p**0.5)
    more = uniformity(data.path, out, weights=[later], **OPTIONS).document["schemes"][2]["discrepancy"]
    assert more["value"] == pytest.approx(
        squared(reference.probabilities(p**0.5), kxx, kxy, kyy), rel=1e-3, abs=1e-6
    )


def test_balanced_and_the_sphere(world, tmp_path):
    data, _, manifest, p = world
    x = data.vectors()
    kxx, natural = kernel(x, x), np.full(180, 1 / 180)
    out = tmp_path / "out"
    document = uniformity(data.path, out, weights=[manifest], towards="balanced:kind", **OPTIONS).document
    before, after = (scheme["discrepancy"] for scheme in document["schemes"])
    assert before["value"] == pytest.approx((natural - p) @ kxx @ (natural - p), abs=1e-6)
    assert after["value"] == pytest.approx(0, abs=1e-6)
    assert after["removed"] == pytest.approx(1, abs=1e-4)
    assert (before["p_value"], before["interval"]) == (None, None)
    assert "needs a reference" in before["reason"]
    target = document["target"]
    assert (target["kind"], target["size"], target["test"], target["differs"]) == (
        "balanced:kind",
        None,
        None,
        True,
    )
    assert [row["share_reference"] for row in target["columns"]["kind"]] == pytest.approx([0.25] * 4)
    assert [row["balance"] for row in target["columns"]["kind"]] == ["over-full", "short", "short", "short"]
    with_camera = uniformity(data.path, out, towards="balanced:camera", with_column="camera", **OPTIONS)
    cameras = np.array(data.column("camera").to_pylist())
    each = 1 / np.array([(cameras == c).sum() for c in cameras])
    off = natural - each / each.sum()
    assert with_camera.document["schemes"][0]["discrepancy"]["value"] == pytest.approx(
        off @ kernel(x, x, cameras, cameras) @ off, abs=1e-6
    )
    sphere = uniformity(data.path, out, towards="sphere", **OPTIONS).document
    null = np.mean([np.exp(reference.log_null(D, t)) for t in LADDER])
    for scheme, q in zip(sphere["schemes"], (natural, p), strict=True):
        assert scheme["discrepancy"]["value"] == pytest.approx(q @ kxx @ q - null, abs=1e-5)
    assert (sphere["target"]["noise"], sphere["target"]["columns"]) == (0, {})
    assert sphere["schemes"][0]["discrepancy"]["noise_ratio"] is None


def test_rectification_runs_to_the_nearest_reweighting(stored, tmp_path):
    data, ref, manifest, p = stored
    options = {**OPTIONS, "rectification": "all", "weights": [manifest]}
    x, y = data.vectors(), ref.vectors()
    for column in (None, "camera"):
        document = uniformity(
            data.path, tmp_path / str(column), towards=ref.path, with_column=column, **options
        ).document
        best = document["target"]["best"]
        a, b = ((np.array(t.column(column).to_pylist()) if column else None) for t in (data, ref))
        kxx, kxy, kyy = kernel(x, x, a, a), kernel(x, y, a, b), kernel(y, y, b, b)
        natural = squared(np.full(180, 1 / 180), kxx, kxy, kyy)
        assert best["natural_energy"] == pytest.approx(natural, rel=1e-3)
        q = np.full(
            180, 1 / 180
        )  # no distribution that a crude search finds is nearer than the certificate says
        for _ in range(300):
            q = reference.probabilities(q * np.exp(-20 * (kxx @ q - kxy.mean(axis=1))))
        assert squared(q, kxx, kxy, kyy) >= best["energy"] - best["gap"] - 1e-6
        value = squared(p, kxx, kxy, kyy)
        assert document["schemes"][0]["discrepancy"]["rectification"] == 0
        assert document["schemes"][1]["discrepancy"]["rectification"] == pytest.approx(
            (natural - value) / (natural - best["energy"]), abs=1e-3
        )


def test_an_estimated_pass_says_how_far_it_is_off(tmp_path):
    counts = (2400, 800, 320, 80)
    drawn = reference.clustered_sphere(3600, 8, 12, 0.4, 3)
    ids, kinds = [f"x{i}" for i in range(3600)], [f"k{i}" for i in np.repeat(np.arange(4), counts)]
    data = write_embedding_table(tmp_path / "data", ids, drawn, groups={"kind": kinds}, dtype="float32")
    ref = made(tmp_path / "ref", (50, 50, 50, 50), 4, "y")
    even = np.repeat(1 / np.array(counts), counts)
    manifest = write_weights(tmp_path / "even.parquet", data, even)
    options = {**OPTIONS, "k": 8, "t": "4", "search": "ivf", "weights": [manifest]}
    x, y = data.vectors(), ref.vectors()
    kxx, kxy, kyy = kernel(x, x), kernel(x, y), kernel(y, y)
    natural = np.full(3600, 1 / 3600)
    uniformity(data.path, tmp_path / "later", **options)
    later = uniformity(data.path, tmp_path / "later", towards=ref.path, **options)
    assert later.state == "extended"
    assert [len(row) for row in later.document["search"]["rms_relative_error"]] == [1, 1]
    for scheme, q in zip(later.document["schemes"], (natural, reference.probabilities(even)), strict=True):
        found = scheme["discrepancy"]
        assert found["standard_error"] > 0
        exact = squared(q, kxx, kxy, kyy)
        assert abs(found["value"] - exact) < 5 * found["standard_error"] + 1e-5
    balanced = uniformity(data.path, tmp_path / "later", towards="balanced:kind", **options).document
    off = natural - reference.probabilities(even)
    assert balanced["schemes"][0]["discrepancy"]["value"] == pytest.approx(off @ kxx @ off, rel=0.05)
    assert abs(balanced["schemes"][1]["discrepancy"]["value"]) < 1e-6


def test_the_interval_covers_the_discrepancy_from_what_the_reference_was_drawn_from():
    x = clusters(np.repeat(np.arange(4), (100, 60, 30, 10)), 5)
    law = clusters(np.repeat(np.arange(4), 400), 6)
    natural = np.full(200, 1 / 200)
    kxx, kyy = kernel(x, x), kernel(law, law)
    truth = unbiased(natural, kxx, kernel(x, law), kyy)
    covered = 0
    for seed in range(60):
        member = np.random.default_rng(seed + 50).integers(0, 4, 80)
        y = clusters(member, seed + 100)
        off = References(OpenTarget(Named("reference"), vectors=y), seed).seen_from(x, natural[None], 1)[0]
        low, high = interval(unbiased(natural, kxx, kernel(x, y), kernel(y, y)), off)
        covered += low <= truth <= high
    assert covered >= 54  # 57 of 60 are expected


def test_samples_of_no_weight_are_never_drawn_alone():
    x, y = clusters(np.arange(40) % 4, 1), clusters(np.arange(30) % 4, 2)
    masses = np.r_[np.full(4, 0.25), np.zeros(26)]
    natural = np.full((1, 40), 1 / 40)
    off = [
        References(OpenTarget(Named("reference"), vectors=of, masses=q), 0).seen_from(x, natural, 1)
        for of, q in ((y, masses), (y[:4], None))
    ]
    np.testing.assert_array_equal(*off)
    assert np.isfinite(off[0]).all()


def test_data_of_the_same_law_do_not_differ(tmp_path):
    data = made(tmp_path / "data", (100, 60, 30, 10), 7)
    ref = made(tmp_path / "ref", (50, 30, 15, 5), 8, "y")
    manifest = write_weights(tmp_path / "w.parquet", data, np.arange(200) + 1.0)
    document = uniformity(
        data.path, tmp_path / "out", towards=ref.path, weights=[manifest], **OPTIONS
    ).document
    target = document["target"]
    assert (target["differs"], target["needed"], target["blind"]) == (False, None, [])
    assert target["test"]["p_value"] > 0.05
    for scheme in document["schemes"]:
        assert scheme["discrepancy"]["removed"] is None
        assert "do not differ measurably" in scheme["discrepancy"]["reason"]
    assert all(row["balance"] is None for row in target["columns"]["kind"])


def test_a_class_that_the_data_lack_is_found_and_named(tmp_path):
    data = made(tmp_path / "data", (100, 60, 40, 0), 9)
    ref = made(tmp_path / "ref", (40, 30, 20, 20), 10, "y")
    target = uniformity(data.path, tmp_path / "out", towards=ref.path, **OPTIONS).document["target"]
    assert target["differs"]
    last = target["columns"]["kind"][-1]
    assert (last["value"], last["share"], last["balance"]) == ("k3", 0, "short")


def test_what_reweighting_a_column_moves(tmp_path):
    x = clusters(np.repeat(np.arange(4), (50, 30, 15, 5)), 11)
    codes, shares = np.repeat(np.arange(4), (50, 30, 15, 5)), np.array([0.1, 0.2, 0.3, 0.4])
    k = kernel(x, x)
    off = shares - np.array([0.5, 0.3, 0.15, 0.05])
    means = np.array([[k[codes == a][:, codes == b].mean() for b in range(4)] for a in range(4)])
    for a, size in enumerate((50, 30, 15, 5)):
        means[a, a] = (means[a, a] * size - 1) / (size - 1)
    assert moved(x, codes, shares) == pytest.approx(off @ means @ off, rel=1e-4)


def test_a_finished_folder_gets_a_target_by_one_pass_over_the_ladder(world, tmp_path, monkeypatch):
    data, ref, manifest, _ = world
    options = {**OPTIONS, "weights": [manifest], "group_by": ["kind"]}
    at_once = uniformity(data.path, tmp_path / "once", towards=ref.path, **options)
    out = tmp_path / "steps"
    uniformity(data.path, out, **options)
    before = read_density(out)
    seen = []
    real = passes.all_pairs
    monkeypatch.setattr(
        passes, "all_pairs", lambda x, t, p, **k: seen.append((list(t), len(p), k["k"])) or real(x, t, p, **k)
    )
    stepwise = uniformity(data.path, out, towards=ref.path, **options)
    assert seen == [(list(LADDER), 2, 0)]
    assert stepwise.state == "extended"
    assert_close(stepwise.document, at_once.document)
    after = read_density(out)
    assert after.fingerprint == before.fingerprint  # what was made from the densities stays theirs
    assert after.numbers("witness") == pytest.approx(read_density(at_once.out).numbers("witness"))
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **k: pytest.fail("measured again"))
    assert uniformity(data.path, out, towards=ref.path, **options).state == "finished"
    assert uniformity(data.path, out, **options).state == "finished"
    restated = uniformity(data.path, out, estimator="knn", exponent=2, **options)
    assert restated.state == "restated"
    assert read_density(out).numbers("witness") == pytest.approx(after.numbers("witness"))


def test_another_target_takes_its_place_and_is_said(world, tmp_path, capsys):
    data, ref, manifest, _ = world
    out = tmp_path / "out"
    uniformity(data.path, out, towards=ref.path, weights=[manifest], group_by=["kind"], **OPTIONS)
    capsys.readouterr()
    replaced = uniformity(data.path, out, towards="balanced:kind", **OPTIONS)
    assert f"was measured against {ref.path}; all its schemes are now measured against balanced:kind" in (
        capsys.readouterr().err
    )
    whole = uniformity(
        data.path,
        tmp_path / "whole",
        towards="balanced:kind",
        weights=[manifest],
        group_by=["kind"],
        **OPTIONS,
    )
    assert_close(replaced.document, whole.document)
    with_camera = uniformity(data.path, out, towards=ref.path, with_column="camera", **OPTIONS)
    assert with_camera.document["target"]["with"] == "camera"


def test_later_schemes_are_measured_against_the_folder_s_target(world, tmp_path, monkeypatch):
    data, ref, manifest, _ = world
    moved_away = tmp_path / "reference"
    shutil.copytree(ref.path, moved_away)
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    uniformity(data.path, out, towards="reference", **OPTIONS)
    monkeypatch.chdir("/")
    more = uniformity(data.path, out, weights=[manifest], **OPTIONS).document
    whole = uniformity(data.path, tmp_path / "w", weights=[manifest], towards=moved_away, **OPTIONS).document
    assert_close(more["schemes"], whole["schemes"])
    assert more["target"]["towards"] == "reference"
    assert_close(more["target"], whole["target"] | {key: more["target"][key] for key in ("towards", "notes")})
    other = write_weights(tmp_path / "other.parquet", data, np.arange(180) + 1.0)
    before = read_json(out / "uniformity.json")
    moved_away.rename(tmp_path / "gone")
    with pytest.raises(
        KdbiasError, match=r"measured against .*/reference, but .*; name a target with --towards"
    ):
        uniformity(data.path, out, weights=[other], **OPTIONS)
    made(moved_away, (10, 10, 10, 10), 5, "z", cameras=0.5)
    with pytest.raises(KdbiasError, match="has changed since; name a target"):
        uniformity(data.path, out, weights=[other], **OPTIONS)
    assert read_json(out / "uniformity.json") == before
    named = uniformity(data.path, out, weights=[other], towards=tmp_path / "gone", **OPTIONS).document
    assert [s["name"] for s in named["schemes"]] == ["natural", "even", "other"]
    assert named["schemes"][:2] == more["schemes"]


def test_a_target_and_a_scheme_at_once(world, tmp_path):
    data, ref, manifest, _ = world
    uniformity(data.path, tmp_path / "out", **OPTIONS)
    both = uniformity(data.path, tmp_path / "out", towards=ref.path, weights=[manifest], **OPTIONS).document
    whole = uniformity(data.path, tmp_path / "w", towards=ref.path, weights=[manifest], **OPTIONS).document
    assert_close(both["schemes"], whole["schemes"])
    assert_close(both["target"], whole["target"])


def test_folders_made_before_there_were_targets(world, tmp_path):
    data, ref, manifest, _ = world
    out = tmp_path / "out"
    uniformity(data.path, out, group_by=["kind"], **OPTIONS)
    old = read_json(out / "uniformity.json")
    del old["target"]
    for scheme in old["schemes"]:
        del scheme["discrepancy"]
        for row in scheme["groups"]["kind"]:
            del row["witness"]
    write_json(out / "uniformity.json", old)
    assert "natural" in summary_table(read_uniformity(out))
    found = uniformity(data.path, out, weights=[manifest], towards=ref.path, **OPTIONS).document
    assert found["schemes"][0]["groups"]["kind"][0]["witness"] is not None
    assert found["target"]["differs"]


def test_the_pass_stays_within_its_memory(world, tmp_path, capsys):
    data, ref, *_ = world
    options = {**OPTIONS, "threads": 1, "k": 2}
    for column in (None, "camera"):
        with pytest.raises(KdbiasError, match="more than --memory"):
            uniformity(
                data.path, tmp_path / "o", towards=ref.path, with_column=column, memory="120KB", **options
            )
        assert not (tmp_path / "o").exists()


def test_a_point_mass_has_no_test_but_a_reason(world, tmp_path):
    data, ref, *_ = world
    one = write_weights(tmp_path / "one.parquet", data, np.eye(180)[3])
    found = uniformity(data.path, tmp_path / "out", towards=ref.path, weights=[one], **OPTIONS).document
    entry = found["schemes"][1]["discrepancy"]
    assert (entry["unbiased"], entry["interval"], entry["p_value"]) == (None, None, None)
    assert "two samples" in entry["reason"]
    assert entry["removed"] < 0


def test_a_killed_retarget_leaves_the_old_numbers_or_the_new(world, tmp_path, monkeypatch):
    data, ref, manifest, _ = world
    options = {**OPTIONS, "weights": [manifest]}
    uniformity(data.path, tmp_path / "old", towards=ref.path, **options)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    more = {**options, "towards": "balanced:kind"}
    uniformity(data.path, tmp_path / "new", **more)

    def numbers(out: Path) -> tuple[list, str]:
        return read_density(out).numbers("witness").tolist(), (out / "uniformity.json").read_text()

    old, new = numbers(tmp_path / "old"), numbers(tmp_path / "new")
    assert old != new
    for last in range(20):
        out = tmp_path / f"killed at {last}"
        shutil.copytree(tmp_path / "old", out)
        with ending_after(last, monkeypatch):
            try:
                uniformity(data.path, out, **more)
            except KeyboardInterrupt:
                status = json.loads((out / "run.json").read_text())["status"]
            else:
                break
        uniformity(data.path, out, **options)
        assert numbers(out) == (old if status == "finished" else new)
        uniformity(data.path, out, **more)
        assert numbers(out) == new
    assert last > 4


def summary_of(document) -> list[str]:
    return summary_table(document).splitlines()


def test_the_summary_says_first_whether_the_data_differ(world, tmp_path):
    data, ref, manifest, _ = world
    options = {**OPTIONS, "weights": [manifest]}
    document = uniformity(
        data.path, tmp_path / "out", towards=ref.path, group_by=["kind"], **options
    ).document
    lines = summary_of(document)
    natural = document["schemes"][0]["discrepancy"]
    assert lines[2] == (
        f"your data differ from the reference {ref.path} (p = 0.001, 120 samples): squared discrepancy "
        f"{natural['value']:.4g}, {natural['noise_ratio']:.1f} x the noise of such a reference"
    )
    needed = document["target"]["needed"]
    assert needed <= 120
    assert (
        lines[3] == f"the reference is large enough: from {needed} on its noise is a tenth of the difference"
    )
    header = lines.index(next(line for line in lines if line.startswith("scheme ")))
    assert " ".join(lines[header].split()) == "scheme MMD² / noise removed of the best p ESS/n"
    low, high = document["schemes"][1]["discrepancy"]["removed_interval"]
    assert f"({100 * low:.1f} % to {100 * high:.1f} %)" in lines[header + 2]
    assert ["k3", "2.8", "%", "25.0", "%", "short"] in [line.split() for line in lines]
    assert any(line.startswith("blind spot: the shares of camera differ") for line in lines)
    assert any(line.startswith("note: the reference") for line in lines)
    groups = next(line for line in lines if line.startswith("kind  samples"))
    assert groups.split().count("witness") == 2
    assert inspect(tmp_path / "out")["summary"].endswith(lines[2])


def test_the_summary_of_data_that_do_not_differ(tmp_path):
    data = made(tmp_path / "data", (100, 60, 30, 10), 7)
    ref = made(tmp_path / "ref", (25, 15, 8, 2), 8, "y")
    document = uniformity(data.path, tmp_path / "out", towards=ref.path, **OPTIONS).document
    lines, test = summary_of(document), document["target"]["test"]
    assert lines[2] == (
        f"your data do not differ measurably from the reference {ref.path} (p = {test['p_value']:.3f}, "
        "50 samples): natural sampling is the answer"
    )
    assert lines[3].startswith("50 samples would show a squared discrepancy of ")
    assert "no share is off by more than sampling explains: kind" in lines
    assert any("a reference of 50 samples is small" in line for line in lines)
    balanced = uniformity(data.path, tmp_path / "out", towards="balanced:kind", **OPTIONS).document
    assert summary_of(balanced)[2].startswith("your data differ from balanced:kind: squared discrepancy ")
    assert "of the 100 samples that such shares are worth" in summary_of(balanced)[2]
    sphere = uniformity(data.path, tmp_path / "out", towards="sphere", **OPTIONS).document
    value = sphere["schemes"][0]["discrepancy"]["value"]
    assert (
        summary_of(sphere)[2] == f"your data differ from the uniform sphere: squared discrepancy {value:.4g}"
    )


def test_too_few_data_to_tell_apart_and_data_without_any_spread(world, tmp_path):
    _, ref, *_ = world
    one = write_embedding_table(tmp_path / "one", ["a"], ref.vectors()[:1], dtype="float32")
    document = uniformity(one.path, tmp_path / "o1", towards=ref.path, device="cpu").document
    found = document["schemes"][0]["discrepancy"]
    assert (found["unbiased"], found["p_value"], document["target"]["differs"]) == (None, None, False)
    assert "do not differ measurably" in summary_table(document)
    x = np.repeat(ref.vectors()[:1], 9, axis=0)
    groups = {"kind": pa.array(["a"] * 4 + ["b"] * 5)}
    same = write_embedding_table(tmp_path / "same", list("abcdefghi"), x, None, groups, dtype="float32")
    document = uniformity(same.path, tmp_path / "o2", towards="balanced:kind", device="cpu").document
    found = document["schemes"][0]["discrepancy"]
    assert found["value"] == pytest.approx(0, abs=1e-6)
    assert (found["noise_ratio"], found["rectification"], document["target"]["differs"]) == (
        None,
        None,
        False,
    )


@pytest.mark.parametrize("aimed", ["reference", "balanced:kind", "camera"])
def test_the_nearest_re_weighting_may_be_searched_later(world, tmp_path, monkeypatch, aimed):
    data, ref, manifest, _ = world
    how = {
        "towards": aimed if ":" in aimed else ref.path,
        **({"with_column": aimed} if aimed == "camera" else {}),
    }
    options = {**OPTIONS, "weights": [manifest]}
    at_once = uniformity(data.path, tmp_path / "whole", **{**options, **how, "rectification": "all"}).document
    before = uniformity(data.path, tmp_path / "out", **options, **how).document
    monkeypatch.setattr(passes, "all_pairs", lambda *a, **k: pytest.fail("measured again"))
    options["rectification"] = "all"
    result = uniformity(data.path, tmp_path / "out", **options)  # the folder knows its target
    assert (result.state, uniformity(data.path, tmp_path / "out", **options).state) == (
        "extended",
        "finished",
    )
    found, expected = result.document["target"]["best"], at_once["target"]["best"]
    assert found["gap"] < 0.01 * (found["natural_energy"] - found["energy"])
    assert found["energy"] == pytest.approx(expected["energy"], abs=1.5 * expected["gap"] + 1e-9)
    for mine, theirs, old in zip(*(d["schemes"] for d in (result.document, at_once, before)), strict=True):
        ours, other = mine["discrepancy"], theirs["discrepancy"]
        assert ours["rectification"] == pytest.approx(other["rectification"], abs=0.02)
        assert (
            ours | {name: old["discrepancy"][name] for name in ("rectification", "rectification_reason")}
            == (old["discrepancy"])
        )
