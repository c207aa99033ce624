"""A single flipped bit in a file that kdbias wrote is refused, or changes nothing that is read.

``KDBIAS_FLIPS`` sets how many bits are flipped in all.
"""

import json
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.data.tar_index import cached_index
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.measurement.files import read_measured, read_neighbors, read_samplings, read_uniformity
from kdbias.networks.saved import load_network, read_checkpoint
from kdbias.reporting.gathering import collect
from kdbias.reporting.outputs import read_frontier
from kdbias.sphere.snapshots import Snapshots
from kdbias.tables.density_table import read_density
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.parquet_file import read_provenance, read_table
from kdbias.tables.run_record import read_record
from kdbias.tables.weight_manifest import read_manifest
from tests.cli.outputs import run

FLIPS = int(os.environ.get("KDBIAS_FLIPS", "200"))


def values(found: Any) -> Any:
    """What was read as something to compare: arrays and tensors by their bytes."""
    if isinstance(found, torch.Tensor):
        return values(found.numpy())
    if isinstance(found, np.ndarray):
        return (found.dtype.str, found.shape, found.tobytes())
    if isinstance(found, dict):
        return {key: values(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [values(value) for value in found]
    return found.to_pylist() if hasattr(found, "to_pylist") else repr(found)


def embedding_table(folder: Path) -> Any:
    table = EmbeddingTable.open(folder)
    groups = [table.column(name) for name in table.group_columns]
    made = [read_provenance(part) for part in table.parts]
    return values(
        [table.ids(), table.labels(), groups, table.norms(), table.vectors(), made, table.provenance]
    )


def plain_table(file: Path) -> Any:
    return values([read_table(file).schema.remove_metadata(), read_table(file), read_provenance(file)])


def density(folder: Path) -> Any:
    table = read_density(folder)
    return values([table.table, table.group_columns, table.bandwidths, table.provenance])


def measured(folder: Path) -> Any:
    document = read_uniformity(folder)
    stored = vars(read_measured(folder, document, read_density(folder).ids))
    return values([stored, [vars(scheme) for scheme in read_samplings(folder, document).values()]])


def manifest(file: Path) -> Any:
    found = read_manifest(file)
    return values(
        [found.ids, found.labels, found.weights, found.group_columns, found.table, found.provenance]
    )


def student(folder: Path) -> Any:
    network, info = load_network(folder)
    return values([dict(network.state_dict()), info])


def history(folder: Path) -> Any:
    return values(collect([folder]).runs[0].metrics)


READERS = {
    "emb/part-00000.parquet": lambda file: embedding_table(file.parent),
    "emb/part-00001.parquet": lambda file: embedding_table(file.parent),
    "emb/failures.parquet": plain_table,
    "emb/run.json": lambda file: embedding_table(file.parent),
    "emb/parts/part-00000.json": read_json,
    "density/density.parquet": lambda file: density(file.parent),
    "density/schemes.parquet": lambda file: measured(file.parent),
    "density/neighbors.parquet": lambda file: values(read_neighbors(file.parent)),
    "density/uniformity.json": lambda file: read_uniformity(file.parent),
    "density/run.json": lambda file: read_record(file.parent),
    "w.parquet": manifest,
    "frontier/frontier.parquet": lambda file: values(read_frontier(file.parent).rows),
    "run/student.pt": lambda file: student(file.parent),
    "run/checkpoint.pt": lambda file: values(read_checkpoint(file)),
    "run/metrics.csv": lambda file: history(file.parent),
    "run/run.json": lambda file: read_record(file.parent),
    "knn/metrics.json": lambda file: read_metrics(file.parent),
    "knn/units.parquet": plain_table,
}


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_never_read_as_other_values(outputs: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(outputs, tmp_path / "outputs")
    file, read, rng = root / name, READERS[name], random.Random(name)
    whole, right, harmless, refusals = file.read_bytes(), read(file), 0, []
    for _ in range(-(-FLIPS // len(READERS))):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            found = read(file)
        except KdbiasError as error:
            refusals.append(str(error))
        else:
            harmless += 1
            assert found == right, (place, bit)
    logging.info("%s: %d refused, %d harmless", name, len(refusals), harmless)
    assert refusals
    assert all(str(root) in refusal for refusal in refusals)


def test_a_bit_that_makes_a_line_is_no_edit(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"values": [0.5, 0.9]})
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("0.9", "0,9"))
    with pytest.raises(KdbiasError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_rotten_snapshot_of_a_pass_is_not_gone_on_from(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "pass.npz", "key")
    state = [{"sums": np.arange(40.0), "ids": np.arange(12)}, {"counts": np.ones(9)}]
    snapshots.save(3, state)
    whole, rng = snapshots.path.read_bytes(), random.Random(0)
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        snapshots.path.write_bytes(damaged)
        assert values(snapshots.load()) in (values(None), values((3, state)))


def test_a_rotten_index_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBIAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data.rec").write_bytes(b"data")
    index = pa.table({"offset": np.arange(500), "name": [f"n{i}" for i in range(500)]})
    built = []

    def read() -> pa.Table:
        return cached_index(str(tmp_path / "data.rec"), "test", lambda file: built.append(file) or index)

    assert read().equals(index)
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    for place in range(8, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        entry.write_bytes(damaged)
        assert read().equals(index)
    assert len(built) > 10


@pytest.mark.parametrize("where", ["seal", "footer", "page header"])
def test_what_page_checksums_do_not_cover(outputs: Path, tmp_path: Path, where: str) -> None:
    file = Path(shutil.copy(outputs / "density" / "schemes.parquet", tmp_path))
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    chunk = pq.read_metadata(file).row_group(0).column(1)
    place = {"seal": footer - 16, "footer": footer + 9, "page header": chunk.data_page_offset + 1}[where]
    damaged = bytearray(whole)
    damaged[place] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(KdbiasError, match=r"schemes\.parquet is damaged.*differs from what was written"):
        read_table(file)


def test_other_readers_find_page_checksums_and_no_seal_in_their_way(outputs: Path) -> None:
    for name in ("w.parquet", "emb/part-00000.parquet", "density/neighbors.parquet"):
        with pq.ParquetFile(outputs / name, page_checksum_verification=True) as file:
            assert file.read().equals(read_table(outputs / name))


def test_a_manifest_edited_in_pandas_is_no_rot(outputs: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(outputs / "w.parquet")
    frame.loc[frame.index[:3], "weight"] = 0.0
    frame.to_parquet(tmp_path / "w.parquet")
    found = read_manifest(tmp_path / "w.parquet")
    assert (found.weights[:3] == 0).all()
    assert found.provenance == read_manifest(outputs / "w.parquet").provenance
    assert "edited since kdbias weights wrote it" in run("inspect {file}", file=tmp_path / "w.parquet").output


def test_a_document_is_edited_on_purpose(outputs: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(outputs / "density" / "run.json", tmp_path))
    file.write_text(file.read_text().replace('"seconds"', '"seconds_"'))
    with pytest.raises(KdbiasError, match="takes out its entry 'digest'"):
        read_json(file)
    kept = [line for line in file.read_text().splitlines() if '"digest"' not in line]
    file.write_text("\n".join([*kept[:-2], kept[-2].rstrip(","), kept[-1]]))
    assert "seconds_" in read_json(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds_": 1, "digest": "content 0"}))
    assert read_json(file)["seconds_"] == 1  # in one line: another program wrote it


def test_parts_of_another_table_are_refused(outputs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(outputs / "emb", tmp_path / "emb")
    shutil.copy(root / "part-00000.parquet", root / "part-00001.parquet")
    with pytest.raises(KdbiasError, match="not those that its record lists"):
        EmbeddingTable.open(root)


def test_files_by_earlier_versions_have_no_digests_and_are_read(outputs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(outputs, tmp_path / "outputs")
    right = [read(root / name) for name, read in READERS.items() if not name.startswith("run")]
    for file in root.rglob("*.parquet"):
        pq.write_table(pq.read_table(file), file)
    for file in root.rglob("*.json"):
        document = read_json(file)
        write_json(file, document)
        lines = [line for line in file.read_text().splitlines() if '"digest": "content' not in line]
        file.write_text("\n".join([*lines[:-2], lines[-2].rstrip(","), lines[-1]]))
        assert read_json(file) == document
    assert [read(root / name) for name, read in READERS.items() if not name.startswith("run")] == right
