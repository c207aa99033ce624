"""Training on tiny data: what is learned, what is left behind, and that interruption changes nothing."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.data.source import Source
from kdbias.errors import KdbiasError
from kdbias.networks.saved import load_network, read_checkpoint
from kdbias.progress import bar
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.training import loop
from kdbias.training.record import Meter, Record
from kdbias.training.stage import train


def test_a_student_learns_the_teachers_vectors_joined_by_id(lab: Any, tmp_path: Path) -> None:
    result = lab.run(tmp_path / "run", epochs=12)
    found = lab.metrics(tmp_path / "run")
    assert found[0]["loss"] > 0.3
    # Data, embeddings and weights stand in three different orders: a join by position could not learn.
    assert found[-1]["loss"] < 0.05
    assert result.loss == pytest.approx(found[-1]["loss"], rel=1e-6)
    assert result.steps == 12 * 3 == found[-1]["step"]
    np.testing.assert_allclose(result.plot().axes[0].lines[0].get_ydata(), [row["loss"] for row in found])
    assert result.to_pandas()["epoch"].tolist() == list(range(1, 13))
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        *("checkpoint.pt", "student.pt", "metrics.csv", "config.toml", "run.json")
    }


def test_metrics_say_what_was_really_drawn(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", epochs=1)
    weights = pq.read_table(lab.folder / "w.parquet").column("weight").to_numpy()
    (row,) = lab.metrics(tmp_path / "run")
    assert 0 < row["unique_fraction"] <= 1
    # Kish's effective sample size of the weights; rounding counts to whole numbers can only lower it.
    assert row["ess_fraction"] <= 45 / (weights @ weights) + 1e-6
    assert row["ess_fraction"] > 0.6 * 45 / (weights @ weights)
    lab.run(tmp_path / "all", epochs=1, weights=None)
    (row,) = lab.metrics(tmp_path / "all")
    assert (row["unique_fraction"], row["ess_fraction"]) == (1.0, 1.0)


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_a_teacher_learns_from_labels(lab: Any, tmp_path: Path, loss: str) -> None:
    lab.run(tmp_path / "run", loss=loss, embeddings=None, epochs=12, dim=5)
    found = lab.metrics(tmp_path / "run")
    assert found[-1]["loss"] < 0.3 * found[0]["loss"]
    network, info = load_network(tmp_path / "run")
    assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 5)
    assert info["provenance"]["classes"] == ["class-0", "class-1", "class-2"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["classes"] == info["provenance"]["classes"]


def test_the_same_seed_gives_the_same_student_whatever_reads_the_images(lab: Any, tmp_path: Path) -> None:
    ways = {"cached": {}, "streamed": {"cache": "0", "workers": 0}, "workers": {"cache": "0", "workers": 2}}
    for name, options in ways.items():
        lab.run(tmp_path / name, epochs=2, **options)
    for name in ("streamed", "workers"):
        assert lab.same(tmp_path / "cached", tmp_path / name)
    lab.run(tmp_path / "seed", epochs=2, seed=1)
    assert not lab.same(tmp_path / "cached", tmp_path / "seed")


@pytest.mark.parametrize("step", [1, 3, 4, 8])
def test_a_killed_run_resumes_to_the_same_student(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    lab.run(whole)
    lab.break_off(step, broken)
    shown = []

    def bar_and_note(total: int, unit: str, label: str, done: int) -> Any:
        shown.append((total, done))
        return bar(total, unit, label, done)

    monkeypatch.setattr(loop, "bar", bar_and_note)
    lab.run(broken, resume=True)
    assert shown == [(12, step)]
    assert lab.same(whole, broken)
    assert lab.timeless(whole) == lab.timeless(broken)


def test_a_run_ends_after_exactly_so_many_steps_and_resumes_there(lab: Any, tmp_path: Path) -> None:
    whole, broken, epochs = tmp_path / "whole", tmp_path / "broken", tmp_path / "epochs"
    result = lab.run(whole, epochs=None, steps=8)
    assert (result.steps, result.epochs) == (8, 3)
    rows = lab.metrics(whole)
    assert [row["step"] for row in rows] == [3, 6, 8]
    assert rows[-1]["unique_fraction"] < rows[0]["unique_fraction"]  # of the part that was drawn
    lab.break_off(7, broken, epochs=None, steps=8)
    lab.run(broken, resume=True, epochs=None, steps=8)
    assert lab.same(whole, broken)
    assert lab.timeless(whole) == lab.timeless(broken)
    lab.run(epochs)  # as many steps as four epochs have, with the same rates
    lab.run(tmp_path / "steps", epochs=None, steps=12)
    assert lab.same(epochs, tmp_path / "steps")


def test_a_run_that_is_shorter_than_the_usual_warmup_warms_up_all_along(lab: Any, tmp_path: Path) -> None:
    assert lab.run(tmp_path / "run", epochs=None, steps=2).steps == 2
    with pytest.raises(KdbiasError, match=r"warmup is 2 epochs \(6 steps\) and the run has 2"):
        lab.run(tmp_path / "other", epochs=None, steps=2, warmup=2.0)
    with pytest.raises(KdbiasError, match="epochs is 4, but steps says when the run ends"):
        lab.run(tmp_path / "both", steps=2)


def test_the_same_call_again_does_nothing_and_another_is_refused_by_key(lab: Any, tmp_path: Path) -> None:
    first = lab.run(tmp_path / "run")
    before = (tmp_path / "run" / "student.pt").read_bytes()
    again = lab.run(tmp_path / "run", workers=1)
    assert again.already_finished
    assert again.loss == first.loss
    assert (tmp_path / "run" / "student.pt").read_bytes() == before
    with pytest.raises(KdbiasError, match=r"epochs: 4 -> 5.*seed: 0 -> 3"):
        lab.run(tmp_path / "run", epochs=5, seed=3)
    with pytest.raises(KdbiasError, match="input weights"):
        lab.run(tmp_path / "run", weights=None)
    assert not lab.run(tmp_path / "run", epochs=1, overwrite=True).already_finished
    chosen = {"where": ["label!=class-1", "label=class-0"], "weights": None, "epochs": 1}
    lab.run(tmp_path / "some", **chosen)
    chosen["where"] = ["label = class-0", "label != class-1"]  # other words for the same rows
    assert lab.run(tmp_path / "some", **chosen).already_finished


def test_a_mistake_in_starting_over_removes_nothing(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", epochs=1)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(KdbiasError, match="scale"):
        lab.run(tmp_path / "run", epochs=1, loss="l2e", scale=16.0, overwrite=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_the_written_config_repeats_the_run(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", epochs=2, seed=5)
    train(lab.data, tmp_path / "again", config=tmp_path / "run" / "config.toml")
    assert lab.same(tmp_path / "run", tmp_path / "again")


def test_colour_and_size_come_from_the_images_or_the_options(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "grey", epochs=1)
    assert load_network(tmp_path / "grey")[1]["preprocessing"]["color"] == "L"
    lab.run(tmp_path / "rgb", epochs=1, color="RGB", image_size="12x10")
    info = load_network(tmp_path / "rgb")[1]
    assert info["preprocessing"]["size"] == [12, 10]
    assert info["kwargs"]["channels"] == 3


def test_more_images_a_step_than_there_are_is_one_step_an_epoch(lab: Any, tmp_path: Path) -> None:
    assert lab.run(tmp_path / "run", epochs=2, batch_size=1000).steps == 2


def test_samples_that_the_teacher_could_not_read_are_left_out(lab: Any, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(58, 6)).astype(np.float32)
    write_embedding_table(tmp_path / "emb", pa.array(lab.ids[:58]), vectors)
    with pytest.raises(KdbiasError, match="2 of the 60 ids"):
        lab.run(tmp_path / "run", embeddings=tmp_path / "emb", weights=None, epochs=1)
    pq.write_table(pa.table({"sample_id": lab.ids[58:]}), tmp_path / "emb" / "failures.parquet")
    lab.run(tmp_path / "run", embeddings=tmp_path / "emb", weights=None, epochs=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["counts"]["samples"] == 58


def test_a_loss_that_is_no_number_ends_the_run(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(KdbiasError, match="lower --lr") as caught:
        lab.run(tmp_path / "run", lr=1e30, clip_grad=0.0, loss="softmax", embeddings=None, warmup=0.0)
    assert "checkpoint" not in str(caught.value)  # there is none


@pytest.mark.parametrize("spoilt", ["loss", "weights", "average"])
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    add, save, saved = Meter.add, Record.save, []

    def spoil(self: Meter, parts: torch.Tensor, images: int, rate: float, processes: Any, *more: int) -> None:
        parts = parts * np.nan if spoilt == "loss" and self.step == 4 else parts
        add(self, parts, images, rate, processes, *more)
        if spoilt == "weights" and self.step == 5:
            next(saved[0]["learner"].parameters()).data[0] = np.inf
        if spoilt == "average" and self.step == 5:
            next(saved[0]["average"].parameters()).data[0] = np.nan

    def watch(self: Record, learned: dict, sampler: dict, meter: Meter) -> None:
        saved.append(learned)
        save(self, learned, sampler, meter)

    monkeypatch.setattr(Meter, "add", spoil)
    monkeypatch.setattr(Record, "save", watch)
    with pytest.raises(
        KdbiasError, match=r"at step 5.*checkpoint\.pt.*start over \(--overwrite\) with a lower"
    ):
        lab.run(tmp_path / "run", checkpoint_seconds=0, ema=0.9)
    left = read_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert left["meter"]["step"] == 4
    for part in ("learner", "average"):
        assert all(torch.isfinite(value).all() for value in left["state"][part].values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embeddings": None}, "learns from a teacher"),
        ({"loss": "l3"}, "unknown loss 'l3'"),
        ({"student": "net"}, "unknown network 'net'"),
        ({"dim": 4}, "--dim 4, but the teacher's vectors have 6"),
        (
            {"where": ["label=class-0"], "weights": None, "loss": "softmax", "embeddings": None},
            "needs two classes",
        ),
        ({"where": ["label=class-0"]}, "of the 45 ids"),
        ({"resume": True}, "no checkpoint to resume"),
        ({"resume": True, "overwrite": True}, "leave one of them out"),
        ({"optimiser": "sgd"}, "unknown key optimiser"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    lab: Any, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(KdbiasError, match=words) as caught:
        lab.run(tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_dying_decode_worker_is_one_line_that_says_what_to_do(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, main = Source.read, os.getpid()

    def deadly(source: Source, row: int) -> Any:
        if row == 30 and os.getpid() != main:
            os._exit(9)
        return read(source, row)

    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", deadly)
        with pytest.raises(
            KdbiasError, match=r"a decode worker died.*fewer --workers.*last checkpoint"
        ) as caught:
            lab.run(tmp_path / "run", cache="0", workers=1)
    assert "\n" not in str(caught.value)
    lab.run(tmp_path / "run", cache="0", workers=0)
    lab.run(tmp_path / "whole")
    assert lab.same(tmp_path / "run", tmp_path / "whole")
