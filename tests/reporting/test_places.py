"""Relative paths in records are found from another working directory, and nothing else is taken for them."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kdbias.data import open_data
from kdbias.reporting import report
from kdbias.reporting.collect import collect
from kdbias.reporting.places import candidates
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.files import read_json, write_json
from kdbias.tables.parquet_file import write_table
from kdbias.tables.weight_manifest import read_manifest


@pytest.fixture
def work(outputs, tmp_path):
    """The fixture's outputs as commands run in their folder would have recorded them: all paths relative."""
    root = tmp_path / "made"
    shutil.copytree(outputs.root, root)
    table = read_density(root / "density").table
    doc = provenance.from_schema(table.schema)
    write_table(root / "density" / "density.parquet", table, {**doc, "embeddings": "emb"})
    numbers = read_json(root / "density" / "uniformity.json")
    scheme = numbers["schemes"][1]
    fingerprint = read_manifest(root / "equilibrium.parquet").fingerprint
    scheme |= {"weights": "equilibrium.parquet", "fingerprint": fingerprint}
    write_json(root / "density" / "uniformity.json", numbers)
    record = read_json(root / "emb" / "run.json")
    inputs = {"data": open_data(str(root / "data.parquet")).fingerprint}
    write_json(root / "emb" / "run.json", {**record, "data": "data.parquet", "inputs": inputs})
    run = root / "evaluations" / "natural-0" / "run.json"
    write_json(run, {**read_json(run), "paths": {"model": "run:students/natural-0"}})
    return root


def test_everything_recorded_is_found_from_elsewhere(work, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = collect(["../made/density", "../made/students/natural-0", "../made/evaluations/natural-0"])
    assert [e.path.resolve() for e in found.embeddings] == [work / "emb"]
    assert [s.path.resolve() for s in found.schemes] == [work / "equilibrium.parquet"]
    assert found.evaluations[0].run is found.runs[0]
    result = report("../made/density", "r.html", pictures=2)
    assert result.notices == ()
    assert "Most crowded" in Path("r.html").read_text()


def test_another_table_of_the_same_name_is_not_taken(work, tmp_path, monkeypatch):
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    ids = pa.array(["img/000.png", "b"])
    write_embedding_table(here / "emb", ids, np.random.default_rng(0).normal(size=(2, 6)))
    (here / "equilibrium.parquet").write_bytes((work / "natural.parquet").read_bytes())
    shutil.copy(work / "natural.parquet", here / "data.parquet")  # no pictures in it
    found = collect([work / "density"])
    assert [e.path.resolve() for e in found.embeddings] == [work / "emb"]
    assert [s.path.resolve() for s in found.schemes] == [work / "equilibrium.parquet"]
    assert report(work / "density", "r.html", pictures=2).notices == ()


def test_a_renamed_folder_is_found_by_the_fingerprints_of_what_is_in_it(work, tmp_path):
    record = read_json(work / "emb" / "run.json")
    write_json(work / "emb" / "run.json", {**record, "data": "old/data.parquet"})
    table = read_density(work / "density").table
    doc = {**provenance.from_schema(table.schema), "embeddings": "/gone/old/emb"}
    for inputs in ({}, {"embeddings": "of another table"}):
        write_table(work / "density" / "density.parquet", table, {**doc, "inputs": inputs})
        assert collect([work / "density"]).embeddings == []
    write_table(work / "density" / "density.parquet", table, doc)
    assert report(work / "density", tmp_path / "r.html", pictures=2).notices == ()
    assert "Most crowded" in (tmp_path / "r.html").read_text()


def test_absolute_paths_mean_themselves(tmp_path):
    assert list(candidates("/data/x", tmp_path)) == [Path("/data/x")]
    assert tmp_path / "x" in candidates("/data/x", tmp_path, known=True)
    assert list(candidates("x", tmp_path / "a" / "b"))[:3] == [
        Path("x"),
        tmp_path / "a" / "b" / "x",
        tmp_path / "a" / "x",
    ]
