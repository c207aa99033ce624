"""The shipped evidence is what the study's results say."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdbias.advice import evidence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("evidence", ROOT / "benchmarks" / "studies" / "evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_made_from_the_results_that_it_cites(script):
    folder = Path(evidence.file()).parent
    study = ROOT / "benchmarks" / "studies" / "towards.toml"
    text = script.written(script.cases(ROOT / folder, study), folder)
    assert text == (ROOT / "kdbias" / "advice" / "evidence.toml").read_text()
    assert (ROOT / evidence.file()).is_file()


def test_gains_are_paired_by_seed():
    frame = pd.read_parquet(ROOT / Path(evidence.file()).parent / "results.parquet")
    case = next(case for case in evidence.cases() if case.name == "faces/pool")
    rows = frame[(frame["round"] == "headline") & (frame["dataset"] == "faces") & (frame["bias"] == "pool")]
    rows = rows[rows["metric"] == "fidelity.distance"]
    natural, matched = (
        rows[rows["arm"] == arm].sort_values("seed")["value"].to_numpy() for arm in ("natural", "matched-50")
    )
    removed = (natural - matched) / natural.mean()
    half = 2.262157 * removed.std(ddof=1) / np.sqrt(10)  # Student's t, 9 degrees of freedom
    gain = case.gains["matched"]
    assert (gain.value, gain.seeds) == (pytest.approx(removed.mean(), abs=1e-4), 10)
    assert (gain.low, gain.high) == pytest.approx((removed.mean() - half, removed.mean() + half), abs=1e-4)
    assert gain.sign == 1
    assert gain.text == "+2.2 % [+2.1, +2.3]"
