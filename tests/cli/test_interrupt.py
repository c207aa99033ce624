"""Ctrl-C ends a command at once: one line that says how to go on, status 130, no process left behind."""

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from kdbias.tables.embedding_table import write_embedding_table

N = 24
ENDLESS = {
    "train": ("train {data} -o {out} --embeddings {emb} --epochs 1000000 --workers 2", "train:"),
    "evaluate": ("evaluate {emb} -o {out} --bootstrap 1000000", "evaluate:"),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("work")
    ids = [f"s{i:02d}" for i in range(N)]
    labels = [f"c{i % 3}" for i in range(N)]
    buffer = io.BytesIO()
    Image.new("RGB", (12, 12)).save(buffer, "PNG")
    frame = pd.DataFrame({"sample_id": ids, "label": labels, "image": [buffer.getvalue()] * N})
    frame.to_parquet(root / "data.parquet")
    vectors = np.random.default_rng(0).normal(size=(N, 6))
    write_embedding_table(root / "emb", pa.array(ids), vectors, pa.array(labels))
    return {"data": root / "data.parquet", "emb": root / "emb"}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("reaches", [os.killpg, os.kill], ids=["all processes", "the first alone"])
def test_interrupt(places, tmp_path, name, reaches):
    command, begun = ENDLESS[name]
    words = command.format(out=tmp_path / "out", **places).split()
    process = subprocess.Popen(
        [sys.executable, "-m", "kdbias.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert any(line.startswith(begun) for line in process.stderr)
    reaches(process.pid, signal.SIGINT)
    _, rest = process.communicate()  # ends once no process of the command holds the pipes
    assert process.returncode == 130
    lines = [line for line in rest.splitlines() if not line.startswith(begun)]
    assert lines == ["Error: interrupted; run the same command again to go on from what is saved"]
