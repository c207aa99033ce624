"""Units on a real Ray cluster of two nodes: the same tables as here, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from kdbias import progress
from kdbias.embedding.stage import EmbedResult, embed
from kdbias.engine import ray_tasks
from kdbias.errors import KdbiasError, MachineError
from kdbias.measurement.stage import UniformityResult, uniformity
from kdbias.tables.documents import read_json
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.weight_manifest import read_manifest
from kdbias.weighting.stage import weights
from tests import reference
from tests.engine.conftest import add_node

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


@pytest.fixture
def table(tmp_path, monkeypatch) -> EmbeddingTable:
    """8,000 rows: 8 blocks, 36 units."""
    monkeypatch.chdir(tmp_path)
    x = reference.clustered_sphere(8000, 12, 30, seed=3)
    x[7::97] = x[5]
    return write_embedding_table(tmp_path / "emb", pa.array([f"s{i}" for i in range(8000)]), x)


OPTIONS = {"k": 9, "t": "2,8", "rectification": "none", "keep_neighbors": True, "block_rows": 1024}
FILES = ("density.parquet", "schemes.parquet", "neighbors.parquet", "uniformity.json")


def measure(out: str, **more) -> UniformityResult:
    with progress.quiet():
        return uniformity("emb", out, **{**OPTIONS, "memory": "256MiB", "device": "cpu", **more})


def contents(out: str) -> dict[str, object]:
    """What the files of a measurement hold; provenance has times."""
    tables = {name: pa.parquet.read_table(Path(out) / name) for name in FILES if name.endswith("parquet")}
    read = {name: {c: t.column(c).combine_chunks() for c in t.column_names} for name, t in tables.items()}
    return read | {"document": read_json(Path(out) / "uniformity.json")}


DRIVER = """
import sys
from kdbias import progress
from kdbias.measurement.stage import uniformity
with progress.quiet():
    uniformity("emb", "out", engine="ray:" + sys.argv[1], memory="256MiB", device="cpu", **eval(sys.argv[2]))
"""


def workers_of(nodes) -> list[int]:
    """Process ids of the workers of nodes that are at a unit."""
    raylets = {info.process.pid for node in nodes for info in node.all_processes["raylet"]}
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and (folder / "cmdline").read_bytes().startswith(b"ray::_unit"):
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue  # no process, or one that has gone
    return found


def waited_for(found, seconds: float = 60):
    """The first result that is not empty."""
    until = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return result


def test_a_worker_a_node_and_the_driver_die_in_one_run(cluster, table) -> None:
    measure("here", engine="here")
    nodes = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    command = [sys.executable, "-c", DRIVER, cluster.address, repr(OPTIONS)]
    with subprocess.Popen(command) as driver:

        def units(least: int):
            return lambda: len(list(Path("out/pairs").glob("*-*-*-*.npz"))) >= least

        waited_for(units(1))
        os.kill(waited_for(lambda: workers_of(nodes))[0], signal.SIGKILL)
        waited_for(units(4))
        cluster.remove_node(nodes[0], allow_graceful=False)
        waited_for(units(8))
        assert driver.poll() is None
        driver.kill()
    assert not Path("out/density.parquet").exists()
    assert measure("out", engine="ray").state == "new"  # one node is left
    assert contents("out") == contents("here")
    assert not Path("out/pairs").exists()
    assert measure("out", engine="here").state == "finished"
    add_node(cluster)


def test_weights_are_the_same_and_so_are_targets(cluster, table) -> None:
    x = reference.clustered_sphere(3000, 12, 30, seed=4)
    write_embedding_table("other", pa.array([f"r{i}" for i in range(3000)]), x)
    more = {"block_rows": 2048, "keep_neighbors": False}
    for search in ("exact", "ivf"):
        how = {"towards": "other", "search": search, "overwrite": True, **more}
        found = [measure(engine, engine=engine, **how) for engine in ("here", "ray")]
        assert found[0].document == found[1].document
    solved = []
    for engine in ("here", "ray"):
        with progress.quiet():
            how = {"towards": "other", "engine": engine, "memory": "256MiB", "block_rows": 2048}
            solved.append(weights("here", f"{engine}.parquet", **how))
    assert np.array_equal(*(read_manifest(result.path).weights for result in solved))
    assert not list(Path().glob("*.pairs"))


def test_what_a_unit_dies_of_is_told(cluster) -> None:
    engine = ray_tasks.RayTasks(None, retries=1, cpus=1, gpus=0, memory=0)
    assert sorted(engine.map(partial(map, int), ["3", "1", "2"])) == [1, 2, 3]
    with pytest.raises(ValueError, match=r"invalid literal for int.*'x'"):  # unforeseen: as it is, at once
        list(engine.map(partial(map, int), ["1", "x"]))
    with pytest.raises(
        MachineError, match=r"lost 2 times, more than --retries 1 allows .out of memory on node"
    ):
        list(engine.map(partial(map, bytes), [1 << 62]))


def test_units_do_not_wait_for_ever_for_nodes_that_are_gone(cluster, monkeypatch) -> None:
    monkeypatch.setattr(ray_tasks, "_PATIENCE", 1.0)
    monkeypatch.setattr(ray_tasks, "_LOOK", 0.2)
    engine = ray_tasks.RayTasks(None, retries=1, cpus=1, gpus=0, memory=0)
    waited_for(lambda: engine.slots == 2)
    for node in [node for node in cluster.list_all_nodes() if node is not cluster.head_node]:
        cluster.remove_node(node, allow_graceful=False)
    with pytest.raises(MachineError, match="no node of the cluster can hold a unit"):
        list(engine.map(iter, [1, 2, 3]))
