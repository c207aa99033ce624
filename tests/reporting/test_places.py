"""Relative paths in records are found from another working directory, and nothing else is taken for them."""

import base64
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.reporting import report
from kdbias.reporting.gathering import collect
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.parquet_file import write_table
from kdbias.tables.places import candidates
from kdbias.tables.weight_manifest import read_manifest


@pytest.fixture
def work(outputs, tmp_path):
    """The fixture's outputs as commands run in their folder would have recorded them: all paths relative."""
    root = tmp_path / "made"
    shutil.copytree(outputs.root, root)
    table = read_density(root / "density").table
    doc = provenance.from_schema(table.schema, "table")
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
    assert [s.path.resolve() for s in found.manifests] == [work / "equilibrium.parquet"]
    assert found.evaluations[0].run is found.runs[0]
    result = report("../made/density", "r.html", pictures=2, root="../made")
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
    assert [s.path.resolve() for s in found.manifests] == [work / "equilibrium.parquet"]
    assert report(work / "density", "r.html", pictures=2, root=work).notices == ()


def test_a_renamed_folder_is_found_by_the_fingerprints_of_what_is_in_it(work, tmp_path):
    record = read_json(work / "emb" / "run.json")
    write_json(work / "emb" / "run.json", {**record, "data": "old/data.parquet"})
    table = read_density(work / "density").table
    doc = {**provenance.from_schema(table.schema, "table"), "embeddings": "/gone/old/emb"}
    for inputs in ({}, {"embeddings": "of another table"}):
        write_table(work / "density" / "density.parquet", table, {**doc, "inputs": inputs})
        assert collect([work / "density"]).embeddings == []
    write_table(work / "density" / "density.parquet", table, doc)
    assert report(work / "density", tmp_path / "r.html", pictures=2, root=work).notices == ()
    assert "Most crowded" in (tmp_path / "r.html").read_text()


def test_absolute_paths_mean_themselves(tmp_path):
    assert list(candidates("/data/x", tmp_path)) == [Path("/data/x")]
    assert tmp_path / "x" in candidates("/data/x", tmp_path, known=True)
    assert list(candidates("x", tmp_path / "a" / "b"))[:3] == [
        Path("x"),
        tmp_path / "a" / "b" / "x",
        tmp_path / "a" / "x",
    ]


SECRET = (123, 45, 67)


def _secret(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), SECRET).save(file)
    return file


def _shows_the_secret(page: Path) -> bool:
    encoded = re.findall(r'<img [^>]*src="data:image/[a-z]+;base64,([^"]+)"', page.read_text())
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in encoded]
    return any(np.abs(np.subtract(p.getpixel((5, 5)), SECRET)).max() < 8 for p in pictures)


def _as_table(work: Path, home: Path) -> dict:
    pd.DataFrame({"sample_id": ["img/000.png"], "path": ["secret.png"]}).to_csv(
        home / "list.csv", index=False
    )
    return {"data": str(home / "list.csv")}


def _as_folder(work: Path, home: Path) -> dict:
    _secret(home / "img" / "000.png")
    return {"data": str(home)}


def _by_root(work: Path, home: Path) -> dict:
    pd.DataFrame({"sample_id": ["img/000.png"], "path": ["secret.png"]}).to_csv(
        work / "list.csv", index=False
    )
    return {"data": str(work / "list.csv"), "root": str(home)}


def _by_climbing(work: Path, home: Path) -> dict:
    up = os.path.relpath(home, work)
    pd.DataFrame({"sample_id": ["img/000.png"], "path": ["img/000.png"]}).to_csv(work / "l.csv", index=False)
    _secret(home / "img" / "000.png")
    return {"data": str(work / "l.csv"), "root": str(work / up)}


def _by_description(work: Path, home: Path) -> dict:
    _secret(home / "img" / "000.png")
    (work / "it.toml").write_text(f'name = "it"\nsource = "img"\nroot = "{os.path.relpath(home, work)}"\n')
    return {"data": str(work / "it.toml")}


def _by_a_link_to_a_file(work: Path, home: Path) -> dict:
    _in_parquet(home / "other.parquet", home)
    (work / "link.parquet").symlink_to(home / "other.parquet")
    return {"data": str(work / "link.parquet")}


def _by_a_link_among_parts(work: Path, home: Path) -> dict:
    _in_parquet(home / "other.parquet", home)
    (work / "parts").mkdir()
    (work / "parts" / "0.parquet").symlink_to(home / "other.parquet")
    return {"data": str(work / "parts")}


def _by_a_linked_folder(work: Path, home: Path) -> dict:
    _secret(home / "img" / "000.png")
    (work / "photos").symlink_to(home)
    return {"data": str(work / "photos")}


def _in_parquet(file: Path, home: Path) -> None:
    content = (home / "secret.png").read_bytes()
    pd.DataFrame({"sample_id": ["img/000.png"], "image": [content]}).to_parquet(file)


WAYS = [_as_table, _as_folder, _by_root, _by_climbing, _by_description]
WAYS += [_by_a_link_to_a_file, _by_a_link_among_parts, _by_a_linked_folder]


@pytest.mark.parametrize("way", WAYS)
def test_a_record_brings_no_picture_from_elsewhere_onto_the_page(work, tmp_path, monkeypatch, way):
    home = _secret(tmp_path / "home" / "secret.png").parent
    monkeypatch.chdir(tmp_path)  # the folder in which the command runs is not one that was named
    record = read_json(work / "emb" / "run.json")
    write_json(work / "emb" / "run.json", {**record, "inputs": {}, **way(work, home)})
    page = tmp_path / "r.html"
    result = report(work, page, pictures=5)
    assert not _shows_the_secret(page)
    assert any(notice.startswith("no pictures for ") for notice in result.notices)
    report(work, page, pictures=5, root=home)  # named by this user
    assert _shows_the_secret(page)


def test_a_root_that_is_no_folder_is_refused(work, tmp_path):
    with pytest.raises(KdbiasError, match="gone is no folder"):
        report(work, tmp_path / "r.html", root=work / "gone")
