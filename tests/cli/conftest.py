"""A small data set and its embeddings."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from kdbias.tables.embedding_table import write_embedding_table
from tests.cli.outputs import make_outputs

N = 24


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """24 samples s00, s01, ... of three labels: ``data`` (pictures), ``vectors`` (.npy) and ``emb``."""
    root = tmp_path_factory.mktemp("small")
    ids, labels = [f"s{i:02d}" for i in range(N)], [f"c{i % 3}" for i in range(N)]
    picture = io.BytesIO()
    Image.new("RGB", (12, 12)).save(picture, "PNG")
    frame = pd.DataFrame({"sample_id": ids, "label": labels, "image": [picture.getvalue()] * N})
    frame.to_parquet(root / "data.parquet")
    vectors = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    np.save(root / "vectors.npy", vectors)
    write_embedding_table(root / "emb", pa.array(ids), vectors, pa.array(labels))
    return {"data": root / "data.parquet", "vectors": root / "vectors.npy", "emb": root / "emb"}


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output of every stage; copy it before changing anything."""
    root = tmp_path_factory.mktemp("outputs")
    make_outputs(root)
    return root
