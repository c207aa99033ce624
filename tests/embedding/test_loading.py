"""Batches from decode workers: the same ones whatever the machine lacks, or one line."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias import loading
from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.errors import KdbiasError
from kdbias.loading import ImageLoader, worker_deaths
from kdbias.teachers.preprocessing import Preprocessing

N, SIZE = 40, 64
GREY = Preprocessing(size=(SIZE, SIZE), color="L", mean=(127.5,), std=(127.5,))
RGB = Preprocessing(size=(32, 32), mean=(127.5,) * 3, std=(127.5,) * 3)
BATCHES = [np.arange(start, start + 10) for start in range(0, N, 10)]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE), np.uint8)


@pytest.fixture(scope="module")
def source(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Source:
    import io

    from PIL import Image

    def png(image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        return file.getvalue()

    file = tmp_path_factory.mktemp("data") / "images.parquet"
    table = {"sample_id": [f"s{i:02}" for i in range(N)], "image": [png(image) for image in pixels]}
    pq.write_table(pa.table(table), file)
    return open_data(file)


def same(batches: list[Any], pixels: np.ndarray) -> bool:
    found = np.concatenate([batch.images[0].numpy() for batch in batches])
    rows = np.concatenate([batch.rows for batch in batches])
    return rows.tolist() == list(range(N)) and np.array_equal(found[..., 0], pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_preprocessing_gets_its_own_of_the_same_rows(
    source: Source, pixels: np.ndarray, workers: int
) -> None:
    batches = list(ImageLoader(source, [GREY, RGB], workers).batches(BATCHES))
    assert same(batches, pixels)
    assert [batch.images[1].shape for batch in batches] == [(10, 32, 32, 3)] * 4
    assert not any(batch.piped for batch in batches)


def test_small_shared_memory_is_told_and_batches_come_through_pipes(
    source: Source, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * SIZE * SIZE - 1))
    batches = list(ImageLoader(source, [GREY], 2).batches(BATCHES))
    assert same(batches, pixels)
    assert all(batch.piped for batch in batches)
    assert capsys.readouterr().err.count("/dev/shm has no room for batches of 0.0 MB") == 1


SMALL = """
import sys
import numpy as np
from kdbias.data.opening import open_data
from kdbias.loading import ImageLoader
from kdbias.teachers.preprocessing import Preprocessing
large = Preprocessing(size=(512, 512), mean=(127.5,) * 3, std=(127.5,) * 3)
loader = ImageLoader(open_data(sys.argv[1]), [large], 2)
batches = [np.arange(start, start + 10) for start in range(0, 40, 10)]
found = list(loader.batches(batches))  # all of them held: 8 MB each
assert [batch.rows.tolist() for batch in found] == [rows.tolist() for rows in batches]
print(sum(batch.piped for batch in found))
"""


@pytest.mark.parametrize(
    ("size", "piped", "told"),
    [("20m", (2, 3), "no room for batches of 7.9 MB"), ("8k", (0,), "no decode workers can be started")],
)
def test_a_container_with_little_shared_memory(
    source: Source, tmp_path: Path, size: str, piped: tuple[int, ...], told: str
) -> None:
    script = tmp_path / "small.py"
    script.write_text(SMALL)
    command = [sys.executable, str(script), str(source.origin)]
    mounted = 'mount -t tmpfs -o size=$0 t /dev/shm && exec "$@"'
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root, to mount a small /dev/shm of its own")
    ended = subprocess.run(
        ["unshare", "-m", "bash", "-c", mounted, size, *command], capture_output=True, text=True, timeout=280
    )
    if "unshare" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"mounts nothing here: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) in piped
    assert ended.stderr.count(told) == len(ended.stderr.splitlines()) == 1


def test_no_worker_can_be_started(
    source: Source, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import multiprocessing.context

    def full(*args: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.context.BaseContext, "Queue", full)
    assert same(list(ImageLoader(source, [GREY], 2).batches(BATCHES)), pixels)
    assert "no decode workers can be started" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_killed_worker_is_one_line(
    source: Source, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    read, main = Source.read, os.getpid()

    def deadly(data: Source, row: int) -> Any:
        if row == 25 and os.getpid() != main:
            os.kill(os.getpid(), number)
        return read(data, row)

    monkeypatch.setattr(Source, "read", deadly)
    died = r"a decode worker died.*fewer --workers.*; go on"
    with pytest.raises(KdbiasError, match=died) as caught, worker_deaths("; go on"):
        list(ImageLoader(source, [GREY], 2, way_out="; go on").batches(BATCHES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_want_of_memory_is_one_image_s_or_the_machine_s(
    source: Source, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    read = Source.read

    def greedy(data: Source, row: int) -> Any:
        if row == 3 or row // 10 == 2:
            raise MemoryError
        return read(data, row)

    monkeypatch.setattr(Source, "read", greedy)
    batches = ImageLoader(source, [GREY], workers, way_out="; parts are kept").batches(BATCHES)
    first = next(batches)
    assert first.failures == [(3, "out of memory")]
    assert first.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    with pytest.raises(KdbiasError, match=r"out of memory while decoding.*; parts are kept"):
        list(batches)
