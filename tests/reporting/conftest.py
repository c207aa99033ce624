"""Outputs of every stage in their documented formats, written from tiny data; no stage function runs here."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.tables import provenance
from kdbias.tables.density_table import potential_column, write_density
from kdbias.tables.documents import write_json
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.run_record import Run
from kdbias.tables.weight_manifest import read_manifest, write_manifest
from tests.stages import EVALUATE, TRAIN, UNIFORMITY

N, D = 90, 6
BANDWIDTHS = (2.0, 4.0)
SEEDS = (0, 1, 2)
EVIL = '<script>alert("x")</script>&'
ACCURACY = {"natural": (0.70, 0.72, 0.74), "equilibrium": (0.80, 0.81, 0.85)}
DISTANCE = {"natural": (0.40, 0.41, 0.42), "equilibrium": (0.30, 0.31, 0.35)}


@dataclass(frozen=True)
class Outputs:
    """Folder with all stage outputs, and what was put into them."""

    root: Path
    ids: list[str]
    labels: list[str]
    vectors: np.ndarray
    log_density: np.ndarray
    weights: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """A small long-tailed set: 60 crowded samples of one class, 30 spread ones of two others."""
    root = tmp_path_factory.mktemp("outputs")
    rng = np.random.default_rng(0)
    crowd = rng.normal(size=D) + 0.15 * rng.normal(size=(60, D))
    x = np.vstack([crowd, rng.normal(size=(30, D))])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = [f"img/{i:03d}.png" for i in range(N)]
    labels = ["common"] * 60 + [EVIL] * 20 + ["rare"] * 10
    data = _write_images(root / "data.parquet", ids, labels, rng)
    table = write_embedding_table(
        root / "emb",
        pa.array(ids),
        x,
        pa.array(labels),
        {"camera": pa.array([f"cam{i % 2}" for i in range(N)])},
        config={"where": []},
    )
    write_json(table.path / "run.json", {**table.provenance, "data": str(data), "root": None})
    potentials = {t: np.exp(-2 * t * (1 - np.clip(x @ x.T, -1, 1))).mean(1) for t in BANDWIDTHS}
    log_density = np.log(potentials[4.0])
    inverse = 1 / potentials[4.0]
    inverse[0] = 0.0
    weights = {"natural": np.ones(N), "equilibrium": inverse * N / inverse.sum()}
    for scheme, w in weights.items():
        doc = provenance.document("weights", {"method": scheme}, {"density": "d1"}, {"samples": N}, 0.1)
        groups: dict[str, pa.Array] = {}
        write_manifest(
            root / f"{scheme}.parquet", pa.array(ids), pa.array(labels), groups, log_density, w, doc
        )
    _write_density(root / "density", table, x, ids, labels, potentials, log_density, weights)
    for scheme in weights:
        for seed in SEEDS:
            _write_run(root / "students" / f"{scheme}-{seed}", root / f"{scheme}.parquet", seed)
            _write_evaluation(root, scheme, seed)
    return Outputs(root, ids, labels, x, log_density, weights)


def _write_images(path: Path, ids: list[str], labels: list[str], rng: np.random.Generator) -> Path:
    from PIL import Image

    pictures = []
    for i in range(len(ids)):
        buffer = io.BytesIO()
        pixels = np.full((12, 12, 3), i % 256, np.uint8)
        pixels[:6] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    pictures[5] = b"no picture at all"
    pq.write_table(
        pa.table({"sample_id": ids, "label": labels, "image": pa.array(pictures, pa.binary())}), path
    )
    return path


def _write_density(out, table: EmbeddingTable, x, ids, labels, potentials, log_density, weights) -> None:
    run = Run.open(out, UNIFORMITY, {"k": 5, "t": list(BANDWIDTHS)}, {"embeddings": table.fingerprint})
    doc = provenance.document(
        "uniformity",
        run.record["config"],
        run.record["inputs"],
        {"samples": N},
        0.5,
        embeddings=str(table.path),
    )
    columns = {
        "sample_id": ids,
        "label": labels,
        "camera": [f"cam{i % 2}" for i in range(N)],
        "knn_distance": pa.array(np.linspace(0.1, 1, N)),
        **{potential_column(t): p for t, p in potentials.items()},
        "log_density": log_density,
        "duplicate_of": pa.array([None] * N, pa.string()),
        "near_duplicates": [0] * N,
    }
    write_density(out / "density.parquet", pa.table(columns), doc)
    schemes = []
    for name, w in weights.items():
        p = w / w.sum()
        bandwidths = []
        for t in BANDWIDTHS:
            kernel = np.exp(-2 * t * (1 - np.clip(x @ x.T, -1, 1)))
            energy = float(p @ kernel @ p)
            off = (energy - float(p @ p)) / (1 - float(p @ p))
            null = -1.5 * t
            bandwidths.append(
                {
                    "t": t,
                    "uniformity": math.log(off),
                    "null": null,
                    "excess": math.log(off) - null,
                    "energy": energy,
                    "effective_distinct": 1 / energy,
                    "distinct_ceiling": math.exp(-null),
                    "rectification": 0.0 if name == "natural" else (0.625 if t == 4.0 else None),
                    "pairs": N * (N - 1) // 2,
                    "standard_error": None,
                    "rectification_reason": None,
                }
            )
        schemes.append(
            {
                "name": name,
                "weights": None if name == "natural" else f"../{name}.parquet",
                "fingerprint": None,
                "ess": 1 / float(p @ p),
                "ess_share": 1 / float(p @ p) / N,
                "effective_identities": 2.5,
                "groups": {},
                "hardness": None,
                "top_mass": 0.01,
                "max_weight": 1.0,
                "zero_weights": 0,
                "vendi_score": None,
                "koleo_entropy": None,
                "bandwidths": bandwidths,
            }
        )
    numbers = {
        "n": N,
        "d": D,
        "t_chosen": 4.0,
        "bandwidth_rule": {},
        "search": {"kind": "exact", "k": 5, "recall": 1.0},
        "estimator": {"kind": "potential", "exponent": None},
        "intrinsic_dimension": None,
        "duplicates": {"exact_duplicates": 0, "near_duplicates": 0},
        "best": [],
        "schemes": schemes,
    }
    write_json(out / "uniformity.json", numbers)
    run.finish({"samples": N}, 0.5)


def _write_run(out: Path, manifest: Path, seed: int) -> None:
    inputs = {"weights": read_manifest(manifest).fingerprint, "data": "d0"}
    run = Run.open(out, TRAIN, {"loss": "l2e", "seed": seed}, inputs)
    with open(out / "metrics.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["epoch", "step", "loss", "lr"])
        writer.writerows([e, 10 * e, 1.0 / (e + 1 + 0.01 * seed), 0.1] for e in range(5))
    run.finish({"steps": 50}, 1.0)


def _write_evaluation(root: Path, scheme: str, seed: int) -> None:
    out = root / "evaluations" / f"{scheme}-{seed}"
    config = {"protocol": "knn"}
    run = Run.open(out, EVALUATE, config, {"model": "m"})

    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02, "standard_error": 0.01}

    document = provenance.document("evaluate", config, {"model": "m"}, {"samples": N}, 0.1)
    document |= {
        "protocol": "knn",
        "unit": "sample",
        "n": N,
        "metrics": {
            "centroid_balanced_accuracy": estimate(ACCURACY[scheme][seed]),
            "distance": estimate(DISTANCE[scheme][seed]),
            "knn_tail_accuracy": {"value": None, "low": None, "high": None, "standard_error": None},
        },
        "groups": {},
        "interval": {"level": 0.95, "repeats": 100, "resampled": "sample", "seed": 0},
        "left_out": {},
        "details": {},
    }
    write_json(out / "metrics.json", document)
    run.finish({"samples": N}, 0.1, paths={"model": str(root / "students" / f"{scheme}-{seed}")})
