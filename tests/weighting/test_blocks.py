"""Weights of vectors in blocks: those of one process that holds them all, whatever kills it or helps it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.measurement.stage import uniformity
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.parquet_file import read_provenance
from kdbias.tables.weight_manifest import read_manifest
from kdbias.weighting.stage import WeightsResult, weights
from tests import reference
from tests.forks import killed_and_helped

N, ROWS = 2600, 1024
METHODS: dict[str, dict[str, Any]] = {
    "inverse-density": {"method": "inverse-density"},
    "equilibrium": {"method": "equilibrium", "tolerance": 1e-4},
    "matched": {"towards": "reference"},
    "with a column": {"towards": "reference", "with_column": "camera"},
    "balanced": {"towards": "balanced:camera"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured table with copies, and a reference that is like some of it."""
    folder = tmp_path_factory.mktemp("world")
    for name, n, seed in (("emb", N, 3), ("reference", 1500, 4)):
        x = reference.clustered_sphere(n, 12, 30, seed=seed)
        if name == "emb":
            x[7::97] = x[5]
        ids, cameras = ([f"{kind}{i % m}" for i in range(n)] for kind, m in (("s", n), ("c", 3)))
        write_embedding_table(folder / name, ids, x, groups={"camera": cameras}, rows_per_part=1300)
    with progress.quiet():
        uniformity(folder / "emb", folder / "density", k=5, t="2", rectification="none")
    return folder


def weigh(world: Path, out: Path, **options: Any) -> WeightsResult:
    if "reference" in str(options.get("towards")):
        options = options | {"towards": str(world / "reference")}
    with progress.quiet():
        return weights(world / "density", out, threads=2, **options)


@pytest.mark.parametrize("kind", METHODS)
def test_blocks_weigh_as_one_process_does(world, tmp_path, kind, monkeypatch) -> None:
    monkeypatch.setattr("kdbias.sphere.equilibrium.block_kernel._DIRECTLY", 1 << 20)
    whole = weigh(world, tmp_path / "whole.parquet", **METHODS[kind])
    found = weigh(world, tmp_path / "blocks.parquet", **METHODS[kind], block_rows=ROWS)
    assert not (tmp_path / "blocks.parquet.pairs").exists()
    one, other = (read_manifest(result.path).weights for result in (whole, found))
    if whole.solver is None or found.solver is None:
        assert found.solver is None
        assert other == pytest.approx(one, rel=1e-6)
        return
    assert found.facts["kernel"] == f"exact kernel, 3 blocks of {ROWS:,} samples"
    assert found.solver["certified"] == whole.solver["certified"]
    assert abs(found.solver["energy"] - whole.solver["energy"]) <= max(
        found.solver["gap"], whole.solver["gap"]
    )
    if whole.target is not None and found.target is not None:
        assert (found.target["test"], found.target["shares"]) == (
            whole.target["test"],
            whole.target["shares"],
        )
        for name in ("noise", "discrepancy_before", "discrepancy", "effective_size"):
            assert found.target[name] == pytest.approx(whole.target[name], rel=1e-3), name
    if kind == "equilibrium":
        assert found.solver["products"] <= 10


def test_vectors_that_do_not_fit_are_seen_in_blocks(world, tmp_path) -> None:
    options = METHODS["equilibrium"] | {"memory": "64MB"}
    assert "kept" in weigh(world, tmp_path / "fits.parquet", **options).facts["kernel"]
    with pytest.raises(KdbiasError, match=r"a unit of two blocks of 1,024 samples need .* GiB"):
        weigh(world, tmp_path / "few.parquet", **options | {"memory": "100kB"})
    with pytest.raises(KdbiasError, match="--block-rows 1000 is no multiple of 1024"):
        weigh(world, tmp_path / "off.parquet", **options, block_rows=1000)
    with pytest.raises(KdbiasError, match="natural has no option block_rows"):
        weigh(world, tmp_path / "none.parquet", method="natural", block_rows=ROWS)
    with pytest.raises(KdbiasError, match="units run on CPUs"):
        weigh(world, tmp_path / "gpu.parquet", **options, block_rows=ROWS, device="cuda")


@pytest.mark.parametrize("kind", ["equilibrium", "matched"])
def test_kills_and_a_second_process_change_nothing(world, tmp_path, kind) -> None:
    options = METHODS[kind] | {"threads": 1}
    if kind == "matched":
        options |= {"towards": str(world / "reference")}
    killed_and_helped("kdbias.weighting.stage", "weights", world / "density", tmp_path, options, ".parquet")
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        f"{name}.parquet" for name in ("killed", "ranks", "whole")
    ]
    whole = read_manifest(tmp_path / "whole.parquet").weights
    for name in ("killed", "ranks"):
        file = tmp_path / f"{name}.parquet"
        assert np.array_equal(read_manifest(file).weights, whole)
        one, other = ((read_provenance(f) or {})["solver"] for f in (file, tmp_path / "whole.parquet"))
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }
