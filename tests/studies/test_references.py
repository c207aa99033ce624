"""Samples that are kept for references: whose they are, and that arms and folders go by what they hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import decode_image
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.studies.biases import Reference
from kdbias.studies.cases import Case, build_case
from kdbias.studies.plan import Plan
from kdbias.studies.preparation import Prepared, locate, measure_all, prepare
from kdbias.studies.runs import RunPlan
from kdbias.studies.samples import PART, ReferenceTable, parts_of
from kdbias.studies.settings import Machine, Study, read_study
from kdbias.studies.stage import study
from kdbias.tables.embedding_table import EmbeddingTable

CPU = Machine("cpu", 1)
RESERVE = ('test_where = ["split=test"]', 'test_where = ["split=test"]\nreserve = 0.4')
REFERENCES = """
[data.digits.reference.main]
samples = 20
[data.digits.reference.few]
samples = 8
[data.digits.reference.rest]
skip = 20
[data.digits.reference.wrong]
where = ["label!=3"]
"""
COPIES = "[data.digits.copies]\noriginals = 6\neach = 5\n"
JUDGES = "[data.digits.judge.knn]"
BURSTS = """
[data.digits.bias.bursts]
kind = "skew"
column = "study_part"
value = "copy"
share = 0.25
samples = 80
"""


def described(tiny, tmp_path, *changes: tuple[str, str]) -> Study:
    return read_study(tiny.write(tmp_path / "study.toml", *changes))


def ids(path: Path) -> list[str]:
    return EmbeddingTable.open(path).ids().to_pylist()


@pytest.fixture(scope="module")
def prepared(tiny, tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    wanted = described(tiny, folder, RESERVE, (JUDGES, REFERENCES + COPIES + BURSTS + JUDGES))
    found = locate(wanted.data["digits"], folder / "out")
    prepare(found, CPU)
    measure_all(found, CPU)
    return found


def test_what_is_reserved_is_neither_trained_on_nor_judged(tiny, prepared):
    source = open_data(str(tiny.source))
    test = {
        i
        for i, s in zip(source.ids.to_pylist(), source.column("split").to_pylist(), strict=True)
        if s == "test"
    }
    table = EmbeddingTable.open(prepared.table)
    parts = dict(zip(table.ids().to_pylist(), table.column(PART).to_pylist(), strict=True))
    reserved = set(ids(prepared.reserve))
    assert len(reserved) == round(0.4 * len(test))
    assert reserved < test
    assert {i for i, part in parts.items() if part == "test"} == test - reserved
    assert not reserved & parts.keys()


def test_smaller_references_are_part_of_larger_ones(prepared):
    found = {name: set(ids(reference.folder)) for name, reference in prepared.references.items()}
    assert (len(found["main"]), len(found["few"])) == (20, 8)
    assert found["few"] < found["main"]
    assert not found["rest"] & found["main"]
    assert found["rest"] | found["main"] == set(ids(prepared.reserve))
    wrong = EmbeddingTable.open(prepared.references["wrong"].folder)
    assert set(wrong.labels().to_pylist()) == set("012456789")


def test_copies_look_like_their_originals_and_only_bursts_draw_them(prepared):
    table = pq.read_table(prepared.folder / "prepared.parquet")
    pixels = {row["sample_id"]: decode_image(row["image"]).astype(int)[:, :, 0] for row in table.to_pylist()}
    copies = [row["sample_id"] for row in table.to_pylist() if row[PART] == "copy"]
    assert len(copies) == 6 * 5
    assert len({name.partition("-copy")[0] for name in copies}) == 6
    for name in copies:
        off = np.abs(pixels[name] - pixels[name.rpartition("-copy")[0]]).mean()
        assert 0 < off < 40
    with_copies = {bias.name: Case(prepared, bias) for bias in prepared.data.bias.values()}
    for case in with_copies.values():
        build_case(
            replace(case, prepared=replace(prepared, data=replace(prepared.data, reference={}))), [], CPU
        )
    assert len(set(ids(with_copies["bursts"].draw)) & set(copies)) == 20
    assert len(ids(with_copies["bursts"].draw)) == 80
    assert not set(ids(with_copies["tail"].draw)) & set(copies)


def test_people_are_reserved_as_a_whole(tiny, tmp_path):
    by = (RESERVE[0], RESERVE[1] + '\nreserve_by = "label"')
    data = described(tiny, tmp_path, by).data["digits"]
    source = open_data(str(tiny.source))
    part, labels = parts_of(source, data), np.array(source.labels.to_pylist())
    assert len(np.unique(labels[part == "reserve"])) == 4
    assert not set(labels[part == "reserve"]) & set(labels[part == "test"])
    split = np.array(source.column("split").to_pylist())
    assert set(part[split == "test"]) == {"test", "reserve"}
    more = replace(data, reference_where=("split=copy",))  # ones, which are tested
    with pytest.raises(
        KdbiasError, match="1 value of label would be in the test samples and in the references"
    ):
        parts_of(source, replace(more, train_where=("split=train",)))
    with pytest.raises(KdbiasError, match=r"data\.digits: 8 samples are both train and reserve"):
        parts_of(source, replace(more, train_where=("split!=test",)))


def test_a_reference_that_is_larger_than_what_is_reserved_is_refused(prepared, tmp_path):
    wanted = Reference.of({"samples": 41}, "data.digits.reference.x")
    with pytest.raises(KdbiasError, match=r"reference\.x: asks for 41 reserved samples; there are 40"):
        ReferenceTable(tmp_path / "x", prepared.reserve, wanted).write()


ARM = (
    "[arms.scratch]",
    '[arms.matched]\nweights = { towards = "@reference", min_ess = 0.3 }\n[arms.scratch]',
)
ONE = "[data.digits.reference.main]\nsamples = 20\n"


def run_of(tiny, tmp_path, *changes: tuple[str, str]) -> RunPlan:
    plan = Plan(described(tiny, tmp_path, RESERVE, ARM, *changes), tmp_path / "out", CPU)
    (case,) = plan.cases.values()
    tiny.write_draw(case)
    return RunPlan(plan.out, case, plan.study.arms["matched"], 0, None, CPU)


def test_an_arm_is_named_after_what_its_reference_holds(tiny, tmp_path):
    first = run_of(tiny, tmp_path, (JUDGES, ONE + JUDGES))
    renamed = run_of(tiny, tmp_path, (JUDGES, ONE.replace("main", "other") + JUDGES))
    larger = run_of(tiny, tmp_path, (JUDGES, ONE.replace("20", "21") + JUDGES))
    reserved = run_of(tiny, tmp_path, ("reserve = 0.4", "reserve = 0.5"), (JUDGES, ONE + JUDGES))
    assert renamed.folder == first.folder
    assert renamed.case.manifest(renamed.arm) == first.case.manifest(first.arm)
    assert len({run.folder for run in (first, larger, reserved)}) == 3
    assert len({run.case.manifest(run.arm) for run in (first, larger, reserved)}) == 3
    assert len({run.case.compared for run in (first, larger, reserved)}) == 3
    assert first.case.options(first.arm) == {
        "method": "matched",
        "towards": str(first.case.prepared.references["main"].folder),
        "min_ess": 0.3,
    }


def test_a_reference_may_be_of_another_data_set(tiny, tmp_path):
    other = tiny.text[tiny.text.index("[data.digits]") :].replace("data.digits", "data.others")
    other = other.replace("steps = 4", 'steps = 4\narms = ["natural"]')
    wanted = ONE + 'source = "others"\nwhere = ["study_part=test"]\n'
    runs = [
        run_of_two(tiny, tmp_path, wanted, other.replace("image_size = 12", f"image_size = {size}"))
        for size in (12, 14)
    ]
    (source,) = runs[0].case.prepared.sources
    assert source.data.name == "others"
    assert runs[0].case.prepared.references["main"].source == source.table
    assert runs[0].case.prepared.key == runs[1].case.prepared.key
    assert runs[0].folder != runs[1].folder  # the reference holds something else


def run_of_two(tiny, tmp_path, wanted: str, other: str) -> RunPlan:
    file = tiny.write(tmp_path / "study.toml", ARM, (JUDGES, wanted + JUDGES))
    file.write_text(file.read_text() + other)
    plan = Plan(read_study(file), tmp_path / "out", CPU)
    case = plan.cases["digits/tail"]
    tiny.write_draw(case)
    return RunPlan(plan.out, case, plan.study.arms["matched"], 0, None, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([ARM], r"arms\.matched: @reference: data\.digits has no such reference; it has: none"),
        (
            [ARM, RESERVE, (JUDGES, ONE + JUDGES), ('"@reference"', '"@reference:mine"')],
            r"arms\.matched: @reference:mine: data\.digits has no such reference; it has: main",
        ),
        ([(JUDGES, ONE + JUDGES)], r"reference\.main: there is nothing to draw from; give reserve or"),
        ([ARM, ('"@reference"', '"some/folder"')], r"towards 'some/folder' should be @reference, @ref"),
        ([ARM, ('"@reference"', '"balanced:label@shares.csv"')], r"arms\.matched: towards 'balanced:lab"),
        ([(JUDGES, ONE + 'source = "digits"\n' + JUDGES)], r"digits\.reference: there is no 'digits'"),
        ([RESERVE, ("image_size = 12\n", "")], r"reserve, reference_where and copies need image_size"),
        ([(RESERVE[0], RESERVE[0] + '\nreserve_by = "label"')], r"reserve_by goes with reserve or"),
        ([("k = 8", 'k = 8, towards = "x"')], r"data\.digits\.measure: towards 'x' should be @reference"),
    ],
)
def test_references_that_are_not_there_are_refused_before_anything_runs(tiny, tmp_path, changes, message):
    with pytest.raises(KdbiasError, match=message) as caught:
        described(tiny, tmp_path, *changes)
    assert "\n" not in str(caught.value)


def test_what_an_arm_needs(tiny, tmp_path):
    arms = described(tiny, tmp_path, RESERVE, ARM, (JUDGES, ONE + JUDGES)).arms
    assert {name: arm.needs for name, arm in arms.items()} == {
        "natural": "nothing",
        "equilibrium": "nothing",
        "matched": "a reference",
        "scratch": "labels",
    }
    balanced = replace(arms["matched"], weights={"towards": "balanced:label"})
    assert balanced.needs == "labels"
    assert replace(balanced, weights={"towards": "@reference", "with_column": "cam"}).needs == "labels"


MATCHED = """
[arms.matched]
weights = { towards = "@reference", min_ess = 0.3 }
[arms.wrong]
weights = { towards = "@reference:wrong", min_ess = 0.3 }
"""
BOTH = """
[data.digits.reference.main]
[data.digits.reference.wrong]
source = "others"
where = ["label=7", "study_part=train"]
"""


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> Path:
    """A study with one arm that is matched, to images of another data set by the same teacher."""
    folder = tmp_path_factory.mktemp("matched")
    other = tiny.text[tiny.text.index("[data.digits]") :].replace("data.digits", "data.others")
    other = other.replace("steps = 4", 'steps = 4\narms = ["natural"]')
    file = tiny.write(
        folder / "study.toml",
        (RESERVE[0], RESERVE[1].replace("0.4", "0.8")),
        ("imbalance = 5", "imbalance = 40"),
        ("epochs = 2", "epochs = 6"),
        ("[arms.scratch]\nscratch = true", MATCHED),
        ("seeds = [0, 1]", 'seeds = [0, 1]\ncases = ["digits/tail"]'),
        (JUDGES, BOTH + JUDGES),
    )
    file.write_text(file.read_text() + other)
    study(file, folder / "out", device="cpu")
    return folder / "out"


def test_arms_are_measured_against_the_first_reference(finished):
    table = pd.read_parquet(finished / "results.parquet").drop_duplicates("arm").set_index("arm")
    assert list(table.index) == ["natural", "equilibrium", "matched", "wrong"]
    assert table.removed["natural"] == 0
    assert 0.5 < table.removed["matched"] <= 1
    assert table.discrepancy.idxmin() == "matched"
    assert table.discrepancy["wrong"] > table.discrepancy["matched"]
    assert table.bound.isna().to_dict() == {
        "natural": True,
        "equilibrium": True,
        "matched": False,
        "wrong": False,
    }
    assert table.bound["matched"] in ("noise", "floor")


def test_the_tables_say_what_bound_an_arm_and_whose_regret_is_least(finished):
    text = (finished / "results.md").read_text()
    assert "| rectified | MMD² | removed | bound |" in text
    assert "| matched | a reference |" in text
    assert "the rule chooses" not in text  # two seeds are too few to tell
