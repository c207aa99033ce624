"""A study of a few dozen digits that runs in seconds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kdbias.data.opening import open_data
from kdbias.demonstration.digits import write_digits
from kdbias.studies.cases import Case
from kdbias.tables.embedding_table import write_embedding_table

TOML = """
name = "tiny"
[arms.natural]
[arms.equilibrium]
weights = { method = "equilibrium", min_ess = 0.5 }
[arms.scratch]
scratch = true
[rounds.screen]
seeds = [0, 1]
[data.digits]
source = "SOURCE"
train_where = ["split=train"]
test_where = ["split=test"]
image_size = 12
steps = 4
student = { student = "convnet", batch_size = 32, optimizer = "adamw" }
scratch = { loss = "softmax", dim = 8 }
primary = ["knn.centroid_balanced_accuracy", "fidelity.distance", "own.knn_accuracy"]
measure = { k = 8 }
[data.digits.train_teacher]
loss = "softmax"
dim = 8
epochs = 2
batch_size = 32
optimizer = "adamw"
[data.digits.tune]
lr = [0.003, 0.03, 1e30]
bias = "tail"
metric = "fidelity.distance"
scratch_metric = "own.centroid_balanced_accuracy"
seed = 9
[data.digits.bias.tail]
kind = "long-tail"
imbalance = 5
[data.digits.judge.knn]
protocol = "knn"
options = { gallery = "@teacher", gallery_where = ["study_part=train"], tail_from = "@draw" }
[data.digits.judge.own]
protocol = "knn"
options = { k = 3 }
[data.digits.judge.fidelity]
protocol = "fidelity"
options = { reference = "@teacher", density = "@density", group_by = ["label"] }
"""


@dataclass(frozen=True)
class Tiny:
    """The study's text, with its data in place."""

    source: Path
    text: str

    def write(self, file: Path, *changes: tuple[str, str]) -> Path:
        """The description with pieces of it replaced; each must be there."""
        text = self.text
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        file.write_text(text)
        return file

    def write_draw(self, case: Case) -> None:
        """A draw of all samples that is good for nothing but to be counted: runs can be named after it."""
        ids = open_data(str(self.source)).ids
        write_embedding_table(case.draw, ids, np.ones((len(ids), 2)))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    source = tmp_path_factory.mktemp("digits") / "digits.parquet"
    write_digits(
        source, limit_per_class=40, held_out_per_class=10, reference=0, head=30, tail=3, originals=2, copies=4
    )
    return Tiny(source, TOML.replace("SOURCE", str(source)))
