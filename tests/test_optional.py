"""What works without the optional libraries, and what is said where one is missing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdbias import optional
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import write_embedding_table

EXTRA = r"the library 'faiss' is not installed; get it with: pip install 'kdbias\[cpu\]' \(or 'kdbias\[gpu\]'"

WITHOUT_FAISS = """
import sys
sys.modules["faiss"] = None  # an import of it fails, as where it is not installed
import kdbias
from kdbias.weighting.schemes import SCHEMES

EXTRA = "kdbias[cpu]"


def refused(call, *args, **options):
    try:
        call(*args, **options)
    except kdbias.KdbiasError as error:
        assert EXTRA in str(error) and "\\n" not in str(error), error
        return True
    return False


found = kdbias.uniformity("emb", "density", k=5, towards="reference", threads=1, keep_neighbors=True)
assert found.document["search"]["recall"] == 1.0 and found.document["best"], found.document["search"]
kdbias.uniformity("emb", "cells", k=5, search="ivf", threads=1)
assert refused(kdbias.uniformity, "emb", "graph", k=5, search="hnsw", threads=1)
for method in SCHEMES:
    options = {"towards": "reference"} if method == "matched" else {}
    wanting = refused(kdbias.weights, "density", f"{method}.parquet", method=method, threads=1, **options)
    assert wanting == (method == "cluster-balanced"), method
result = kdbias.frontier("density", "frontier", threads=1, floors=(0.5,))
assert list(result.skipped) == ["cluster-balanced"] and EXTRA in result.summary(), result.summary()
kdbias.what_changed("equilibrium.parquet")
kdbias.evaluate("reference", "score", protocol="knn", gallery="emb")
kdbias.report(["density", "equilibrium.parquet", "frontier"], "page.html")
from kdbias.sphere.faiss_search import gpu_count
assert gpu_count() == 0
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A folder with ``emb``, 300 labelled samples, and ``reference``, 40 more."""
    rng = np.random.default_rng(0)
    for name, n in (("emb", 300), ("reference", 40)):
        labels = rng.integers(0, 4, n)
        x = np.eye(4, 16)[labels] * 3 + rng.normal(size=(n, 16))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        ids = pa.array([f"{name}-{i}" for i in range(n)])
        write_embedding_table(tmp_path / name, ids, x.astype(np.float32), pa.array(labels.astype(str)), {})
    return tmp_path


def test_everything_exact_works_without_faiss_and_the_rest_names_its_extra(tables: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT_FAISS], cwd=tables, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not (tables / "cluster-balanced.parquet").exists()


@pytest.mark.parametrize("call", [optional.faiss, optional.refuse_without_faiss])
def test_a_missing_faiss_names_both_its_extras(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(KdbiasError, match=EXTRA):
        call()


def test_two_builds_of_faiss_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for build in ("faiss-cpu", "faiss-gpu"):
        about = tmp_path / f"{build.replace('-', '_')}-9.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {build}\nVersion: 9.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", sys)
    assert optional.faiss() is sys
    said = capsys.readouterr().err
    assert "faiss-cpu and faiss-gpu share the module faiss" in said
    assert "pip uninstall faiss-cpu faiss-gpu, then install one" in said
