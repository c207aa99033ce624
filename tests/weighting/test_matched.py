"""Weights towards a target: against an independent solver, and as a user types them."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy.optimize import minimize

from kdbias.cli import main
from kdbias.display.figure import looks
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.reporting import report
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.weight_manifest import read_manifest
from kdbias.weighting.changes import what_changed
from kdbias.weighting.frontier import frontier
from kdbias.weighting.frontier_figure import draw_panel, series
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.stage import weights
from tests import reference


def kernel_of(x, y, a=None, b=None, t=LADDER):
    """(n, m) float64 mean kernel, halved where a column's values differ."""
    excess = 1 - np.clip(np.asarray(x, float) @ np.asarray(y, float).T, -1, 1)
    kernel = np.mean([np.exp(-2 * one * excess) for one in t], axis=0)
    return kernel if a is None else kernel * np.where(np.asarray(a)[:, None] == np.asarray(b), 1, 0.5)


def embedded(folder, x, columns=None, labels=None, name="r", **more):
    ids = [f"{name}{i}" for i in range(len(x))]
    return write_embedding_table(folder, ids, x, labels, columns or {}, dtype="float32", **more)


def cameras(n, left):
    return ["left" if i < left else "right" for i in range(n)]


@pytest.fixture
def pool(measure):
    """60 samples of which 45 crowd in a half of the sphere, and 5 copies, one of them by the other camera."""
    x = np.concatenate([reference.clustered_sphere(45, 5, 2, 0.5, 0), reference.random_sphere(15, 5, 1)])
    return measure(np.concatenate([x, x[:5]]), groups={"camera": [*cameras(60, 40), *cameras(5, 4)[::-1]]})


@pytest.fixture
def deployed(tmp_path):
    """A reference of 40 samples all over the sphere."""
    return embedded(tmp_path / "ref", reference.random_sphere(40, 5, 2), {"camera": cameras(40, 20)})


def read(path):
    return pd.read_parquet(path)["weight"].to_numpy()


def least(kxx, k, constant, floor=None, cap=None, mu=0.0):
    """(value, p): least p'Kp - 2 p'k + c + mu sum p log p, by a general-purpose solver."""
    n = len(kxx)
    rules = [{"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)}]
    if floor:
        rules.append({"type": "ineq", "fun": lambda p: 1 / (floor * n) - p @ p, "jac": lambda p: -2 * p})
    found = minimize(
        lambda p: p @ kxx @ p - 2 * p @ k + constant + mu * np.sum(p * np.log(p + 1e-300)),
        np.full(n, 1 / n),
        jac=lambda p: 2 * kxx @ p - 2 * k + mu * (np.log(p + 1e-300) + 1),
        bounds=[(1e-12 if mu else 0, cap or 1)] * n,
        constraints=rules,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return found.fun, found.x


SOLVED = {
    "floor": {},
    "low floor": {"min_ess": 0.2},
    "no floor": {"min_ess": 0},
    "cap": {"cap": 2.5, "min_ess": 0},
    "with a column": {"with_column": "camera"},
    "one bandwidth": {"t": 3},
    "entropy": {"penalty": "entropy", "tolerance": 1e-4},
    "entropy, cap": {"penalty": "entropy", "cap": 3.0, "tolerance": 1e-4},
    "entropy, with a column": {"penalty": "entropy", "with_column": "camera", "tolerance": 1e-4},
}


@pytest.mark.parametrize("case", SOLVED)
def test_an_independent_solver_finds_the_same(pool, deployed, tmp_path, case):
    options = SOLVED[case]
    given = {"towards": deployed.path, "stop": "floor", "tolerance": 1e-6, **options}
    result = weights(pool.density, tmp_path / "w.parquet", **given)
    w = read(result.path)
    # Copies are one sample; where the column counts, only those by the same camera.
    x, y, column = pool.x, deployed.vectors(), np.array([*cameras(60, 40), *cameras(5, 4)[::-1]])
    kept = np.arange(61 if "with_column" in options else 60)
    ours, theirs = (None, None) if len(kept) == 60 else (column[kept], np.array(cameras(40, 20)))
    t = (options["t"],) if "t" in options else LADDER
    kxx, k = kernel_of(x[kept], x[kept], ours, ours, t), kernel_of(x[kept], y, ours, theirs, t).mean(axis=1)
    constant = kernel_of(y, y, theirs, theirs, t).mean()
    p = w[kept] / w.sum()
    p[: 65 - len(kept)] = 0
    copies = np.arange(len(kept), 65) - 60
    p[copies] = (w[copies] + w[len(kept) :]) / w.sum()
    if len(kept) == 61:
        p[0] = w[0] / w.sum()
    else:
        assert w[:5] == pytest.approx(w[60:])
    assert p.sum() == pytest.approx(1)
    value = p @ kxx @ p - 2 * p @ k + constant
    floor, cap = options.get("min_ess", 0.5), options.get("cap")
    assert result.target["discrepancy"] == pytest.approx(value, abs=1e-6)
    assert result.solver["energy"] == pytest.approx(value, abs=1e-6)
    assert result.distinct == len(kept)
    assert 1 / (p @ p) >= floor * len(p) * (1 - 1e-9)
    assert p.max() * 65 <= (cap or 65) * (1 + 1e-9)
    if "penalty" in options:
        mu = result.solver["lambda"]
        best, expected = least(kxx, k, constant, cap=cap and cap / 65, mu=mu)
        assert value + mu * np.sum(p * np.log(p)) == pytest.approx(best, abs=1e-5)
        assert p == pytest.approx(expected, abs=5e-3)
        assert 1 / (p @ p) == pytest.approx(0.5 * len(p), rel=2e-3)
    else:
        best, _ = least(kxx, k, constant, floor, cap and cap / 65)
        assert best - 1e-8 <= value <= best + 1e-5
        assert result.solver["gap"] >= value - best - 1e-8
    assert result.solver["certified"]
    assert result.target["bound"] == "floor"


def test_matching_stops_at_the_noise_of_the_reference(measure, deployed, tmp_path):
    x = np.concatenate([reference.clustered_sphere(300, 5, 5, 0.5, 0), reference.random_sphere(60, 5, 1)])
    data = measure(x)
    found = weights(data.density, tmp_path / "w.parquet", towards=deployed.path, min_ess=0.05)
    about, y = found.target, deployed.vectors()
    p = read(found.path) / 360
    kyy = kernel_of(y, y)
    value = p @ kernel_of(data.x, data.x) @ p - 2 * p @ kernel_of(data.x, y).mean(axis=1) + kyy.mean()
    noise = (1 - (kyy.sum() - np.trace(kyy)) / 40 / 39) / 40
    assert about["bound"] == "noise"
    assert about["noise"] == pytest.approx(noise, rel=1e-4)
    assert about["discrepancy"] == pytest.approx(value, abs=1e-6)
    assert 0.9 * noise <= value <= noise
    assert about["test"]["p_value"] < 0.05
    assert "held by               the noise" in found.summary()
    assert found.numbers["ess_distinct"] == pytest.approx(about["floor"], abs=1e-3)
    nearer = weights(data.density, tmp_path / "n.parquet", towards=deployed.path, min_ess=0.05, stop="floor")
    assert nearer.target["discrepancy"] < 0.95 * noise
    higher = weights(
        data.density, tmp_path / "h.parquet", towards=deployed.path, min_ess=about["floor"] + 0.1
    )
    assert higher.target["bound"] == "floor"
    assert higher.target["discrepancy"] > noise
    assert "held by               the floor on the ESS" in higher.summary()


def test_data_of_the_references_law_stay_natural(measure, tmp_path):
    law = reference.clustered_sphere(500, 6, 5, 0.6, 0)
    data = measure(np.concatenate([law[:400], law[:3]]))
    ref = embedded(tmp_path / "ref", law[400:])
    found = weights(data.density, tmp_path / "w.parquet", towards=ref.path)
    assert found.method == "matched"
    w = read(found.path)
    assert w[3:400] == pytest.approx(w[3])
    assert w[:3] == pytest.approx(w[3] / 2)  # copies share one sample's weight
    assert found.target["bound"] == "natural"
    assert found.solver is None
    assert "your data do not differ measurably from the reference (p = " in found.summary()
    assert "100 samples)" in found.summary()


def test_the_data_themselves_under_other_masses_are_found_again(measure, tmp_path):
    x = reference.clustered_sphere(50, 6, 3, 0.6, 0)
    data, q = measure(x), np.random.default_rng(0).dirichlet(np.ones(50))
    ref = embedded(tmp_path / "ref", x)
    pd.DataFrame({"sample_id": ref.ids().to_pylist(), "weight": q}).to_parquet(tmp_path / "q.parquet")
    options = {"stop": "floor", "min_ess": 0, "tolerance": 1e-9, "t": 8}
    found = weights(
        data.density, tmp_path / "w.parquet", towards=f"{ref.path}@{tmp_path / 'q.parquet'}", **options
    )
    assert read(found.path) / 50 == pytest.approx(q, abs=5e-3)
    assert found.target["discrepancy"] == pytest.approx(0, abs=1e-6)


def test_towards_the_sphere_is_the_equilibrium(long_tailed, tmp_path):
    sphere = weights(long_tailed.density, tmp_path / "s.parquet", towards="sphere", tolerance=1e-6)
    equilibrium = weights(long_tailed.density, tmp_path / "e.parquet", tolerance=1e-6)
    assert read(sphere.path) == pytest.approx(read(equilibrium.path), abs=2e-2)
    assert "towards               sphere" in sphere.summary()


def test_a_balanced_column_gets_even_shares_as_far_as_its_noise(long_tailed, tmp_path):
    found = weights(long_tailed.density, tmp_path / "w.parquet", towards="balanced:label", min_ess=0.1)
    w = pd.read_parquet(found.path)
    natural, shares = w.groupby("label").size() / 195, w.groupby("label").weight.sum() / 195
    assert found.target["test"] is None
    assert found.target["bound"] == "noise"
    sizes = w.groupby("label").size().to_numpy()
    assert found.target["effective_size"] == pytest.approx(25 / (1 / sizes).sum())
    assert np.abs(shares - 0.2).sum() < 0.6 * np.abs(natural - 0.2).sum()
    (tmp_path / "s.csv").write_text("label,share\n" + "".join(f"c{i},{i == 4:d}\n" for i in range(5)))
    rare = weights(
        long_tailed.density,
        tmp_path / "r.parquet",
        towards=f"balanced:label@{tmp_path / 's.csv'}",
        min_ess=0.05,
    )
    assert pd.read_parquet(rare.path).groupby("label").weight.sum()["c4"] / 195 > 0.3


def test_a_floor_that_takes_nothing_is_not_said_to_hold(long_tailed, tmp_path):
    found = weights(
        long_tailed.density, tmp_path / "w.parquet", towards="balanced:camera", stop="floor", min_ess=0.1
    )
    assert found.solver["ess_distinct"] > 0.2
    assert "held by               the data: no weights of theirs come nearer" in found.summary()
    assert "the floor on the ESS (10.0 %) takes nothing" in found.summary()


def test_hygiene_is_counted_in_what_the_manifest_says(pool, deployed, tmp_path):
    options = {"towards": deployed.path, "stop": "floor"}
    plain = weights(pool.density, tmp_path / "p.parquet", **options)
    mixed = weights(pool.density, tmp_path / "m.parquet", mix=0.5, **options)
    assert plain.target["discrepancy"] < mixed.target["discrepancy"] < mixed.target["discrepancy_before"]
    assert mixed.target["discrepancy"] == pytest.approx(mixed.solver["energy"])
    assert not mixed.solver["certified"]


def test_the_manifest_keeps_what_was_found(pool, deployed, tmp_path):
    found = weights(pool.density, tmp_path / "w.parquet", towards=deployed.path)
    doc = read_manifest(found.path).provenance
    assert doc["inputs"]["towards"] == deployed.fingerprint
    assert doc["config"]["towards"] == "reference"
    assert doc["target"] == found.target
    assert doc["target"]["size"] == 40
    assert sorted(doc["target"]["shares"]["camera"]) == [["left", 0.5], ["right", 0.5]]
    assert any("40 samples is small" in note for note in doc["target"]["notes"])


def run(*words):
    return CliRunner().invoke(main, ["weights", *map(str, words)])


def test_what_a_face_team_types(pool, deployed, tmp_path):
    out = tmp_path / "w.parquet"
    first = run(pool.density, "-o", out, "--towards", deployed.path)
    assert first.exit_code == 0, first.output
    assert f"towards               {deployed.path} (40 samples)" in first.stdout
    assert "40 samples is small" in first.stderr
    again = run(pool.density, "-o", out, "--towards", deployed.path)
    assert "finished already" in again.stderr
    other = embedded(tmp_path / "ref2", reference.random_sphere(40, 5, 3), {"camera": cameras(40, 20)})
    changed = run(pool.density, "-o", out, "--towards", other.path)
    assert changed.exit_code == 2
    assert "towards" in changed.stderr.splitlines()[-1]
    assert run(pool.density, "-o", out, "--towards", other.path, "--overwrite").exit_code == 0
    both = run(pool.density, "-o", tmp_path / "c.parquet", "--towards", deployed.path, "--with", "camera")
    assert both.exit_code == 0, both.output
    even = run(pool.density, "-o", tmp_path / "b.parquet", "--towards", "balanced:camera")
    assert even.exit_code == 0, even.output


def test_without_a_target_the_assumption_is_said(pool, tmp_path):
    found = run(pool.density, "-o", tmp_path / "w.parquet")
    (line,) = [text for text in found.stderr.splitlines() if "assumes" in text]
    assert "every region of the teacher's space alike" in line
    assert "--towards" in line
    assert "assumes" not in run(pool.density, "-o", tmp_path / "n.parquet", "--method", "natural").stderr


BAD = {
    "another dimension": (lambda f: embedded(f / "r", np.eye(7)), "7 and 5 dimensions"),
    "one sample": (lambda f: embedded(f / "r", np.eye(5)[:1]), "a single sample"),
    "nothing there": (lambda f: f / "r", "is not an embedding table"),
    "an empty name": (lambda f: "", "is empty"),
    "no such column": (lambda f: "balanced:race", "no column 'race'"),
    "no shares": (lambda f: f"balanced:camera@{f / 's.csv'}", "s.csv: no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_targets_are_refused_in_one_line(pool, tmp_path, case):
    make, said = BAD[case]
    target = make(tmp_path)
    found = run(
        pool.density, "-o", tmp_path / "w.parquet", "--towards", getattr(target, "path", target), "-q"
    )
    assert found.exit_code == 2, found.output
    (line,) = found.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "w.parquet").exists()


def test_the_data_another_teacher_and_a_column_of_one_value_are_refused(pool, measure, deployed, tmp_path):
    def refused(said, density=pool.density, **options):
        with pytest.raises(KdbiasError, match=said):
            weights(density, tmp_path / "w.parquet", **options)

    refused("are the same table", towards=pool.embeddings)
    one = measure(reference.random_sphere(20, 5, 0), groups={"camera": ["left"] * 20}, name="one")
    refused("the value 'left' alone", one.density, towards="balanced:camera")
    refused("the value 'left' alone", one.density, towards=deployed.path, with_column="camera")
    refused("no column 'race'", towards=deployed.path, with_column="race")
    refused(r"method hard has no option towards .*; use method matched", method="hard", towards="sphere")
    refused("method matched needs a target", method="matched")
    refused("method matched needs a target", stop="floor")
    refused("--with camera compares", with_column="camera")
    refused("--with camera compares", with_column="camera", towards="sphere")
    refused("penalty entropy holds the ESS", towards="sphere", penalty="entropy", min_ess=0)
    refused("stop is 'never', should be one of noise, floor", towards="sphere", stop="never")


def test_another_kind_of_target_is_another_manifest(pool, deployed, tmp_path):
    out = tmp_path / "w.parquet"
    weights(pool.density, out, towards=deployed.path)
    with pytest.raises(ConfigChangedError, match=r"towards: .*reference.* -> .*sphere"):
        weights(pool.density, out, towards="sphere")
    with pytest.raises(ConfigChangedError, match="stop"):
        weights(pool.density, out, towards=deployed.path, stop="floor")


def two_cameras(measure, tmp_path, law, share):
    """A pool of which ``share`` is by the left camera and a reference with both alike, of one law."""
    data = measure(law[:300], groups={"camera": cameras(300, round(300 * share))})
    ref = embedded(tmp_path / "ref", law[300:], {"camera": cameras(100, 50)})
    return data, ref


def test_a_column_that_the_space_does_not_show_is_said(measure, tmp_path):
    data, ref = two_cameras(measure, tmp_path, reference.clustered_sphere(400, 6, 4, 0.6, 0), 0.9)
    found = weights(data.density, tmp_path / "w.parquet", towards=ref.path)
    assert found.target["bound"] == "natural"
    (line,) = found.warnings
    assert "camera left has 90.0 % of the samples, 90.0 % of the draws and 50.0 % of the reference" in line
    assert "do not differ measurably; --with camera" in line
    changes = what_changed(found.path)
    assert changes.notes == (line,)
    assert line in changes.summary()
    assert changes.document["notes"] == [line]
    left, right = changes.groups.to_pylist()
    assert (left["share_before"], left["share_after"], left["share_reference"]) == pytest.approx(
        (0.9, 0.9, 0.5)
    )
    assert right["share_reference"] == 0.5
    changes.write(tmp_path / "c")
    assert pd.read_csv(tmp_path / "c" / "groups.csv")["share_reference"].tolist() == [0.5, 0.5]
    both = weights(data.density, tmp_path / "b.parquet", towards=ref.path, with_column="camera", min_ess=0.1)
    assert not both.warnings
    groups = {row["value"]: row for row in what_changed(both.path).groups.to_pylist()}
    assert groups["left"]["share_after"] < 0.75
    even, _ = two_cameras(
        lambda *a, **k: measure(*a, name="even", **k),
        tmp_path / "e",
        reference.clustered_sphere(400, 6, 4, 0.6, 0),
        0.55,
    )
    assert not weights(even.density, tmp_path / "n.parquet", towards=ref.path).warnings


def test_a_column_that_matching_does_not_move_is_said(measure, tmp_path):
    x = np.concatenate([reference.clustered_sphere(300, 5, 2, 0.4, 0), reference.random_sphere(100, 5, 1)])
    mixed = np.random.default_rng(0).permutation(300) < 270
    data = measure(x[:300], groups={"camera": np.where(mixed, "left", "right").tolist()})
    ref = embedded(tmp_path / "ref", x[300:], {"camera": [*cameras(90, 45), *["above"] * 10]})
    found = weights(data.density, tmp_path / "w.parquet", towards=ref.path)
    assert found.target["bound"] != "natural"
    absent, unmoved = found.warnings
    assert "camera 'above' (10.0 % of the reference) does not occur in the data" in absent
    assert "hardly differ by it; --with camera" in unmoved


def test_changes_of_what_was_not_matched_know_no_reference(long_tailed, tmp_path):
    changes = what_changed(weights(long_tailed.density, tmp_path / "w.parquet").path)
    assert set(changes.groups.column("share_reference").to_pylist()) == {None}
    assert "in the target" not in changes.summary()
    assert changes.notes == ()


def test_the_frontier_holds_all_schemes_against_the_target(measure, deployed, tmp_path):
    x = np.concatenate([reference.clustered_sphere(90, 5, 3, 0.5, 0), reference.random_sphere(30, 5, 1)])
    data = measure(x, labels=[f"c{i % 3}" for i in range(120)])
    options = {"towards": deployed.path, "floors": [0, 0.5, 0.8], "tolerance": 1e-5}
    found = frontier(data.density, tmp_path / "f", **options)
    rows = found.table.to_pylist()
    y = deployed.vectors()
    constant, noise = kernel_of(y, y).mean(), found.target["noise"]
    natural = next(row for row in rows if row["method"] == "natural")
    expected = kernel_of(data.x, data.x).mean() - 2 * kernel_of(data.x, y).mean() + constant
    assert natural["discrepancy"] == pytest.approx(expected, abs=1e-6)
    assert all(row["discrepancy"] is not None for row in rows)
    assert {row["method"] for row in rows} == set(SCHEMES)
    line = sorted((r["ess_distinct"], r["discrepancy"]) for r in rows if r["method"] == "matched")
    assert len(line) >= 2
    assert all(
        min(value for share, value in line if share <= row["ess_distinct"] + 1e-6)
        <= row["discrepancy"] + 1e-6
        for row in rows
        if row["ess_distinct"] >= line[0][0] - 1e-6
    )
    axes = Figure().add_subplot()
    draw_panel(axes, rows, "discrepancy", looks(series(rows)), found.target)
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > max(row["discrepancy"] for row in rows)
    svg = (tmp_path / "f" / "frontier.svg").read_text()
    assert "noise of the target</text>" in svg
    assert "matched (frontier of MMD²)</text>" in svg
    assert f"its noise: {noise:.4g}" in found.summary()
    again = frontier(data.density, tmp_path / "f", **options)
    assert (again.state, again.target) == ("finished", found.target)
    report([tmp_path / "f"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "noise of the target</text>" in page
    assert f"MMD² is from {deployed.path}; noise: {noise:.4g}." in page
    both = run(
        data.density, "-o", tmp_path / "g", "--frontier", "--towards", deployed.path, "--stop", "floor"
    )
    assert both.exit_code == 2
    assert "leave out --stop" in both.stderr


def test_products_on_a_device_give_the_same_weights(
    interpreter, monkeypatch, pool, deployed, tmp_path, capsys
):
    devices = {"cpu": "cpu", "cuda": "cpu:0"}  # the interpreter's
    monkeypatch.setattr("kdbias.sphere.equilibrium.device_kernel.resolve_device", devices.__getitem__)
    monkeypatch.setattr("kdbias.sphere.triton_tiles.SHAPES", dict.fromkeys((False, True), (32, 4, 3)))
    for name, options in (("even", {"t": 3}), ("near", {"towards": deployed.path, "with_column": "camera"})):
        for device in devices:
            out = tmp_path / f"{name}-{device}.parquet"
            weights(pool.density, out, tolerance=1e-6, device=device, **options)
        assert "recomputed on cpu:0" in capsys.readouterr().err
        found, expected = (read(tmp_path / f"{name}-{device}.parquet") for device in ("cuda", "cpu"))
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_device_that_is_not_there_is_refused(pool, tmp_path):
    with pytest.raises(KdbiasError, match=r"torch sees 0|needs Triton|cuda:77"):
        weights(pool.density, tmp_path / "w.parquet", device="cuda:77")
    assert not (tmp_path / "w.parquet").exists()
