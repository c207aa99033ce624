"""A tiny data set with its teacher and weights, and the trainer on it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kdbias.networks.saved import load_network
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.weight_manifest import write_manifest
from kdbias.training.record import Meter, Record
from kdbias.training.result import TrainingResult
from kdbias.training.stage import train

CLASSES, DIM, ROWS, KEPT = 3, 6, 60, 45


class Stopped(BaseException):
    pass


@dataclass
class Lab:
    """60 noisy 16x16 pictures of three bright corners, a teacher that knows them, and weights for 45.

    Data, embeddings and weights stand in three different orders. `ids` and `labels` are the data's.
    """

    folder: Path
    ids: list[str]
    labels: list[str]

    @property
    def data(self) -> Path:
        return self.folder / "data.parquet"

    def options(self, **changed: Any) -> dict[str, Any]:
        defaults = {
            "embeddings": str(self.folder / "emb"),
            "weights": str(self.folder / "w.parquet"),
            "epochs": 4,
            "batch_size": 16,
            "lr": 0.05,
            "device": "cpu",
            "threads": 1,
        }
        return {**defaults, **changed}

    def run(self, out: Path, **changed: Any) -> TrainingResult:
        return train(self.data, out, **self.options(**changed))

    def break_off(self, step: int, out: Path, **changed: Any) -> None:
        """Run as far as this step, whose checkpoint is the last thing written."""
        save = Record.save

        def save_and_stop(record: Record, learned: Any, sampler: Any, meter: Meter) -> None:
            save(record, learned, sampler, meter)
            if meter.step == step:
                raise Stopped

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Record, "save", save_and_stop)
            with pytest.raises(Stopped):
                self.run(out, checkpoint_seconds=0, **changed)

    @staticmethod
    def metrics(out: Path) -> list[dict[str, float]]:
        with open(out / "metrics.csv") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]

    def timeless(self, out: Path) -> list[list[float]]:
        """The metrics that do not depend on the clock."""
        kept = ("epoch", "step", "loss", "lr", "unique_fraction", "ess_fraction")
        return [[row[k] for k in kept] for row in self.metrics(out)]

    @staticmethod
    def student(out: Path) -> dict[str, torch.Tensor]:
        return load_network(out)[0].state_dict()

    def same(self, a: Path, b: Path) -> bool:
        """Whether two runs ended with the very same student."""
        one, other = self.student(a), self.student(b)
        return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    ids, labels = [f"s{i:03d}" for i in range(ROWS)], [f"class-{i % CLASSES}" for i in range(ROWS)]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (ROWS, 16, 16)).astype(np.uint8)
    corners = [(slice(0, 8), slice(0, 8)), (slice(0, 8), slice(8, 16)), (slice(8, 16), slice(0, 8))]
    for i in range(ROWS):
        images[i][corners[i % CLASSES]] += 150
    pq.write_table(
        pa.table({"sample_id": ids, "label": labels, "image": [png(i) for i in images]}),
        folder / "data.parquet",
    )
    directions = np.eye(DIM)[:CLASSES] + 0.1
    vectors = directions[np.arange(ROWS) % CLASSES] + 0.05 * rng.normal(size=(ROWS, DIM))
    vectors *= rng.uniform(1, 3, (ROWS, 1))
    order = rng.permutation(ROWS)
    write_embedding_table(
        folder / "emb", pa.array(ids).take(pa.array(order)), vectors[order].astype(np.float32)
    )
    kept = rng.permutation(ROWS)[:KEPT]
    weights = np.where(kept % CLASSES == 0, 1.0, 3.0)
    write_manifest(
        folder / "w.parquet", pa.array(ids).take(pa.array(kept)), None, {}, np.zeros(KEPT), weights, {}
    )
    return Lab(folder, ids, labels)
