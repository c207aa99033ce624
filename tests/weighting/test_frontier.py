import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.null import log_null
from kdbias.tables.documents import write_json
from kdbias.tables.run_record import read_record
from kdbias.weighting.frontier import frontier
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.schemes.density import Natural


def test_equilibria_bound_every_scheme_at_its_effective_samples(long_tailed, tmp_path):
    result = frontier(long_tailed.density, tmp_path / "f", t=1.0, tolerance=1e-4)
    frame = result.table.to_pandas()
    assert set(frame["method"]) == set(SCHEMES) - {"matched"}
    assert frame["ess_share"].is_monotonic_decreasing
    line = frame[frame["method"] == "equilibrium"].sort_values("ess_share")
    assert line["energy"].is_monotonic_increasing
    x = long_tailed.x.astype(np.float32)
    for row in frame[frame["method"] != "equilibrium"].itertuples():
        best = solve(x, 1.0, min_ess=row.ess_share * (1 - 1e-9))
        assert best.energy - best.gap <= row.energy * (1 + 1e-6), row.scheme
        assert row.method == "natural" or best.energy < row.energy, row.scheme
    natural = frame[frame["method"] == "natural"].iloc[0]
    kernel = np.exp(-2 * (1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)))
    n = len(kernel)
    assert natural["energy"] == pytest.approx(kernel.mean(), rel=1e-5)
    assert natural["uniformity"] == pytest.approx(np.log((kernel.sum() - n) / n / (n - 1)), rel=1e-5)
    assert natural["rectification"] == pytest.approx(0, abs=1e-9)
    best = frame.loc[frame["energy"].idxmin()]
    assert best["scheme"] == "equilibrium, no floor"
    assert best["rectification"] == pytest.approx(1)


def test_several_bandwidths_are_one_mean_kernel(long_tailed, tmp_path):
    result = frontier(long_tailed.density, tmp_path / "f", methods=["natural", "inverse-density"])
    assert result.t == list(LADDER)
    assert "schemes at t=0.5,1,2,4,8\n" in result.summary()
    natural, inverse = result.table.to_pylist()
    excess = 1 - np.clip(long_tailed.x @ long_tailed.x.T, -1, 1)
    kernel = np.mean([np.exp(-2 * t * excess) for t in LADDER], axis=0)
    n, p = len(kernel), 1 / kernel.mean(axis=1)
    p /= p.sum()
    assert natural["t"] is None
    assert natural["energy"] == pytest.approx(kernel.mean(), rel=1e-5)
    assert natural["uniformity"] == pytest.approx(np.log((kernel.sum() - n) / n / (n - 1)), rel=1e-5)
    null = np.log(np.mean([np.exp(log_null(16, t)) for t in LADDER]))
    assert natural["null"] == pytest.approx(null)
    assert natural["excess"] == pytest.approx(natural["uniformity"] - null)
    assert natural["effective_distinct"] == pytest.approx(1 / kernel.mean(), rel=1e-5)
    assert inverse["energy"] == pytest.approx(p @ kernel @ p, rel=1e-5)
    chosen = frontier(long_tailed.density, tmp_path / "c", t="chosen", methods=["natural"])
    assert chosen.t == chosen.table.to_pylist()[0]["t"] == long_tailed.t


def test_everything_lands_on_disk_once(long_tailed, tmp_path):
    first = frontier(long_tailed.density, tmp_path / "f", floors=[0, 0.8], methods=["natural", "equilibrium"])
    for name in ("frontier.parquet", "frontier.png", "frontier.svg", "run.json"):
        assert (tmp_path / "f" / name).stat().st_size > 200
    assert "equilibrium (frontier of D)</text>" in (tmp_path / "f" / "frontier.svg").read_text()
    stored = pd.read_parquet(tmp_path / "f" / "frontier.parquet")
    assert stored["scheme"].tolist() == first.table.column("scheme").to_pylist()
    assert len(stored) in (2, 3)  # a floor that does not bind is the same point as none
    assert stored.attrs["kdbias"]["stage"] == "frontier"
    again = frontier(long_tailed.density, tmp_path / "f", floors=[0, 0.8], methods=["natural", "equilibrium"])
    assert (first.state, again.state) == ("new", "finished")
    assert again.table.to_pylist() == first.table.to_pylist()
    assert "natural" in again.summary()
    with pytest.raises(ConfigChangedError, match="t:"):
        frontier(
            long_tailed.density, tmp_path / "f", t=2.0, floors=[0, 0.8], methods=["natural", "equilibrium"]
        )


def test_a_further_scheme_refuses_no_earlier_frontier(long_tailed, tmp_path, monkeypatch):
    def state(name, **options):
        return frontier(long_tailed.density, tmp_path / name, **options).state

    assert [state("all"), state("two", methods=["natural", "hard"])] == ["new", "new"]
    record = read_record(tmp_path / "all")
    assert record["config"]["methods"] is None
    old = record["config"] | {
        "methods": [name for name in SCHEMES if name != "matched"]
    }  # as it was written where none were chosen
    del old["tolerance"]
    write_json(shutil.copytree(tmp_path / "all", tmp_path / "old") / "run.json", record | {"config": old})
    monkeypatch.setitem(SCHEMES, "further", Natural)
    assert [state(name) for name in ("all", "old")] == ["finished"] * 2
    with pytest.raises(ConfigChangedError, match=r"\(methods: None -> \['natural', 'hard'\]\)"):
        state("all", methods=["natural", "hard"])
    with pytest.raises(ConfigChangedError, match=r"\(methods: \['natural', 'hard'\] -> None\)"):
        state("two")
    with pytest.raises(ConfigChangedError, match=r"\(tolerance: 0.001 -> 0.1\)"):
        state("old", tolerance=0.1)


def test_schemes_that_need_labels_are_skipped_with_the_reason(measure, tmp_path):
    data = measure(np.random.default_rng(0).normal(size=(30, 5)))
    result = frontier(data.density, tmp_path / "f")
    assert set(result.skipped) == {"class-balanced", "effective-number", "hard"}
    assert "has no labels" in result.skipped["hard"]
    assert "without class-balanced, effective-number, hard: method class-balanced needs" in result.summary()


def test_what_is_skipped_for_another_reason_has_a_line_of_its_own(measure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    data = measure(np.random.default_rng(0).normal(size=(30, 5)))
    lines = frontier(data.density, tmp_path / "f").summary().splitlines()
    said = [line.partition(":")[0] for line in lines if line.startswith("without")]
    assert said == ["without class-balanced, effective-number, hard", "without cluster-balanced"]


def test_copies_count_towards_uniformity_but_not_the_equilibrium(measure, tmp_path):
    x = np.random.default_rng(1).normal(size=(20, 4))
    data = measure(np.concatenate([x, x[:5]]), t=1.0)
    result = frontier(data.density, tmp_path / "f", t=1, methods=["natural", "equilibrium"], floors=[0])
    natural, best = sorted(result.table.to_pylist(), key=lambda row: row["method"] == "equilibrium")
    kernel = data.kernel
    assert natural["energy"] == pytest.approx(kernel.mean(), rel=1e-5)
    assert natural["uniformity"] == pytest.approx(np.log((kernel.sum() - 25) / 25 / 24), rel=1e-4)
    assert best["energy"] < natural["energy"]


def test_bad_options_are_refused(long_tailed, tmp_path):
    with pytest.raises(KdbiasError, match="methods is 'best', should be one of natural"):
        frontier(long_tailed.density, tmp_path / "f", methods=["best"])
    with pytest.raises(KdbiasError, match="floors is 2, should be at most 1"):
        frontier(long_tailed.density, tmp_path / "f", floors=[2])
    with pytest.raises(KdbiasError, match="t 0 is not a bandwidth"):
        frontier(long_tailed.density, tmp_path / "f", t=0)
    with pytest.raises(KdbiasError, match="tolerance is nan, should be finite"):
        frontier(long_tailed.density, tmp_path / "f", tolerance=float("nan"))


@pytest.mark.parametrize("name", ["front.parquet", "front.png"])
def test_a_file_name_makes_no_folder(long_tailed, tmp_path, name):
    with pytest.raises(KdbiasError, match=r"a frontier is a folder, .*; name a folder, such as .*/front$"):
        frontier(long_tailed.density, tmp_path / name)
    assert not (tmp_path / name).exists()
