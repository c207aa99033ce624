import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.inspection.describe import inspect
from kdbias.kinds import spelled
from kdbias.settings import declared_in
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.tables.parquet_file import read_provenance, read_table, write_table
from kdbias.tables.weight_manifest import read_manifest
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.schemes.density import Equilibrium
from kdbias.weighting.stage import weights as weights_of


def weights(density, output, **options):
    """`kdbias.weights`; what nothing else is said of here is said of the equilibrium."""
    return weights_of(density, output, **{"method": "equilibrium", **options})


def read(path: Path) -> np.ndarray:
    return pd.read_parquet(path)["weight"].to_numpy()


@pytest.mark.parametrize("method", [name for name in SCHEMES if name != "matched"])
def test_every_method_writes_a_manifest_of_mean_one(long_tailed, tmp_path, method):
    out = tmp_path / "w.parquet"
    result = weights(long_tailed.density, out, method=method)
    frame = pd.read_parquet(out)
    assert list(frame.columns) == ["sample_id", "label", "camera", "log_density", "weight"]
    assert frame["weight"].mean() == pytest.approx(1, abs=1e-12)
    assert (frame["weight"] >= 0).all()
    w = frame["weight"].to_numpy()
    assert result.numbers["ess"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert result.numbers["max_weight"] == pytest.approx(w.max())
    doc = frame.attrs["kdbias"]
    assert doc["config"]["method"] == method
    assert doc["counts"] == {"samples": 195, "distinct": 195}
    json.dumps(doc, allow_nan=False)


def test_defaults_are_the_equilibrium_at_half_the_effective_samples(long_tailed, tmp_path):
    result = weights(long_tailed.density, tmp_path / "w.parquet", t=1)
    w = read(tmp_path / "w.parquet")
    assert result.method == "equilibrium"
    assert result.numbers["ess_share"] == pytest.approx(0.5, abs=1e-6)
    assert result.solver["lambda"] > 0
    assert result.solver["gap"] <= 1e-3 * (result.solver["energy_before"] - result.solver["energy"])
    kernel = np.exp(-2 * (1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)))
    p = w / w.sum()
    assert result.solver["energy"] == pytest.approx(p @ kernel @ p, rel=1e-5)
    assert result.solver["energy_before"] == pytest.approx(kernel.mean(), rel=1e-5)


def test_no_floor_goes_lower_in_energy_and_in_effective_samples(long_tailed, tmp_path):
    floor = weights(long_tailed.density, tmp_path / "floor.parquet", t=1)
    free = weights(long_tailed.density, tmp_path / "free.parquet", t=1, min_ess=0)
    assert free.solver["energy"] < floor.solver["energy"]
    assert free.numbers["ess_share"] < 0.5
    assert free.solver["lambda"] == 0


def test_bandwidth_is_the_ladder_unless_one_is_asked_for(long_tailed, tmp_path):
    found = weights(long_tailed.density, tmp_path / "w.parquet")
    assert found.t == list(LADDER)
    assert "equilibrium at t=0.5,1,2,4,8, 195 samples" in found.summary()
    excess = 1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)
    kernel = np.mean([np.exp(-2 * t * excess) for t in LADDER], axis=0)
    p = read(found.path) / 195
    assert found.solver["energy"] == pytest.approx(p @ kernel @ p, rel=1e-5)
    assert weights(long_tailed.density, found.path, t="8,4,2,1,0.5").state == "finished"
    with pytest.raises(ConfigChangedError, match="t: "):
        weights(long_tailed.density, found.path, t=2)
    chosen = weights(long_tailed.density, tmp_path / "chosen.parquet", t="chosen")
    assert chosen.t == long_tailed.t
    assert read_manifest(chosen.path).provenance["config"]["t"] == long_tailed.t
    assert weights(long_tailed.density, chosen.path, t=long_tailed.t).state == "finished"
    usual = weights_of(long_tailed.density, tmp_path / "usual.parquet")
    assert usual.method == "inverse-density"
    solved = weights_of(long_tailed.density, tmp_path / "solved.parquet", cap=3.0)
    assert solved.method == "equilibrium"
    option = next(d for d in declared_in(Equilibrium) if d.name == "t")
    assert option.text.endswith(f"[{spelled(LADDER)}; inverse-density: chosen]")
    single = weights(long_tailed.density, tmp_path / "i.parquet", method="inverse-density")
    assert single.t == long_tailed.t
    assert weights(long_tailed.density, tmp_path / "c.parquet", method="class-balanced").t is None


def test_same_call_again_does_nothing_and_a_changed_one_is_refused(long_tailed, tmp_path):
    out = tmp_path / "w.parquet"
    first = weights(long_tailed.density, out, method="inverse-density")
    before = out.read_bytes()
    again = weights(long_tailed.density, out, method="inverse-density")
    assert (first.state, again.state) == ("new", "finished")
    assert again.numbers == first.numbers
    assert out.read_bytes() == before
    with pytest.raises(ConfigChangedError, match=r"temper: 1.0 -> 0.5"):
        weights(long_tailed.density, out, method="inverse-density", temper=0.5)
    assert weights(long_tailed.density, out, method="natural", overwrite=True).state == "new"
    assert (read(out) == 1).all()


def test_an_older_manifest_that_lacks_an_option_has_its_default(long_tailed, tmp_path):
    out, options = tmp_path / "w.parquet", {"method": "effective-number"}
    made = weights(long_tailed.density, out, **options)
    doc = read_provenance(out)
    assert weights(long_tailed.density, out, beta=0.99, **options).state == "finished"
    for name in ("beta", "near", "collapse", "temper", "min_ess", "t"):
        del doc["config"][name]
    write_table(out, read_table(out), doc)
    again = weights(long_tailed.density, out, **options)
    assert (again.state, again.t, again.numbers) == ("finished", None, made.numbers)
    assert weights(long_tailed.density, out, beta=0.99, **options).state == "finished"
    with pytest.raises(ConfigChangedError, match=r"\(beta: 0.99 -> 0.5; collapse: None -> 'none'\)"):
        weights(long_tailed.density, out, beta=0.5, collapse="none", **options)
    best = weights(long_tailed.density, tmp_path / "e.parquet")  # whose t and ESS floor are decided
    doc = read_provenance(best.path)
    write_table(best.path, read_table(best.path), doc | {"config": {"method": "equilibrium"}})
    assert weights(long_tailed.density, best.path).t == best.t
    with pytest.raises(ConfigChangedError, match=r"\(min_ess: None -> 0.7\)"):
        weights(long_tailed.density, best.path, min_ess=0.7)


def test_copies_share_one_samples_weight(measure, tmp_path):
    rng = np.random.default_rng(1)
    base = rng.normal(size=(30, 6))
    copied = measure(np.concatenate([base, np.repeat(base[:1], 9, axis=0)]), name="copied")
    plain = measure(base, name="plain")
    for method in ("equilibrium", "inverse-density"):
        one = weights(plain.density, tmp_path / f"{method}1.parquet", method=method, t=2)
        ten = weights(copied.density, tmp_path / f"{method}10.parquet", method=method, t=2)
        single, many = read(one.path), read(ten.path)
        assert ten.distinct == 30
        assert np.ptp(many[[0, *range(30, 39)]]) == pytest.approx(0, abs=1e-12)
        shares = np.append(many[[0, *range(30, 39)]].sum(), many[1:30]) / many.sum()
        assert shares == pytest.approx(single / single.sum(), rel=2e-3)
    kept = weights(copied.density, tmp_path / "n.parquet", method="natural")
    assert (read(kept.path) == 1).all()
    asked = weights(copied.density, tmp_path / "a.parquet", method="natural", collapse="exact")
    assert read(asked.path)[0] == pytest.approx(read(asked.path)[1] / 10)


def test_mixing_brings_no_copies_back(measure, tmp_path):
    x = np.random.default_rng(4).normal(size=(20, 5))
    data = measure(np.concatenate([x, np.repeat(x[:1], 20, axis=0)]))
    options = {"method": "inverse-density", "temper": 30.0}
    mixed = read(weights(data.density, tmp_path / "m.parquet", mix=0.3, **options).path)
    of_sample = np.append(mixed[[0, *range(20, 40)]].sum(), mixed[1:20])  # out of 40 draws
    assert of_sample.min() == pytest.approx(0.3 * 2, rel=0.01)
    assert mixed.min() == pytest.approx(of_sample[0] / 21)
    whole = read(weights(data.density, tmp_path / "w.parquet", mix=1.0, **options).path)
    asked = weights(data.density, tmp_path / "n.parquet", method="natural", collapse="exact")
    assert whole == pytest.approx(read(asked.path))


def test_near_copies_share_only_when_asked(measure, tmp_path):
    rng = np.random.default_rng(2)
    base = rng.normal(size=(20, 8))
    near = base[:1] + 1e-3 * rng.normal(size=(5, 8))
    data = measure(np.concatenate([base, near]))
    exact = weights(data.density, tmp_path / "e.parquet", method="natural", collapse="exact")
    assert exact.distinct == 25
    result = weights(data.density, tmp_path / "w.parquet", method="natural", collapse="near")
    assert result.distinct == 20
    w = read(result.path)
    assert w[[0, *range(20, 25)]].sum() == pytest.approx(w[1])
    loose = weights(data.density, tmp_path / "l.parquet", method="natural", collapse="near", near=0.01)
    assert loose.distinct < 20


def test_cap_holds_for_every_sample_and_clip_too(long_tailed, tmp_path):
    capped = weights(long_tailed.density, tmp_path / "c.parquet", t=1, cap=1.8, min_ess=0)
    assert capped.numbers["max_weight"] <= 1.8 * (1 + 1e-9)
    assert capped.numbers["ess_share"] >= 1 / 1.8
    free = weights(long_tailed.density, tmp_path / "f.parquet", method="inverse-density", t=1)
    clipped = weights(long_tailed.density, tmp_path / "d.parquet", method="inverse-density", t=1, clip=1.4)
    assert free.numbers["max_weight"] > 1.4
    assert clipped.numbers["max_weight"] == pytest.approx(1.4)


def test_hygiene_after_the_equilibrium_is_counted_in_its_gap(long_tailed, tmp_path):
    plain = weights(long_tailed.density, tmp_path / "p.parquet", t=1)
    mixed = weights(long_tailed.density, tmp_path / "m.parquet", t=1, mix=0.3)
    p = read(mixed.path) / read(mixed.path).sum()
    kernel = np.exp(-2 * (1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)))
    assert mixed.solver["energy"] == pytest.approx(p @ kernel @ p, rel=1e-5)
    assert mixed.solver["gap"] >= mixed.solver["energy"] - plain.solver["energy"]
    assert (plain.solver["certified"], mixed.solver["certified"]) == (True, False)
    assert "met the tolerance, before temper, clip and mix" in mixed.summary()


@pytest.mark.parametrize(("min_ess", "cap"), [(0.5, None), (0, 2.0), (0.6, 2.5)])
def test_floor_and_cap_of_the_equilibrium_survive_sharpening(measure, tmp_path, min_ess, cap):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(100, 6)) + np.eye(6)[rng.integers(0, 2, 100)] * 3
    data = measure(np.concatenate([x, np.repeat(x[:1], 30, axis=0)]))
    options = {"t": 1, "tolerance": 1e-6, "min_ess": min_ess, "cap": cap}
    plain = weights(data.density, tmp_path / "p.parquet", **options)
    sharp = weights(data.density, tmp_path / "s.parquet", temper=3.0, **options)
    assert sharp.numbers["ess_distinct"] >= min_ess * (1 - 1e-9)
    masses = np.append(read(sharp.path)[1:100], read(sharp.path)[[0, *range(100, 130)]].sum())
    assert masses.max() <= (cap or np.inf) * (1 + 1e-9)
    # So they are as feasible as the optimum, which has less energy: the gap says by how much at most.
    assert sharp.solver["energy"] > plain.solver["energy"]
    assert sharp.solver["gap"] >= sharp.solver["energy"] - plain.solver["energy"]


_EQUILIBRIA = [
    {"t": 3, "tolerance": 1e-9},
    {"t": 0.3, "tolerance": 1e-9},
    {"t": 3, "tolerance": 1e-9, "min_ess": 0.2, "cap": 2.0},
    {"t": 3, "memory": "20KiB"},
    {"t": 3, "tolerance": 1e-9, "temper": 0.1, "min_ess": 0},
    {"t": 3, "temper": 2000.0, "min_ess": 0},
    {"t": 3, "temper": 40.0, "clip": 30.0, "min_ess": 0},
    {"method": "inverse-density", "temper": 300.0},
    {"method": "inverse-density", "temper": 300.0, "min_ess": 0.01},
    {"method": "class-balanced", "temper": 40.0, "clip": 50.0},
]


@pytest.mark.parametrize("options", _EQUILIBRIA, ids=lambda o: ",".join(map(str, o.values())))
def test_what_is_never_drawn_is_exactly_0_and_counted_alike(measure, tmp_path, options):
    rng = np.random.default_rng(5)
    crowd = rng.normal(size=(150, 6)) + np.eye(6)[rng.integers(0, 2, 150)] * 3
    labels = ["a"] * 100 + ["b"] * 49 + ["c"] * 31
    data = measure(np.concatenate([crowd, np.repeat(crowd[:1], 30, axis=0)]), labels=labels)
    result = weights(data.density, tmp_path / "w.parquet", **options)
    w = read(result.path)
    assert not np.signbit(w).any()
    assert not ((w > 0) & (w < 1e-9)).any()
    assert w.mean() == pytest.approx(1, abs=1e-12)
    zeros = int((w == 0).sum())
    assert result.numbers["zero_weights"] == zeros
    assert re.search(rf"never drawn +{zeros}\n", result.summary() + "\n")
    assert f" {zeros} never drawn" in inspect(result.path)["summary"]
    masses = np.append(w[1:150], w[[0, *range(150, 180)]].sum()) / 180
    p, floor = w / 180, options.get("min_ess", 0.5 if "method" not in options else 0.0)
    assert 1 / (masses @ masses) >= floor * 150 * (1 - 1e-9)
    assert masses.max() * 180 <= min(options.get("cap", 180), options.get("clip", 180)) * (1 + 1e-9)
    if result.solver is None:
        return
    kernel = np.exp(-2 * options["t"] * (1 - np.clip(data.x @ data.x.T, -1, 1)))
    assert result.solver["energy"] == pytest.approx(p @ kernel @ p, rel=1e-5)
    assert result.solver["ess_distinct"] == pytest.approx(1 / (masses @ masses) / 150, rel=1e-12)
    hygiene = options.keys() & {"temper", "clip"}
    assert result.solver["certified"] == (not hygiene)
    assert ("before temper" in result.summary()) == bool(hygiene)


def test_noise_of_the_solver_is_no_weight_that_a_temper_could_lift(long_tailed, tmp_path):
    solved = weights(long_tailed.density, tmp_path / "w.parquet", t=3, tolerance=1e-9, min_ess=0.3)
    lifted = weights(
        long_tailed.density, tmp_path / "l.parquet", t=3, tolerance=1e-9, min_ess=0.3, temper=0.01
    )
    assert solved.numbers["zero_weights"] == lifted.numbers["zero_weights"] > 0


def test_a_bandwidth_that_was_not_measured_is_computed_from_the_embeddings(long_tailed, tmp_path):
    result = weights(long_tailed.density, tmp_path / "w.parquet", method="inverse-density", t=1.5)
    rho = np.exp(-3 * (1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1))).mean(axis=1)
    assert read(result.path) == pytest.approx(1 / rho / (1 / rho).mean(), rel=1e-4)
    assert result.facts["potential"] == "computed from the embeddings"


def test_embeddings_may_be_named_but_must_be_the_measured_ones(long_tailed, measure, tmp_path):
    moved = long_tailed.embeddings.rename(tmp_path / "moved")
    with pytest.raises(KdbiasError, match=r"is gone; name its new place"):
        weights(long_tailed.density, tmp_path / "w.parquet")
    without = {"method": "inverse-density", "collapse": "none", "t": 1.7}
    with pytest.raises(KdbiasError, match=r"gone; .* --embeddings; at a measured bandwidth .*\(--t 3\)$"):
        weights(long_tailed.density, tmp_path / "w.parquet", **without)
    assert weights(long_tailed.density, tmp_path / "i.parquet", **{**without, "t": 3}).state == "new"
    assert weights(long_tailed.density, tmp_path / "w.parquet", embeddings=moved).state == "new"
    other = measure(np.eye(4), name="other")
    with pytest.raises(KdbiasError, match="is not the embedding table that"):
        weights(long_tailed.density, tmp_path / "o.parquet", embeddings=other.embeddings)


def test_little_memory_gives_the_same_weights(long_tailed, tmp_path):
    kept = weights(long_tailed.density, tmp_path / "kept.parquet", t=2, tolerance=1e-5)
    few = weights(long_tailed.density, tmp_path / "few.parquet", t=2, tolerance=1e-5, memory="20KiB")
    assert "recomputed" in few.facts["kernel"]
    assert few.solver["certified"]
    assert few.solver["energy"] == pytest.approx(kept.solver["energy"], rel=1e-5)
    assert read(few.path) == pytest.approx(read(kept.path), abs=0.05)


def test_summary_says_what_was_reached_and_proven(long_tailed, measure, tmp_path):
    text = weights(long_tailed.density, tmp_path / "w.parquet", t=1).summary()
    assert "equilibrium at t=1, 195 samples, mean weight 1" in text
    assert "effective samples     97.5 (50.0 %)" in text
    assert "of the gain); met the tolerance" in text
    cut = weights(long_tailed.density, tmp_path / "c.parquet", t=0.5, min_ess=0, max_seconds=0.0)
    assert not cut.solver["certified"]
    assert "above the best possible" in cut.summary()
    assert "stopped after 0 s" in cut.summary()
    balanced = weights(long_tailed.density, tmp_path / "b.parquet", method="class-balanced").summary()
    assert "effective identities  5.0" in balanced


def test_warnings_carry_the_numbers(measure, tmp_path):
    rng = np.random.default_rng(3)
    crowd = np.eye(8)[0] + 0.01 * rng.normal(size=(400, 8))
    data = measure(np.concatenate([crowd, np.eye(8)[1:4]]), labels=["a"] * 400 + ["b", "b", "c"])
    result = weights(data.density, tmp_path / "w.parquet", method="class-balanced")
    assert any("effective sample size" in line for line in result.warnings)
    assert any("largest weight 134.3" in line for line in result.warnings)
    assert any("get 67% of the draws" in line for line in result.warnings)
    assert not weights(data.density, tmp_path / "n.parquet", method="natural").warnings


BAD = {
    "unknown method": ({"method": "magic"}, "unknown method 'magic'; choose one of natural"),
    "t": ({"t": -1}, "t -1 is not a bandwidth"),
    "no t": ({"t": "auto"}, "t 'auto' is neither chosen nor a list of numbers"),
    "foreign bandwidth": (
        {"method": "hard", "t": 2},
        r"method hard has no option t \(it has: exponent\); leave it out",
    ),
    "cap of another method": (
        {"method": "natural", "cap": 2},
        r"method natural has no option cap \(it has: none\); use clip",
    ),
    "foreign tolerance": ({"method": "hard", "tolerance": 0.1}, "method hard has no option tolerance"),
    "foreign time limit": ({"method": "natural", "max_seconds": 1.0}, "has no option max_seconds"),
    "foreign memory": ({"method": "knn-distance", "memory": "1GiB"}, "has no option memory"),
    "foreign seed": (
        {"seed": 3},
        r"method equilibrium has no option seed \(it has: t, memory, tolerance, device, engine",
    ),
    "foreign near": ({"near": 0.9}, "near 0.9 is for collapse near, not exact"),
    "tolerance": ({"tolerance": -1.0}, "equilibrium: tolerance is -1.0, should be above 0"),
    "no tolerance": ({"tolerance": float("nan")}, "tolerance is nan, should be finite"),
    "time limit": ({"max_seconds": float("inf")}, "max_seconds is inf, should be finite"),
    "endless cap": ({"cap": float("inf")}, "cap is inf, should be finite"),
    "endless clip": ({"clip": float("inf")}, "clip is inf, should be finite"),
    "cap": ({"cap": 0.5}, "cap is 0.5, should be above 1"),
    "clip": ({"clip": 1}, "weights: clip is 1, should be above 1"),
    "mix": ({"mix": 2}, "mix is 2, should be at most 1"),
    "temper": ({"temper": -1}, "temper is -1, should be at least 0"),
    "floor": ({"min_ess": 1.5}, "min_ess is 1.5, should be at most 1"),
    "foreign option": ({"method": "hard", "beta": 0.9}, "method hard has no option beta"),
    "beta": ({"method": "effective-number", "beta": 1.0}, "effective-number: beta is 1.0, should be below 1"),
    "exponent": ({"method": "knn-distance", "exponent": -1.0}, "exponent is -1.0, should be at least 0"),
    "keep": ({"method": "cluster-balanced", "keep": 0.0}, "keep is 0.0, should be above 0"),
    "clusters": ({"method": "cluster-balanced", "clusters": [5, 9]}, "must fall from level to level"),
    "collapse": ({"collapse": "all"}, "collapse is 'all', should be one of exact, near, none"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_get_one_line_with_the_value(long_tailed, tmp_path, case):
    options, message = BAD[case]
    with pytest.raises(KdbiasError, match=message) as caught:
        weights(long_tailed.density, tmp_path / "w.parquet", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w.parquet").exists()


@pytest.mark.parametrize("method", ["class-balanced", "effective-number", "hard"])
def test_methods_on_labels_refuse_data_without_classes(measure, tmp_path, method):
    none = measure(np.random.default_rng(0).normal(size=(6, 4)), name="none")
    one = measure(np.random.default_rng(0).normal(size=(6, 4)), labels=["a"] * 6, name="one")
    with pytest.raises(KdbiasError, match="has no labels"):
        weights(none.density, tmp_path / "w.parquet", method=method)
    with pytest.raises(KdbiasError, match="has one class"):
        weights(one.density, tmp_path / "w.parquet", method=method)


def test_one_sample_gets_weight_one(measure, tmp_path):
    data = measure(np.ones((1, 3)), name="single")
    assert read(weights(data.density, tmp_path / "w.parquet").path) == [1.0]
