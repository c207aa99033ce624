"""The page of a study: differences, groups, plots, and what is too little to tell."""

import re
from pathlib import Path

import pytest

from kdbias.errors import KdbiasError
from kdbias.reporting import report
from kdbias.studies.stage import STAGE
from kdbias.tables.run_record import Run
from tests.studies.conftest import write_study

GROUPS = ("", "[race=A]", "[race=<b>B</b>]")


def seeds(*values: float) -> list[dict[str, float]]:
    return [{f"fidelity.distance{group}": value for group in GROUPS} for value in values]


def page_of(folder: Path, tmp_path: Path) -> tuple[str, list[str]]:
    result = report(folder, tmp_path / "page.html")
    return result.path.read_text(encoding="utf-8"), list(result.notices)


def test_a_study_is_a_page_of_tables_and_plots(tmp_path):
    arms = {"natural": seeds(0.5, 0.52, 0.48), "matched": seeds(0.4, 0.42, 0.38)}
    page, notices = page_of(write_study(tmp_path / "study", arms), tmp_path)
    assert notices == []
    assert "Study: made" in page
    assert "-0.1000 [-0.1000, -0.1000] ▲" in page  # the difference in distance
    assert page.count("+20.0 [+20.0, +20.0] ▲") == 2  # the share removed, of both groups
    assert "race=&lt;b&gt;B&lt;/b&gt;" in page
    assert "<b>B</b>" not in page
    assert len(re.findall(r"<svg ", page)) == 3  # gains, distinct samples, groups
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded
    assert "3 seeds" in page


def test_two_seeds_and_missing_runs_are_said_first(tmp_path):
    arms = {"natural": seeds(0.5, 0.52), "matched": seeds(0.4, 0.42)}
    page, notices = page_of(write_study(tmp_path / "study", arms, missing=3), tmp_path)
    assert notices[0].endswith("study: 3 of 7 runs are missing")
    assert "2 seeds: too few to tell" in notices[1]
    assert not re.search(r"\] [▲▼]", page)


def test_a_study_of_which_nothing_is_finished_is_said_to_be_so(tmp_path):
    Run.open(tmp_path / "study", STAGE, {"name": "x"}, {})
    with pytest.raises(KdbiasError, match="nothing finished to report on"):
        report(tmp_path / "study", tmp_path / "page.html")
