"""Training shard by shard: the draws of an epoch as without, near one another; resumed; by two processes."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.errors import KdbiasError
from kdbias.sampler.sharded_order import Shards
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.training import targets
from kdbias.training.images import StreamedImages
from kdbias.training.processes import Processes
from kdbias.training.targets import read_targets
from tests.training.together import together, torchrun

ALONE = Processes(0, 1, torch.device("cpu"))
GROUPS = 30  # of two images


@pytest.fixture(scope="module")
def grouped(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same laboratory, whose data lie in 30 row groups."""
    folder = tmp_path_factory.mktemp("grouped")
    pq.write_table(pq.read_table(lab.data), folder / "data.parquet", row_group_size=2)
    shutil.copytree(lab.folder / "emb", folder / "emb")
    shutil.copy(lab.folder / "w.parquet", folder)
    return type(lab)(folder, lab.ids, lab.labels)


def rows_of_steps(lab: Any, out: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[np.ndarray]:
    """Rows of the data that each step of a run was given."""
    taken: list[np.ndarray] = []
    batches = StreamedImages.batches

    def noted(self: StreamedImages, rows: Any) -> Any:
        for batch in batches(self, rows):
            taken.append(self._unreadable.source.positions[batch.rows])
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(StreamedImages, "batches", noted)
        lab.run(out, cache="0", workers=0, **options)
    return taken


def test_samples_are_drawn_as_often_and_near_one_another(
    grouped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"epochs": 2, "batch_size": 9, "seed": 3}
    plain = np.concatenate(rows_of_steps(grouped, tmp_path / "plain", monkeypatch, **options))
    capsys.readouterr()
    near = np.concatenate(rows_of_steps(grouped, tmp_path / "near", monkeypatch, sharded=True, **options))
    told = capsys.readouterr().err
    for epoch in (slice(0, 45), slice(45, 90)):
        assert sorted(plain[epoch]) == sorted(near[epoch])
        assert plain[epoch].tolist() != near[epoch].tolist()
        group = near[epoch] // 2
        spans = {g: np.flatnonzero(group == g) for g in set(group.tolist())}
        at_once = [sum(s[0] <= i <= s[-1] for s in spans.values()) for i in range(45)]
        assert max(at_once) <= 16
    one, other = grouped.timeless(tmp_path / "plain"), grouped.timeless(tmp_path / "near")
    assert [row[4:] for row in one] == [row[4:] for row in other]  # what was drawn, counted
    record = json.loads((tmp_path / "near" / "run.json").read_text())
    shards = len({i // 2 for i in plain.tolist()} | set(range(30)))
    assert record["sharded"]["at_hand"] == 16
    assert record["sharded"]["shards"] <= shards
    assert record["config"]["sharded"] is True
    near_by = record["sharded"]["neighbourhood"]
    assert f"draws from 16 of {record['sharded']['shards']} shards at a time, about {near_by} images" in told
    assert "sharded" not in json.loads((tmp_path / "plain" / "run.json").read_text())
    with pytest.raises(KdbiasError, match="sharded: False -> True"):
        grouped.run(tmp_path / "plain", sharded=True, **options)


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_a_run_goes_on_in_the_middle_of_an_epoch(grouped: Any, tmp_path: Path, step: int) -> None:
    options = {"sharded": True, "epochs": 2, "flip": "same"}
    grouped.run(tmp_path / "whole", **options, batch_size=9)
    grouped.break_off(step, tmp_path / "run", **options, batch_size=9)
    grouped.run(tmp_path / "run", **options, batch_size=9)
    assert grouped.same(tmp_path / "whole", tmp_path / "run")
    assert grouped.timeless(tmp_path / "whole") == grouped.timeless(tmp_path / "run")


def test_two_processes_draw_every_sample_once_also_after_one_has_begun(grouped: Any, tmp_path: Path) -> None:
    options = {"sharded": True, "epochs": 2, "batch_size": 10, "weights": None, "cache": "0"}
    grouped.break_off(2, tmp_path / "run", **options)
    finished = together(grouped, tmp_path / "run", **options)
    assert [process.returncode for process in finished] == [0, 0], finished[0].stderr
    rows = grouped.metrics(tmp_path / "run")
    assert [(row["step"], row["unique_fraction"]) for row in rows] == [(6, 1), (12, 1)]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sharded"] == {
        "shards": GROUPS,
        "at_hand": 16,
        "neighbourhood": 30,
    }


def test_two_processes_killed_within_an_epoch_draw_the_rest_of_it(grouped: Any, tmp_path: Path) -> None:
    options = {"sharded": True, "epochs": 1, "batch_size": 20, "weights": None, "checkpoint_seconds": 0}
    killed, _ = together(grouped, tmp_path / "run", die_at=2, **options)
    assert killed.returncode == -signal.SIGKILL
    assert "resuming at step 2" in torchrun(grouped, tmp_path / "run", **options)
    assert [(row["step"], row["unique_fraction"]) for row in grouped.metrics(tmp_path / "run")] == [(3, 1)]


def test_teacher_vectors_are_read_with_their_shard(
    grouped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = EmbeddingTable.open(grouped.folder / "emb")
    rng = np.random.default_rng(0)
    rows = rng.permutation(60)[:50]
    shards = Shards(rng.integers(0, 25, 50), 50)
    opened: list[object] = []
    open_parquet = targets.open_parquet
    monkeypatch.setattr(targets, "open_parquet", lambda part: opened.append(part) or open_parquet(part))
    near = read_targets(table, rows, ALONE, flipped=False, norms=True, shards=shards)
    assert not opened
    whole = read_targets(table, rows, ALONE, flipped=False, norms=True)
    for shard in range(len(shards)):  # a shard after another: each is read once
        for _ in range(2):
            samples = rng.permutation(shards.rows(shard))
            for found, expected in zip(near.at(samples, None), whole.at(samples, None), strict=True):
                assert np.array_equal(found, expected)
    assert len(opened) == len(shards)
    samples = rng.permutation(50)[:20]
    assert np.array_equal(near.at(samples, None)[0], whole.at(samples, None)[0])


def test_identities_are_not_drawn_by_shard(grouped: Any, tmp_path: Path) -> None:
    with pytest.raises(KdbiasError, match="identities come from all of the data"):
        grouped.run(tmp_path / "run", sharded=True, instances=2)
    assert not os.listdir(tmp_path)
