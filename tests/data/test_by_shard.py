"""Which shard holds a sample: a tar, a row group, or a run of the data's order."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data.opening import open_data
from tests.training.conftest import png

IMAGES = [png(np.full((4, 4), i, np.uint8)) for i in range(12)]


def test_tars_are_shards(tmp_path: Path) -> None:
    for number, images in enumerate((IMAGES[:5], IMAGES[5:6], IMAGES[6:])):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for i, image in enumerate(images):
                info = tarfile.TarInfo(f"{number}-{i}.png")
                info.size = len(image)
                archive.addfile(info, io.BytesIO(image))
    source = open_data(tmp_path)
    assert source.by_shard(16).tolist() == [0] * 5 + [1] + [2] * 6
    assert source.select(np.array([7, 0, 5])).by_shard(16).tolist() == [2, 0, 1]


def test_row_groups_are_shards_and_those_at_hand_are_kept(tmp_path: Path) -> None:
    table = pa.table({"sample_id": [f"{i}" for i in range(12)], "image": IMAGES})
    pq.write_table(table.slice(0, 7), tmp_path / "a.parquet", row_group_size=3)
    pq.write_table(table.slice(7), tmp_path / "b.parquet", row_group_size=3)
    source = open_data(tmp_path)
    assert source.ids.to_pylist() == [f"{i}" for i in range(12)]
    source.images.cache_bytes = 1
    assert source.by_shard(4).tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4]
    for row in (0, 3, 6, 7):
        source.read(row)
    assert len(source.images._held) == 4
    source.read(10)
    assert source.images.cache_bytes > 3 * 3 * max(map(len, IMAGES))


def test_elsewhere_runs_of_the_data_are(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(IMAGES[i])
    source = open_data(tmp_path)
    assert source.by_shard(16).tolist() == [0, 0, 0]
    many = source.select(np.arange(5000) % 3)
    object.__setattr__(many, "rows", np.arange(5000))
    assert np.bincount(many.by_shard(16)).tolist() == [1024] * 4 + [904]
