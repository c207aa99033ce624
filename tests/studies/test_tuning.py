"""Which learning rate is chosen, and what happens where none can be."""

from pathlib import Path
from typing import Any

import pytest

from kdbias.errors import KdbiasError
from kdbias.studies.conclusions import conclude, results_text
from kdbias.studies.plan import Plan, end_of_range
from kdbias.studies.results import Outline
from kdbias.studies.settings import Machine, read_study
from kdbias.tables.documents import write_json

METRICS = {False: "fidelity.distance", True: "own.centroid_balanced_accuracy"}


def tuned(tiny: Any, description: Path, out: Path, values: dict[bool, tuple[float | None, ...]]) -> Plan:
    """A plan whose tuning runs gave these values (None: diverged), distilled (False) and from scratch."""
    plan = Plan(read_study(description), out, Machine("cpu", 1))
    (case,) = plan.cases.values()
    tiny.write_draw(case)
    left = {scratch: list(of) for scratch, of in values.items()}
    for run in plan.tuning([case]):
        value, scratch = left[run.arm.scratch].pop(0), run.arm.scratch
        metric = {METRICS[scratch]: {"value": value, "lower_is_better": not scratch}}
        write_json(run.result, {"diverged": "inf"} if value is None else {"metrics": metric})
    return plan


@pytest.fixture
def description(tiny, tmp_path):
    return tiny.write(tmp_path / "study.toml", ("lr = [0.003, 0.03, 1e30]", "lr = [0.001, 0.01, 0.1]"))


def test_the_best_rate_of_each_kind_is_chosen(tiny, description, tmp_path):
    plan = tuned(tiny, description, tmp_path / "out", {False: (1.2, 1.1, 1.3), True: (0.5, 0.7, 0.6)})
    (case,) = plan.cases.values()
    rates = plan.rates(case)
    assert rates["natural"] == {
        "metric": "fidelity.distance",
        "lower_is_better": True,
        "tried": {"0.001": 1.2, "0.01": 1.1, "0.1": 1.3},
        "lr": 0.01,
    }
    assert (rates["scratch"]["lower_is_better"], rates["scratch"]["lr"]) == (False, 0.01)
    named, unnamed = plan.runs([case])
    assert (len(named), unnamed) == (6, 0)
    assert {run.lr for _, run in named} == {0.01}


def test_a_rate_that_diverged_is_the_worst(tiny, description, tmp_path):
    plan = tuned(tiny, description, tmp_path / "out", {False: (None, 1.3, None), True: (0.5, None, None)})
    rates = plan.rates(*plan.cases.values())
    assert rates["natural"]["tried"] == {"0.001": None, "0.01": 1.3, "0.1": None}
    assert (rates["natural"]["lr"], rates["scratch"]["lr"]) == (0.01, 0.001)


def test_arms_whose_every_rate_diverged_are_left_out_and_said(tiny, description, tmp_path):
    plan = tuned(tiny, description, tmp_path / "out", {False: (1.2, 1.1, 1.3), True: (None, None, None)})
    named, unnamed = plan.runs(plan.cases.values())
    assert {run.arm.name for _, run in named} == {"natural", "equilibrium"}
    assert unnamed == 2
    document, lines = conclude(plan, {}, "study.toml")
    assert document["failed"]["digits scratch"].startswith("every learning rate diverged (0.001, 0.01, 0.1)")
    assert any("failed: digits scratch: every learning rate diverged" in line for line in lines)


def test_a_best_rate_at_an_end_of_those_tried_is_said(tiny, description, tmp_path):
    plan = tuned(tiny, description, tmp_path / "out", {False: (1.2, 1.1, None), True: (0.5, 0.6, 0.7)})
    document, lines = conclude(plan, {}, "study.toml")
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == [
        "warning: digits scratch: the largest of the learning rates tried (0.001, 0.01, 0.1) was best; "
        "a better one may lie beyond it"
    ]
    text = results_text(Outline.of(plan.study), [], document)
    assert "0.001: 1.2000, 0.01: 1.1000, 0.1: diverged | 0.01 |" in text
    assert "| 0.1 (the largest) |" in text


@pytest.mark.parametrize(
    ("tried", "lr", "end"),
    [
        ({"0.01": 1, "0.001": 2, "0.1": 3}, 0.01, None),
        ({"0.01": 1, "0.001": 2, "0.1": 3}, 0.001, "smallest"),
        ({"0.01": None, "0.1": 3}, 0.1, "largest"),
        ({"0.01": 1}, 0.01, None),  # nothing was compared
        ({"0.01": None, "0.1": None}, None, None),
    ],
)
def test_which_end_was_chosen(tried, lr, end):
    assert end_of_range({"tried": tried, "lr": lr}) == end


def test_a_run_that_failed_otherwise_keeps_its_arms_waiting(tiny, description, tmp_path):
    plan = tuned(tiny, description, tmp_path / "out", {False: (1.2, 1.1, 1.3), True: (0.5, 0.7, 0.6)})
    (case,) = plan.cases.values()
    plan.tuning([case])[0].result.unlink()
    assert plan.rates(case) is None
    assert plan.runs([case]) == ([], 6)


def test_a_metric_that_does_not_exist_is_named(tiny, description, tmp_path):
    text = description.read_text().replace('metric = "fidelity.distance"', 'metric = "own.x"', 1)
    description.write_text(text)
    plan = tuned(tiny, description, tmp_path / "out", {False: (1.2, 1.1, 1.3), True: (0.5, 0.7, 0.6)})
    with pytest.raises(KdbiasError, match=r"data\.digits\.tune: there is no metric 'own\.x'"):
        plan.rates(*plan.cases.values())
