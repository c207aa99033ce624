"""`--plan`: what a stage would take and write; nothing is done."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

import kdbias
from kdbias.cli import main
from kdbias.errors import KdbiasError
from kdbias.measurement.passes import PassPlan
from kdbias.measurement.planned import plan_uniformity
from kdbias.measurement.settings import UniformitySettings
from kdbias.planning import Planned
from kdbias.weighting.planned import plan_weights
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import human_bytes
from tests.cli.conftest import small  # noqa: F401


@pytest.fixture
def measured(small, tmp_path):  # noqa: F811
    kdbias.uniformity(small["emb"], tmp_path / "density", rectification="none")
    return {**small, "density": tmp_path / "density", "out": tmp_path / "out"}


@pytest.mark.parametrize(
    ("command", "writes"),
    [
        ("embed {data} -o {out} --teacher python:tests.pinned.teacher:factory --workers 0", "part-*.parquet"),
        ("embed {data} -o {out} --teacher precomputed:{vectors} --same-order", "part-*.parquet"),
        ("uniformity {emb} -o {out}", "density.parquet"),
        ("weights {density} -o {out}.parquet", "out.parquet"),
        ("weights {density} -o {out}.parquet --method natural", "out.parquet"),
        ("train {data} -o {out} --embeddings {emb} --epochs 3 --device cpu --workers 0", "student.pt"),
    ],
)
def test_it_says_what_it_would_take_and_writes_nothing(measured, tmp_path, command, writes):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    result = CliRunner().invoke(main, [*command.format(**measured).split(), "--plan"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"plan of kdbias {command.split()[0]}: 24 ") or "24 samples" in lines[0]
    assert lines[1].startswith("  time    ")
    assert any(writes in line for line in lines if line.startswith("  writes  "))
    assert lines[-1] == "nothing was done"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_would_be_refused_is_refused_in_a_plan(measured):
    for command, said in (
        ("uniformity {emb} -o {out} --k 24", "--k 24 neighbours"),
        ("weights {density} -o {out}.parquet --towards nowhere", "nowhere"),
        ("train {data} -o {out} --embeddings {density}", "density"),
    ):
        result = CliRunner().invoke(main, [*command.format(**measured).split(), "--plan"])
        assert result.exit_code == 2
        assert said in result.stderr


def test_time_grows_with_the_square_of_the_samples_and_memory_with_the_kernel(monkeypatch):
    for module in ("passes", "best"):  # what a tile takes here, now, is no number to test
        monkeypatch.setattr(
            f"kdbias.measurement.{module}.seconds_estimate", lambda n, d, threads: 1e-9 * n * n * d / threads
        )
    settings = UniformitySettings(rectification="none", threads=1)
    few, many = (plan_uniformity(n, 64, settings, "cpu", "out") for n in (20_000, 80_000))
    assert few.seconds == pytest.approx(25.6)
    assert many.seconds == pytest.approx(16 * few.seconds)
    searched = plan_uniformity(20_000, 64, UniformitySettings(threads=1), "cpu", "out")
    assert searched.seconds == pytest.approx(2 * 25.6 + 25 * 6e-10 * 20_000**2)
    assert few.memory > 4 * 20_000 * 64
    kept, recomputed = (
        plan_weights(n, 64, WeightsSettings.of({"memory": "1GiB", "threads": 1}), "w.parquet")
        for n in (20_000, 100_000)
    )
    assert kept.memory == pytest.approx(4 * 20_000 * 64 + 20_000**2, rel=0.1) or kept.memory > 2**29
    assert recomputed.memory == 4 * 100_000 * 64
    assert PassPlan(settings, "cpu", "x").seconds(20_000, 64) > 0


def plan_of(command):
    result = CliRunner().invoke(main, [*command.split(), "--plan"])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3,000 samples x 6, of which two blocks of 1,024 samples and one of 952 are made."""
    root = tmp_path_factory.mktemp("large")
    x = np.random.default_rng(0).normal(size=(3000, 6))
    kdbias.write_embedding_table(root / "emb", [f"s{i}" for i in range(3000)], x)
    kdbias.uniformity(root / "emb", root / "density", k=4, t=(2.0,), rectification="none", threads=1)
    return root


def test_an_estimate_in_units_says_what_it_will_take(large):
    out = large / "estimate"
    said = plan_of(f"uniformity {large}/emb -o {out} --search ivf --k 4 --block-rows 1024 --memory 256MiB")
    # A unit is a wave of samples, or several; it looks into cells of nearly all: 4 x 3,000 x 6 bytes each.
    found = re.search(
        r"3,000 samples in (\d) blocks of ([\d,]+) -> (\d) units in 1 wave, 1 at a time; (.*?) read", said
    )
    blocks, rows = int(found[1]), int(found[2].replace(",", ""))
    assert blocks == int(found[3]) == -(-3000 // rows) >= 2
    assert found[4] == human_bytes(72_000 * (blocks + 1))
    assert "about" in said
    assert not out.exists()
    whole = plan_of(f"uniformity {large}/emb -o {out} --search ivf --k 4")
    assert "in 1 block of 3,000 -> 1 unit in 1 wave, 1 at a time; 72.0 kB read, up to 0 B of temp" in whole


def test_weights_in_blocks_say_what_they_will_take(large):
    said = plan_of(f"weights {large}/density -o {large}/w.parquet --method equilibrium --block-rows 1024")
    assert "3 blocks of 1,024 -> 6 units a product, 3 products, 864.0 kB read" in said
    assert "(a timed product on" in said
    assert f"{large}/w.parquet.pairs while it runs (about" in said
    away = plan_of(f"weights {large}/density -o {large}/w.parquet --t 3 --block-rows 1024")
    assert "3 blocks of 1,024 -> 6 units a product, 1 product, 288.0 kB read" in away
    known = plan_of(f"weights {large}/density -o {large}/w.parquet --block-rows 1024")
    assert "reads the density table alone" in known  # at the bandwidth that was measured
    assert sorted(entry.name for entry in large.iterdir()) == ["density", "emb"]


def test_a_plan_for_people():
    plan = Planned("embed", "3 samples", 7200, "a timed batch", 5 * 10**9, ["a", "b"])
    assert plan.summary().splitlines() == [
        "plan of kdbias embed: 3 samples",
        "  time    about 2.0 h (a timed batch)",
        "  memory  5.0 GB at most, beside the program",
        "  writes  a, b",
        "nothing was done",
    ]
    unknown = Planned("report", "one page", None, "seconds", None, ["p.html"])
    assert "  time    seconds" in unknown.lines()
    assert [human_bytes(n) for n in (5, 1500, 2.5e6, 3e12)] == ["5 B", "1.5 kB", "2.5 MB", "3.0 TB"]


@pytest.mark.parametrize("made_before", [False, True])
def test_a_plan_has_no_rows_and_no_figure_and_not_those_of_an_earlier_run(measured, tmp_path, made_before):
    vectors = f"precomputed:{measured['vectors']}"
    calls = {
        "emb": lambda out, plan: kdbias.embed(
            measured["data"], out, teacher=vectors, same_order=True, plan=plan
        ),
        "density": lambda out, plan: kdbias.uniformity(measured["emb"], out, rectification="none", plan=plan),
        "w.parquet": lambda out, plan: kdbias.weights(measured["density"], out, method="natural", plan=plan),
    }
    for name, call in calls.items():
        if made_before:
            assert len(call(tmp_path / "at" / name, False).to_pandas()) == 24
        result = call(tmp_path / "at" / name, True)
        for ask in (result.to_pandas, result.plot):
            with pytest.raises(KdbiasError, match="only planned"):
                ask()
