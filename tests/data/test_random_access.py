"""Sources under threads, forks and many files: every reader gives the same bytes in any order."""

import multiprocessing
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.data.decode import UnreadableImage
from kdbias.data.opening import open_data
from kdbias.data.sharded import ParquetImages, RandomAccess

N = 300


def content(i: int) -> bytes:
    return f"image {i} ".encode() * (1 + i % 7)


def folder(path):
    for i in range(N):
        (path / f"{i:04d}.png").write_bytes(content(i))
    return path


def table(path):
    columns = {"sample_id": [f"{i:04d}" for i in range(N)], "image": [content(i) for i in range(N)]}
    pq.write_table(pa.table(columns), path / "t.parquet", row_group_size=10)
    return path / "t.parquet"


def records(path):
    out, lines = b"", []
    for i in range(N):
        payload = struct.pack("<IfQQ", 0, 1.0, i, 0) + content(i)
        lines.append(f"{i}\t{len(out)}\n")
        out += struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0" * (-len(payload) % 4)
    (path / "train.rec").write_bytes(out)
    (path / "train.idx").write_text("".join(lines))
    return path


def pairs(path):
    (path / "x.bin").write_bytes(pickle.dumps(([content(i) for i in range(N)], [True] * (N // 2))))
    return path / "x.bin"


def saved(path):
    parts = pa.table({"image": [content(i) for i in range(N)]})
    with pa.OSFile(str(path / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, parts.schema) as stream:
        stream.write_table(parts, max_chunksize=10)
    (path / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    (path / "dataset_info.json").write_text("{}")
    return path


@pytest.fixture(params=[folder, table, records, pairs, saved])
def source(request, tmp_path):
    found = open_data(request.param(tmp_path))
    if isinstance(found.images, ParquetImages):
        found.images.cache_bytes = 1000  # so that row groups come and go
    return found


def test_threads(source):
    order = np.random.default_rng(0).integers(0, N, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, order)) == [content(i) for i in order]


def _read_all(source, order, queue):
    queue.put([source.read(i) for i in order])


def test_forks_while_the_parent_reads(source):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    orders = [np.random.default_rng(seed).permutation(N).tolist() for seed in range(2)]
    assert source.read(0) == content(0)
    children = [context.Process(target=_read_all, args=(source, order, queue)) for order in orders]
    for child in children:
        child.start()
    assert [source.read(i) for i in range(N)] == [content(i) for i in range(N)]
    for _ in children:
        assert set(queue.get(timeout=60)) == {content(i) for i in range(N)}
    for child in children:
        child.join(60)


def _opens_anew(source, queue):
    source.images._open = lambda number: "anew"
    queue.put(isinstance(source.images.opened(0), str))


def test_what_lies_in_memory_survives_a_fork_and_files_do_not(tmp_path):
    source = open_data(table(tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8))
    (tmp_path / "a.toml").write_text('name = "a"\nsource = "a.npz"\n[[arrays]]\nimages = "x"\n')
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for found, anew in ((open_data(tmp_path / "a.toml"), False), (source, True)):
        found.images.opened(0)
        child = context.Process(target=_opens_anew, args=(found, queue))
        child.start()
        assert queue.get(timeout=60) == anew
        child.join(60)
        assert "_held" not in found.images.__getstate__()


def test_more_files_than_may_be_open(tmp_path):
    files = []
    for i in range(200):
        files.append(str(tmp_path / str(i)))
        (tmp_path / str(i)).write_bytes(content(i))
    access = RandomAccess(files)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    order = np.random.default_rng(0).integers(0, 200, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: access.read(i, 0, len(content(i))), order))
    assert found == [content(i) for i in order]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 64
    with pytest.raises(UnreadableImage, match="truncated"):
        access.read(0, 0, 10_000)
    os.unlink(files[5])
    with pytest.raises(UnreadableImage, match="cannot read"):
        pickle.loads(pickle.dumps(access)).read(5, 0, 1)
