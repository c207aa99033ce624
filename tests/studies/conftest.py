"""A study of a few dozen digits that runs in seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import decode_image
from kdbias.data.opening import open_data
from kdbias.demonstration.digits import write_digits
from kdbias.embedding.stage import embed
from kdbias.studies.cases import Case
from kdbias.studies.results import Outline, Row, write_results
from kdbias.studies.stage import STAGE
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.run_record import Run

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


@dataclass(frozen=True)
class Deployed:
    """Digits cut to a long tail, and even ones of other samples: data, and embeddings by blurred pixels."""

    folder: Path

    @property
    def data(self) -> str:
        return str(self.folder / "biased.parquet")

    @property
    def embeddings(self) -> str:
        return str(self.folder / "emb")

    @property
    def reference_data(self) -> str:
        return str(self.folder / "deployed.parquet")

    @property
    def reference(self) -> str:
        return str(self.folder / "ref")


@pytest.fixture(scope="session")
def deployed(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    found = Deployed(tmp_path_factory.mktemp("deployed"))
    digits = pq.read_table(tiny.source).drop_columns(["split", "frequency"])
    held_out = pc.equal(pq.read_table(tiny.source)["split"], "test")
    pq.write_table(digits.filter(pc.field("biased")).drop_columns(["biased"]), found.data)
    pq.write_table(digits.filter(held_out).drop_columns(["biased"]), found.reference_data)
    for data, out in ((found.data, found.embeddings), (found.reference_data, found.reference)):
        source = open_data(data)
        pixels = np.stack([decode_image(source.read(row), "L") for row in range(source.n)])
        blurred = pixels.reshape(source.n, 7, 4, 7, 4).mean((2, 4)).reshape(source.n, 49)
        vectors = found.folder / f"{Path(data).stem}.npz"
        np.savez(vectors, embedding=blurred.astype("f4"), sample_id=np.array(source.ids.to_pylist()))
        embed(data, out, teacher=f"precomputed:{vectors}")
    return found


def write_study(
    folder: Path, values: Mapping[str, Sequence[Mapping[str, float]]], name: str = "made", missing: int = 0
) -> Path:
    """A finished study's folder, of arm -> for each seed metric -> value; less of each is better."""
    rows = []
    for arm, seeds in values.items():
        for seed, metrics in enumerate(seeds):
            facts = {
                **{"uniformity": -1.0, "effective_distinct": 5.0 + len(arm), "ess_share": 1.0, "t": 2.0},
                **{"steps": 10, "samples": 100, "batch_size": 8, "student": "convnet", "lr": 0.1},
                **{"sampling": "systematic", "method": arm, "draw": "d"},
            }
            lower = dict.fromkeys(metrics, True)
            rows.append(Row("pilot", name, "none", arm, seed, False, facts, dict(metrics), lower))
    outline = Outline(
        ("pilot",), (f"{name}/none",), dict.fromkeys(values, "nothing"), {name: ("fidelity.distance",)}
    )
    run = Run.open(folder, STAGE, {"name": name}, {})
    counts = {"planned": len(rows) + missing, "finished": len(rows), "missing": missing}
    document = {"name": name, "command": "kdbias study", **counts, "failed": {}, "learning_rates": {}}
    write_results(folder, rows, document)
    write_json(folder / "study.json", document | {"outline": outline.document})
    run.finish({"runs": len(rows)}, 1.0)
    return folder
