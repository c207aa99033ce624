"""Tables in parts: every stage gives the same numbers from them as from one file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import kdbias
from kdbias.measurement.files import read_uniformity
from kdbias.tables import joins, listing
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.listing import LISTING
from kdbias.tables.parted_table import PartedTable

N, ROWS = 680, 100  # the last of 7 parts is a short one
METHODS = ("inverse-density", "class-balanced", "equilibrium", "knn-distance", "matched")


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of all stages, with tables in one file each and in 7 parts."""
    rng = np.random.default_rng(0)
    codes = rng.choice(4, N, p=[0.6, 0.2, 0.15, 0.05])
    x = (np.eye(4, 8)[codes] * 2 + rng.normal(size=(N, 8))).astype(np.float32)
    x[rng.choice(N, 40, replace=False)] = x[rng.choice(N, 40, replace=False)]
    ids = pa.array([f"{'abc'[c % 3]}/{i:04d}.jpg" for i, c in enumerate(codes)])
    labels = pa.array([None if i % 50 == 7 else f"class {c}" for i, c in enumerate(codes)])
    groups = {"site": pa.array([f"site {i % 3}" for i in range(N)]), "age": pa.array(rng.integers(1, 90, N))}
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in (("whole", N), ("seven", ROWS)):
            patch.setattr(listing, "FILE_ROWS", limit)
            patch.setattr(joins, "BUCKET_ROWS", limit)
            root = found[name] = tmp_path_factory.mktemp(name)
            kdbias.write_embedding_table(root / "emb", ids, x, labels, groups, rows_per_part=ROWS)
            kdbias.write_embedding_table(root / "ref", ids.slice(0, 60), x[:60] + 0.1, rows_per_part=20)
            kdbias.uniformity(
                root / "emb", root / "density", k=5, towards=str(root / "ref"), threads=1, keep_neighbors=True
            )
            for method in METHODS:
                towards = {"towards": str(root / "ref")} if method == "matched" else {}
                path = root / f"{method}.parquet"
                kdbias.weights(root / "density", path, method=method, threads=1, **towards)
            kdbias.uniformity(  # added to what is there, the groups as well
                root / "emb",
                root / "density",
                k=5,
                weights=[str(root / "equilibrium.parquet")],
                group_by=("site",),
                threads=1,
            )
    return found


def _same(one: Any, seven: Any, walks: dict[str, Path]) -> None:
    """Whether two JSON documents say the same, but for folders, fingerprints and times."""
    texts = [
        json.dumps(document, default=str).replace(str(root), "ROOT")
        for document, root in zip((one, seven), walks.values(), strict=True)
    ]
    first, second = (_plain(json.loads(text)) for text in texts)
    assert first == second


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if "fingerprint" not in k and "seconds" not in k}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _frames(walks: dict[str, Path], one: str, seven: str | None = None) -> list[pd.DataFrame]:
    return [pd.read_parquet(walks["whole"] / one), pd.read_parquet(walks["seven"] / (seven or one))]


def test_measured_and_weighed_alike(walks: dict[str, Path]) -> None:
    for table in ("density", "schemes", "neighbors"):
        pd.testing.assert_frame_equal(*_frames(walks, f"density/{table}.parquet", f"density/{table}"))
        assert len(list((walks["seven"] / "density" / table).glob("part-*.parquet"))) == 7
        assert not (walks["seven"] / f"density/{table}.parquet").exists()
    for method in METHODS:
        frames = _frames(walks, f"{method}.parquet")
        pd.testing.assert_frame_equal(*frames)
        assert frames[1].attrs["kdbias"]["numbers"] == frames[0].attrs["kdbias"]["numbers"]
        assert (walks["seven"] / f"{method}.parquet" / LISTING).exists()
    _same(*(read_uniformity(root / "density") for root in walks.values()), walks)


def test_parts_follow_the_embedding_tables(walks: dict[str, Path]) -> None:
    folders = ["emb", "density/density", "density/schemes", "equilibrium.parquet"]
    tables = [PartedTable.open(walks["seven"] / folder) for folder in folders]
    assert {table.lengths for table in tables} == {(100, 100, 100, 100, 100, 100, 80)}
    assert len({table.ids().digests for table in tables}) == 1
    assert all(table.listed for table in tables)


@pytest.mark.parametrize("changed", ["order", "cut"])
def test_a_hand_made_manifest_is_joined_by_id(walks: dict[str, Path], tmp_path: Path, changed: str) -> None:
    frame = pd.read_parquet(walks["whole"] / "equilibrium.parquet")[["sample_id", "weight"]]
    frame = frame.sample(frac=1, random_state=0) if changed == "order" else frame
    (tmp_path / "by_hand").mkdir()
    for i, start in enumerate(range(0, N, 90)):
        frame[start : start + 90].to_parquet(tmp_path / "by_hand" / f"part-{i}.parquet")
    (tmp_path / "by_hand" / "_SUCCESS").touch()
    out, known = tmp_path / "density", walks["seven"] / "density"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "FILE_ROWS", ROWS)
        patch.setattr(joins, "BUCKET_ROWS", ROWS)
        found = kdbias.uniformity(
            walks["seven"] / "emb", out, k=5, t=(2.0,), weights=[str(tmp_path / "by_hand")], threads=1
        )
        asked = str(walks["seven"] / "equilibrium.parquet")
        known = kdbias.uniformity(walks["seven"] / "emb", tmp_path / "as", k=5, t=(2.0,), weights=[asked])
    assert found.document["schemes"][1]["bandwidths"] == known.document["schemes"][1]["bandwidths"]


def test_read_alike_by_all_other_stages(walks: dict[str, Path], tmp_path: Path) -> None:
    told: dict[str, list[Any]] = {}
    for name, root in walks.items():
        sampler = kdbias.ManifestSampler.from_manifest(
            root / "equilibrium.parquet", EmbeddingTable.open(root / "emb").ids()
        )
        told.setdefault("order", []).append([block.tolist() for block in sampler.blocks()])
        frontier = kdbias.frontier(root / "density", tmp_path / f"{name}-f", floors=(0.5, 0.9), threads=1)
        told.setdefault("frontier", []).append(frontier.table.to_pylist())
        told.setdefault("suspects", []).append(kdbias.suspects(root / "density").table.to_pylist())
        changes = kdbias.what_changed(root / "equilibrium.parquet")
        told.setdefault("changes", []).append(changes.groups.to_pylist())
        advice = kdbias.advise(root / "density", threads=1)
        told.setdefault("advice", []).append(advice.summary())
        judged = kdbias.evaluate(
            root / "ref",
            tmp_path / f"{name}-e",
            protocol="fidelity",
            reference=str(root / "ref"),
            density=str(root / "density"),
            bootstrap=50,
        )
        told.setdefault("evaluate", []).append(judged.document["metrics"])
        for path in ("emb", "density", "equilibrium.parquet"):
            described = kdbias.inspect(root / path)
            known = {key: described.get(key) for key in ("kind", "rows", "columns", "first_rows")}
            told.setdefault(f"inspect {path}", []).append(known)
        page = kdbias.report([root / "density", root / "equilibrium.parquet"], tmp_path / f"{name}.html")
        told.setdefault("page", []).append(page.summary().replace(name, ""))
    for what, (one, seven) in told.items():
        assert len(json.dumps(one, default=str)) > 10, what
        _same(one, seven, walks)


def test_vectors_and_lists_are_taken_from_tables_in_parts(walks: dict[str, Path], tmp_path: Path) -> None:
    """As precomputed vectors, and as data: the listing is no part of them."""
    vectors, data = walks["seven"] / "emb", walks["seven"] / "equilibrium.parquet"
    kdbias.embed(data, tmp_path / "emb", teacher=f"precomputed:{vectors}")
    made, known = EmbeddingTable.open(tmp_path / "emb"), EmbeddingTable.open(vectors)
    assert made.ids().equals(known.ids())
    np.testing.assert_allclose(made.vectors(), known.vectors(), atol=1e-3)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of more than 100 rows go into parts."""
    monkeypatch.setattr(listing, "FILE_ROWS", ROWS)


def _weights(walks: dict[str, Path], out: Path, **more: Any) -> Any:
    return kdbias.weights(walks["seven"] / "density", out, method="class-balanced", **more)


def test_a_manifest_in_parts_has_the_life_of_any(walks: dict[str, Path], tmp_path: Path, low: None) -> None:
    out = tmp_path / "weights"
    made = _weights(walks, out)
    assert (made.state, _weights(walks, out).state) == ("new", "finished")
    with pytest.raises(kdbias.KdbiasError, match=r"temper: 1\.0 -> 0\.5"):
        _weights(walks, out, temper=0.5)
    (out / LISTING).unlink()
    (out / "part-00006.parquet").unlink()  # as a kill leaves it
    with pytest.raises(kdbias.KdbiasError, match="holds 6 of the 7 parts"):
        kdbias.read_manifest(out)
    assert _weights(walks, out, temper=0.5).state == "new"
    assert _weights(walks, out, overwrite=True).state == "new"
    known = kdbias.read_manifest(walks["whole"] / "class-balanced.parquet")
    np.testing.assert_array_equal(kdbias.read_manifest(out).weights, known.weights)


@pytest.mark.parametrize("name", ["mine.txt", "part-00000.parquet", "run.json"])
def test_somebodys_folder_is_not_replaced(
    walks: dict[str, Path], tmp_path: Path, low: None, name: str
) -> None:
    pd.DataFrame({"sample_id": ["a"], "weight": [1.0]}).to_parquet(tmp_path / name)
    for overwrite in (False, True):
        with pytest.raises(kdbias.KdbiasError, match=r"is a folder|is no manifest that"):
            _weights(walks, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_few_samples_need_the_name_of_a_file(walks: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(kdbias.KdbiasError, match=r"name it .*weights\.parquet"):
        _weights(walks, tmp_path / "weights")


def test_a_measurement_in_parts_starts_over(walks: dict[str, Path], tmp_path: Path, low: None) -> None:
    out = tmp_path / "density"
    options = {"k": 3, "t": (2.0,), "threads": 1}
    assert kdbias.uniformity(walks["seven"] / "emb", out, **options).state == "new"
    assert kdbias.uniformity(walks["seven"] / "emb", out, **options).state == "finished"
    (out / "density" / "part-00002.parquet").unlink()
    with pytest.raises(kdbias.KdbiasError, match="density is missing or damaged"):
        kdbias.uniformity(walks["seven"] / "emb", out, **options)
    assert kdbias.uniformity(walks["seven"] / "emb", out, overwrite=True, **options).state == "new"
    assert kdbias.read_density(out).n == N
    assert not (out / ".replaced").exists()
