"""What a study's folders are named after, and what its teachers are shown."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbias import embed
from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.studies.plan import Plan
from kdbias.studies.preparation import locate, prepare
from kdbias.studies.runs import RunPlan
from kdbias.studies.settings import Machine, read_study
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align

CPU = Machine("cpu", 1)
TRAINED = """
[data.digits.train_teacher]
loss = "softmax"
dim = 8
epochs = 2
batch_size = 32
optimizer = "adamw"
"""
PIXELS = """
import numpy as np

class Pixels:
    preprocessing = {"size": [28, 28], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Pixels()
"""
PAIRS = """
[data.digits.judge.pairs]
protocol = "verification"
options = { pairs = "PAIRS" }
"""


@pytest.fixture
def stored(tiny, tmp_path) -> Path:
    """The study with stored vectors as its teacher (vectors.npy) and a judge of pairs (pairs.csv)."""
    source = open_data(str(tiny.source))
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(source.n, 8)).astype("f4"))
    first, second = source.ids[0].as_py(), source.ids[1].as_py()
    (tmp_path / "pairs.csv").write_text(f"first,second,same\n{first},{second},1\n")
    teacher = f'teacher = "precomputed:{tmp_path / "vectors.npy"}"\nsteps = 4'
    judge = PAIRS.replace("PAIRS", str(tmp_path / "pairs.csv"))
    return tiny.write(tmp_path / "study.toml", (TRAINED, judge), ("steps = 4", teacher))


def one_run(tiny: Any, description: Path, out: Path) -> RunPlan:
    """A run of the study as it would be named now."""
    plan = Plan(read_study(description), out, CPU)
    (case,) = plan.cases.values()
    tiny.write_draw(case)
    return RunPlan(out, case, plan.study.arms["natural"], 0, None, CPU)


def test_another_teacher_in_the_same_file_is_another_study(tiny, stored, tmp_path):
    before = one_run(tiny, stored, tmp_path / "out")
    vectors = np.load(tmp_path / "vectors.npy")
    np.save(tmp_path / "vectors.npy", vectors[::-1])
    assert one_run(tiny, stored, tmp_path / "out").folder != before.folder
    np.save(tmp_path / "vectors.npy", vectors)
    assert one_run(tiny, stored, tmp_path / "out").folder == before.folder


def test_a_teacher_may_move(tiny, stored, tmp_path):
    before = one_run(tiny, stored, tmp_path / "out")
    shutil.move(tmp_path / "vectors.npy", tmp_path / "moved.npy")
    stored.write_text(stored.read_text().replace("vectors.npy", "moved.npy"))
    assert one_run(tiny, stored, tmp_path / "out").folder == before.folder


def test_other_pairs_in_the_same_file_are_judged_anew(tiny, stored, tmp_path):
    before = one_run(tiny, stored, tmp_path / "out")
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "a,b,0"]) + "\n")
    after = one_run(tiny, stored, tmp_path / "out")
    assert after.folder == before.folder  # the student is the same
    assert after.result != before.result
    scores = [{step.output for step in run.steps() if step.stage == "evaluate"} for run in (before, after)]
    assert len(scores[0] & scores[1]) == 3  # knn, own and fidelity stand


def test_a_judges_missing_file_is_named_before_anything_runs(stored, tmp_path):
    (tmp_path / "pairs.csv").unlink()
    with pytest.raises(KdbiasError, match=r"pairs\.csv: no such file"):
        locate(read_study(stored).data["digits"], tmp_path / "out")


@pytest.mark.parametrize("trained", [False, True])
def test_a_teacher_sees_the_source_unless_the_study_trained_it(tiny, tmp_path, trained):
    changes = [("image_size = 12", "image_size = 8")]
    if not trained:
        (tmp_path / "pixels.py").write_text(PIXELS)
        spec = f"python:{tmp_path / 'pixels.py'}:factory"
        changes += [(TRAINED, "\n"), ("steps = 4", f'teacher = "{spec}"\nsteps = 4')]
    description = read_study(tiny.write(tmp_path / "study.toml", *changes))
    prepared = locate(description.data["digits"], tmp_path / "out")
    prepare(prepared, CPU)
    images = prepared.images if trained else prepared.source
    embed(images, tmp_path / "own", teacher=prepared.teacher, device="cpu")
    expected, found = EmbeddingTable.open(tmp_path / "own"), EmbeddingTable.open(prepared.table)
    vectors = expected.vectors()[align(found.ids(), expected.ids(), "found", "expected")]
    assert np.abs(vectors - found.vectors()).max() < 2e-3
