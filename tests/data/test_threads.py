"""Sources are read by several threads at once: the trainer decodes that way."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from kdbias.data.opening import open_data
from kdbias.data.sharded import ParquetImages


def test_threads_share_a_parquet_file(tmp_path):
    images = [bytes([i % 256]) * 2000 for i in range(400)]
    frame = pd.DataFrame({"sample_id": [str(i) for i in range(400)], "image": images})
    frame.to_parquet(tmp_path / "data.parquet", row_group_size=10)
    # A cache of two row groups: threads at different places evict each other's all the time.
    reader = ParquetImages([str(tmp_path / "data.parquet")], "image", cache_bytes=40_000)
    order = [(37 * i) % 400 for i in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(reader.read, order))
    assert read == [images[i] for i in order]
    assert open_data(tmp_path / "data.parquet").read(3) == images[3]
