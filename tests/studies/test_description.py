"""A study's file is checked before anything runs; which samples a bias keeps."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdbias.errors import KdbiasError
from kdbias.studies.biases import Bias
from kdbias.studies.draws import draw
from kdbias.studies.settings import read_study

ROOT = Path(__file__).parents[2]


def bias_of(**given):
    return Bias.of(given, "x")


def test_reads_what_is_written(tiny, tmp_path):
    study = read_study(tiny.write(tmp_path / "s.toml"))
    data = study.data["digits"]
    assert study.rounds["screen"].seeds == (0, 1)
    assert data.bias["tail"].chosen.imbalance == 5
    assert study.arms["equilibrium"].manifest == {"method": "equilibrium", "min_ess": 0.5}
    assert [judge.name for judge in data.judge.values() if judge.in_teacher_space] == ["knn", "fidelity"]


def test_the_studies_of_the_benchmarks_and_of_the_docs_are_read(tmp_path):
    names = {path.stem: read_study(path).name for path in (ROOT / "benchmarks/studies").glob("*.toml")}
    assert names == {"cpu": "cpu", "gpu": "gpu", "towards": "towards"}
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/studies.md").read_text(), re.DOTALL)
    (tmp_path / "example.toml").write_text(example)
    assert read_study(tmp_path / "example.toml").name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "tiny"',
            "nmae = 1",
            r"unknown key nmae; did you mean 'name'\?; known: name, arms, data",
        ),
        ("scratch = true", "scratsh = true", r"arms\.scratch: unknown key scratsh"),
        ("scratch = true", "scratch = 1", r"arms\.scratch: scratch is 1, should be true or false"),
        ("steps = 4", "step = 4", r"data\.digits: unknown key step"),
        ("steps = 4", 'steps = "4"', r"data\.digits: steps is '4', should be a whole number"),
        ("steps = 4\n", "", r"data\.digits: steps is missing"),
        ("imbalance = 5", "imbalanse = 5", r"bias\.tail: unknown key imbalanse"),
        ("seed = 9", "seed = 0", r"tune\.seed: 0 is a seed of a round"),
        ('bias = "tail"', 'bias = "head"', r"tune\.bias: there is no 'head'"),
        ("[arms.natural]\n", "[arms.plain]\n", r"needs an arm named natural"),
        ('primary = ["knn.', 'primary = ["nkn.', r"primary: 'nkn\..*should be JUDGE\.METRIC"),
        (
            'primary = ["knn.centroid_balanced_accuracy", "fidelity.distance", "own.knn_accuracy"]',
            "primary = []",
            r"primary is empty, should name JUDGE\.METRIC; judges: knn, own, fidelity",
        ),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"should be different whole numbers"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\narms = ["x"]', r"rounds\.screen\.arms: there is no 'x'"),
        ("[arms.scratch]", '[arms."a/b"]', r"'a/b' is no name"),
        ('test_where = ["split=test"]\n', "", r"say what the students are judged on"),
        ("[data.digits.train_teacher]", "[data.digits.x]", r"unknown key x"),
        ('name = "tiny"', "name = ", r"not a TOML file"),
    ],
)
def test_mistakes_are_named_in_one_line(tiny, tmp_path, old, new, message):
    with pytest.raises(KdbiasError, match=message) as caught:
        read_study(tiny.write(tmp_path / "s.toml", (old, new)))
    assert "\n" not in str(caught.value)


def test_a_long_tail_has_the_sizes_of_its_formula():
    labels = pa.array(np.repeat(list("abc"), 100), pa.large_string())
    kept = draw(bias_of(kind="long-tail", imbalance=25), labels, None, 300, "x")
    sizes = np.bincount(kept // 100)
    assert sorted(sizes) == [4, 20, 100]  # 100 * 25^(-c/2)
    assert (np.diff(kept) > 0).all()
    smaller = draw(bias_of(kind="long-tail", imbalance=25, samples=50), labels, None, 300, "x")
    assert sorted(np.bincount(smaller // 100)) == [2, 10, 50]


def test_a_skew_has_its_share():
    column = pa.array(["w"] * 60 + ["b"] * 30 + [None] * 10)
    bias = bias_of(kind="skew", column="c", value="b", share=0.8, samples=30, seed=3)
    kept = draw(bias, None, column, 100, "x")
    assert len(kept) == 30
    assert ((kept >= 60) & (kept < 90)).sum() == 24
    assert (kept == draw(bias, None, column, 100, "x")).all()
    other = bias_of(kind="skew", column="c", value="b", share=0.8, samples=30, seed=4)
    assert (kept != draw(other, None, column, 100, "x")).any()
    assert bias.draw["value"] == "b"  # as when there could be one only, so that folders keep their names
    several = bias_of(kind="skew", column="c", value=["b", "w"], share=0.8, samples=25)
    kept = draw(several, None, column, 100, "x")
    assert ((kept < 90).sum(), (kept >= 90).sum()) == (20, 5)


def test_people_of_a_long_tail_have_what_there_is():
    labels = pa.array(np.repeat(list("abcd"), [2, 50, 50, 50]), pa.large_string())
    bias = bias_of(kind="long-tail", imbalance=8, samples=40, capped=True)
    sizes = np.bincount(np.digitize(draw(bias, labels, None, 152, "x"), [2, 52, 102]), minlength=4)
    asked = [40, 20, 10, 5]
    assert sizes[0] == 2  # fewer than its place asks for
    assert sorted(sizes[1:]) in ([sorted(asked[:i] + asked[i + 1 :]) for i in range(4)])
    assert "capped" not in bias_of(kind="long-tail", imbalance=8, samples=40).draw
    with pytest.raises(KdbiasError, match="x: capped needs samples"):
        bias_of(kind="long-tail", imbalance=8, capped=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "fat-tail"}, "x: unknown kind 'fat-tail'"),
        ({"kind": "skew", "column": "c", "value": "b", "share": 0.8}, "x: samples is missing"),
        (
            {"kind": "skew", "column": "c", "value": "b", "share": 1, "samples": 9},
            "x: share is 1, should be below 1",
        ),
        (
            {"kind": "skew", "column": "c", "value": "b", "share": 0.9, "samples": 50},
            "x: asks for 45 samples with c=b; there are 30",
        ),
        ({"kind": "long-tail", "imbalance": 0.5}, "x: imbalance is 0.5, should be at least 1"),
        (
            {"kind": "long-tail", "imbalance": 5, "samples": 99},
            "99 samples of the largest class; there are 30",
        ),
        ({"imbalance": 50, "samples": 30}, "x: kind none has no option imbalance, samples"),
        ({"kind": "fraction"}, "x: kind fraction needs fraction or samples"),
        ({"kind": "fraction", "samples": 91}, "91 samples; there are 90"),
    ],
)
def test_impossible_draws_are_refused(given, message):
    column = pa.array(["w"] * 60 + ["b"] * 30)
    with pytest.raises(KdbiasError, match=message):
        draw(bias_of(**given), column.cast(pa.large_string()), column, 90, "x")
