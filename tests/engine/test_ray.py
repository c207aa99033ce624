"""Units on a real Ray cluster of two nodes: the same tables as here, whatever dies."""

import numpy as np
import pyarrow as pa
import pytest

from kdbias import progress
from kdbias.embedding.stage import EmbedResult, embed
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable

pytestmark = pytest.mark.xdist_group("ray")  # one cluster for all

TEACHER = """
import numpy as np

class Sums:
    preprocessing = {"size": [4, 4], "color": "L", "mean": [0], "std": [1]}

    def embed(self, batch):
        return batch.reshape(len(batch), -1).astype(np.float32) + 1

def factory(device):
    return Sums()
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A table of 60 small pictures, one of which is none, beside its teacher; paths are relative."""
    import io

    from PIL import Image

    rng, pictures = np.random.default_rng(0), []
    for _ in range(60):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue())
    pictures[7] = b"none"
    table = pa.table({"sample_id": [f"p{i}" for i in range(60)], "image": pictures})
    pa.parquet.write_table(table, tmp_path / "data.parquet")
    (tmp_path / "sums.py").write_text(TEACHER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out: str, engine: str, **more) -> EmbedResult:
    options = {"rows_per_part": 8, "batch_size": 4, "workers": 0, "device": "cpu", "engine": engine, **more}
    with progress.quiet():
        return embed("data.parquet", out, teacher="python:sums.py:factory", **options)


def test_embed_gives_the_same_table(cluster, data) -> None:
    assert run("here", "here").state == "finished"
    result = run("ray", "ray")
    assert (result.state, result.samples, result.failures) == ("finished", 59, 1)
    here, ray = EmbeddingTable.open("here"), EmbeddingTable.open("ray")
    assert ray.fingerprint == here.fingerprint
    assert ray.provenance["config"] == here.provenance["config"]
    assert run("ray", "here").state == "already finished"
    (data / "ray" / "part-00003.parquet").unlink()
    assert run("ray", "ray").state == "finished"
    assert EmbeddingTable.open("ray").fingerprint == here.fingerprint


def test_a_unit_that_refuses_ends_the_run_with_its_line(cluster, data) -> None:
    with pytest.raises(KdbiasError, match=r"p7 .*--on-error skip lists it and goes on$"):
        run("out", "ray", on_error="fail")
    with pytest.raises(KdbiasError, match=r"no node .* can hold a unit \(3 nodes; at most 1 CPU of 7 CPU"):
        run("out", "ray", unit_cpus=7)
    assert run("out", "ray").state == "finished"
