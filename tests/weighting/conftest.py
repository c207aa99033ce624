"""Measured data sets, built in the test with obvious O(n^2) arithmetic."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from kdbias.tables import provenance
from kdbias.tables.density_table import potential_column, write_density
from kdbias.tables.embedding_table import write_embedding_table


class Measured(NamedTuple):
    """A density folder, its embedding table and what they were made from."""

    density: Path
    embeddings: Path
    x: np.ndarray
    labels: list[str | None] | None
    t: float

    @property
    def kernel(self) -> np.ndarray:
        return np.exp(-2 * self.t * (1 - np.clip(self.x @ self.x.T, -1, 1)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., Measured]:
    """Write the embedding table and the density folder of vectors (n, d)."""

    def make(
        x: np.ndarray,
        labels: list[str | None] | None = None,
        t: float = 3.0,
        groups: dict[str, list[str]] | None = None,
        name: str = "data",
        k: int = 3,
    ) -> Measured:
        x = unit(np.asarray(x, dtype=np.float64)).astype(np.float32)
        n = len(x)
        ids = pa.array([f"s{i:04d}" for i in range(n)], pa.large_string())
        label_column = pa.array(labels or [None] * n, pa.large_string())
        columns = {key: pa.array(values) for key, values in (groups or {}).items()}
        embeddings = tmp_path / name / "emb"
        table = write_embedding_table(embeddings, ids, x, label_column, columns, dtype="float32")
        x = table.vectors().astype(np.float64)
        cosines = np.clip(x @ x.T, -1, 1)
        distances = np.sqrt(2 - 2 * cosines)
        np.fill_diagonal(distances, np.inf)
        rho = np.exp(-2 * t * (1 - cosines)).mean(axis=1)
        same = (x[:, None] == x[None]).all(axis=2)
        first = same.argmax(axis=1)
        density = tmp_path / name / "density"
        density.mkdir(parents=True)
        columns = {
            "sample_id": ids,
            "label": label_column,
            **columns,
            "knn_distance": pa.array(np.sort(distances, axis=1)[:, min(k, n - 1) - 1]),
            potential_column(t): pa.array(rho),
            "log_density": pa.array(np.log(rho)),
            "duplicate_of": pa.array(
                [ids[f].as_py() if f != i else None for i, f in enumerate(first)], pa.large_string()
            ),
            "near_duplicates": pa.array((cosines >= 0.999).sum(axis=1) - 1),
        }
        doc = provenance.document(
            "uniformity",
            {"k": min(k, n - 1)},
            {"embeddings": table.fingerprint},
            {},
            0.0,
            embeddings=str(embeddings),
        )
        write_density(density / "density.parquet", pa.table(columns), doc)
        numbers = {"n": n, "d": x.shape[1], "t_chosen": t, "search": {}, "schemes": []}
        (density / "uniformity.json").write_text(json.dumps(numbers))
        return Measured(density, embeddings, x, labels, t)

    return make


@pytest.fixture
def long_tailed(measure: Callable[..., Measured]) -> Measured:
    """Five classes of 120, 40, 20, 10 and 5 samples around random directions of 16 dimensions."""
    rng = np.random.default_rng(5)
    sizes = [120, 40, 20, 10, 5]
    centres = rng.normal(size=(5, 16))
    x = np.concatenate([c + 0.6 * rng.normal(size=(s, 16)) for c, s in zip(centres, sizes, strict=True)])
    labels: list[str | None] = [f"c{i}" for i, s in enumerate(sizes) for _ in range(s)]
    return measure(x, labels, groups={"camera": ["left" if i % 2 else "right" for i in range(len(x))]})
