"""Which runs a study consists of."""

import shutil

import pytest

from kdbias.studies.plan import Plan
from kdbias.studies.runs import RunPlan
from kdbias.studies.settings import Machine, read_study


def plan_of(file, out):
    return Plan(read_study(file), out, Machine("cpu", 1))


@pytest.mark.parametrize(("cases", "count"), [("", 12), ('cases = ["digits/tail"]', 12), ("cases = []", 6)])
def test_a_round_has_its_cases_alone(tiny, tmp_path, cases, count):
    more = f"seeds = [0, 1]\n[rounds.more]\nseeds = [2, 3]\n{cases}"
    plan = plan_of(tiny.write(tmp_path / "study.toml", ("seeds = [0, 1]", more)), tmp_path / "out")
    assert plan.runs(plan.cases.values()) == ([], count)


def test_a_data_set_that_no_round_asks_for_has_no_runs(tiny, tmp_path):
    file = tiny.write(tmp_path / "study.toml", ("seeds = [0, 1]", "seeds = [0, 1]\ncases = []"))
    plan = plan_of(file, tmp_path / "out")
    (case,) = plan.cases.values()
    assert plan.needed_arms(case) == []
    assert plan.tuning([case]) == []
    assert plan.runs([case]) == ([], 0)
    tiny.write_draw(case)
    assert plan.rates(case) == {}
    assert plan.runs([case]) == ([], 0)


def test_naming_runs_opens_no_part_of_the_draw(tiny, tmp_path):
    plan = plan_of(tiny.write(tmp_path / "study.toml"), tmp_path / "out")
    (case,) = plan.cases.values()
    tiny.write_draw(case)
    for part in case.draw.glob("part-*.parquet"):
        part.unlink()
    run = RunPlan(plan.out, case, plan.study.arms["natural"], 0, None, plan.machine)
    named = run.folder, run.options
    assert run.options["steps"] == 4
    shutil.rmtree(case.draw)
    assert (run.folder, run.options) == named  # counted once
