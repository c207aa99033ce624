"""One unreadable image costs its own draws, wherever and however often it is met, or ends the run."""

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdbias.errors import KdbiasError
from kdbias.tables.weight_manifest import read_manifest
from kdbias.training.stage import train

WAYS = {
    "cached": {},
    "streamed": {"cache": "0", "workers": 0},
    "workers": {"cache": "0", "workers": 2},
}


def spoilt(lab: Any, folder: Path, *bad: int, stand_in: bool = False) -> Path:
    """The lab's data with images that are cut off, or with others' rows in their place."""
    table = pq.read_table(lab.data)
    images = table.column("image").to_pylist()
    labels = table.column("label").to_pylist()
    for row in bad:
        images[row] = images[row + 1] if stand_in else images[row][:40]
        labels[row] = labels[row + 1] if stand_in else labels[row]
    columns = {"sample_id": table["sample_id"], "label": labels, "image": pa.array(images)}
    file = folder / f"data{stand_in}.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def options(**more: Any) -> dict[str, Any]:
    usual = {"loss": "softmax", "epochs": 3, "batch_size": 16, "lr": 0.05, "device": "cpu", "threads": 1}
    return {**usual, "color": "L", **more}


def failures(run: Path) -> list[str]:
    return pq.read_table(run / "failures.parquet").column("sample_id").to_pylist()


@pytest.mark.parametrize("way", WAYS)
def test_draws_of_an_unreadable_image_go_to_the_next_that_can_be_read(
    lab: Any, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = spoilt(lab, tmp_path, 17)
    result = train(bad, tmp_path / "run", **options(**WAYS[way]))
    told = capsys.readouterr().err
    assert "sample s017 cannot be read (" in told
    assert "1 of 60 samples cannot be read; see" in told
    assert result.failures == 1
    assert "1 sample cannot be read" in result.summary()
    assert failures(tmp_path / "run") == ["s017"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["failures"] == 1
    assert [row["unreadable"] for row in lab.metrics(tmp_path / "run")] == [1, 1, 1]
    # As if the next sample stood there twice.
    assert train(spoilt(lab, tmp_path, 17, stand_in=True), tmp_path / "as", **options()).failures == 0
    assert lab.same(tmp_path / "run", tmp_path / "as")
    assert not (tmp_path / "as" / "failures.parquet").exists()


def test_as_often_as_the_weights_draw_it(lab: Any, tmp_path: Path) -> None:
    manifest = read_manifest(lab.folder / "w.parquet")
    row = lab.ids.index(manifest.ids[int(np.argmax(manifest.weights))].as_py())
    runs = [tmp_path / way for way in WAYS]
    for way, out in zip(WAYS.values(), runs, strict=True):
        train(spoilt(lab, tmp_path, row), out, **lab.options(color="L", epochs=2, **way))
    counts = [row["unreadable"] for row in lab.metrics(runs[0])]
    expected = manifest.weights.max()
    assert all(np.floor(expected) <= count <= np.ceil(expected) for count in counts)
    for other in runs[1:]:
        assert lab.same(runs[0], other)
        assert [row["unreadable"] for row in lab.metrics(other)] == counts


@pytest.mark.parametrize("way", WAYS)
def test_a_run_broken_off_goes_on_to_the_same_student(lab: Any, tmp_path: Path, way: str) -> None:
    bad = spoilt(lab, tmp_path, 4, 5, 59)
    train(bad, tmp_path / "whole", **options(**WAYS[way]))

    class Broken(type(lab)):  # type: ignore[misc]
        data = bad

    broken = Broken(lab.folder, lab.ids, lab.labels)
    more = options(**WAYS[way], weights=None, embeddings=None)
    broken.break_off(6, tmp_path / "run", **more)
    assert train(bad, tmp_path / "run", **options(**WAYS[way])).failures == 3
    assert lab.same(tmp_path / "run", tmp_path / "whole")
    assert failures(tmp_path / "run") == failures(tmp_path / "whole") == ["s004", "s005", "s059"]
    assert [row["unreadable"] for row in lab.metrics(tmp_path / "run")] == [3, 3, 3]


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_the_run_where_that_is_asked(lab: Any, tmp_path: Path, way: str) -> None:
    bad = spoilt(lab, tmp_path, 17)
    with pytest.raises(KdbiasError, match="sample s017 cannot be read") as caught:
        train(bad, tmp_path / "run", **options(on_error="fail", **WAYS[way]))
    assert "weights" not in str(caught.value)  # none were given
    assert "\n" not in str(caught.value)
    # Fast or slow, skipping or not: the same run.
    train(bad, tmp_path / "run", **options(**WAYS[way]))


def test_the_weights_are_a_way_out_where_they_were_given(lab: Any, tmp_path: Path) -> None:
    row = lab.ids.index(read_manifest(lab.folder / "w.parquet").ids[3].as_py())
    with pytest.raises(KdbiasError, match="leave it out of the weights, or let --on-error skip"):
        train(spoilt(lab, tmp_path, row), tmp_path / "run", **lab.options(on_error="fail"))


@pytest.mark.parametrize("way", WAYS)
def test_no_readable_image_is_an_error(lab: Any, tmp_path: Path, way: str) -> None:
    with pytest.raises(KdbiasError, match=r"of 60 drawn samples none can be read; the first: s0"):
        train(spoilt(lab, tmp_path, *range(60)), tmp_path / "run", **options(**WAYS[way]))
    assert not (tmp_path / "run" / "run.json").exists()


def test_want_of_memory_for_one_image_is_its_own(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbias.data.source import Source

    read = Source.read

    def greedy(source: Source, row: int) -> Any:
        if row == 17:
            raise MemoryError
        return read(source, row)

    monkeypatch.setattr(Source, "read", greedy)
    for way in WAYS:
        train(lab.data, tmp_path / way, **options(**WAYS[way]))
        table = pq.read_table(tmp_path / way / "failures.parquet")
        assert table.column("sample_id").to_pylist() == ["s017"]
        assert table.column("reason").to_pylist() == ["out of memory"]


def _one_of_two(rank: int, port: int, data: Path, out: Path, more: dict[str, Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(data, out, **options(**more))


def test_two_processes_count_the_failures_of_both(lab: Any, tmp_path: Path) -> None:
    bad = spoilt(lab, tmp_path, 3, 30, 31)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("spawn")
    more = {"cache": "0", "workers": 0, "epochs": 2}
    processes = [
        fork.Process(target=_one_of_two, args=(rank, port, bad, tmp_path / "two", more)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert failures(tmp_path / "two") == ["s003", "s030", "s031"]
    assert [row["unreadable"] for row in lab.metrics(tmp_path / "two")] == [3, 3]
