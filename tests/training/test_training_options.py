"""What teams switch on: sums of losses, flips, live teachers, averages, half precision, P x K, exports."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from kdbias.embedding.stage import embed
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.teachers import open_teacher

MIXING = """
import numpy as np
class Teacher:
    preprocessing = {"size": [16, 16], "color": "L", "mean": [0], "std": [1]}
    def embed(self, batch):
        vectors = batch.reshape(len(batch), -1)[:, :6].astype(np.float32)
        return vectors - 0.9 * vectors.mean(0) + 1
def teacher(device):
    return Teacher()
"""


@pytest.fixture(scope="module")
def teacher(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that kdbias trained, of another input size than the students."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    lab.run(out, loss="softmax", embeddings=None, dim=5, epochs=6, image_size="12")
    return out


@pytest.fixture(scope="module")
def flipped(lab: Any, teacher: Path) -> Path:
    """Its embeddings of all images and of their mirror images."""
    out = teacher.parent / "emb"
    embed(lab.data, out, teacher=f"run:{teacher}", flip=True, store="float32", device="cpu", workers=0)
    return out


def test_a_batch_of_more_than_all_samples_is_said_to_be_cut(lab: Any, tmp_path: Path, capsys: Any) -> None:
    lab.run(tmp_path / "cut", batch_size=1000, epochs=1)
    assert "batch 45 (of --batch-size 1,000: there are no more), 45 images" in capsys.readouterr().err
    lab.run(tmp_path / "whole", batch_size=16, epochs=1)
    assert "batch 16, 45 images" in capsys.readouterr().err


def test_a_sum_of_losses_reports_every_summand(lab: Any, tmp_path: Path, capsys: Any) -> None:
    lab.run(tmp_path / "run", loss="l2e+0.05*arcface+rkd", epochs=6, scale=16.0, margin=0.2)
    rows = lab.metrics(tmp_path / "run")
    for row in rows:
        parts = [row[f"loss_{name}"] for name in ("l2e", "arcface", "rkd")]
        assert sum(parts) == pytest.approx(row["loss"], rel=1e-5)
    assert all(rows[-1][f"loss_{name}"] < rows[0][f"loss_{name}"] for name in ("l2e", "arcface"))
    share = rows[-1]["loss_l2e"] / rows[-1]["loss"]
    assert f"l2e {share:.0%}" in capsys.readouterr().err


def test_raw_l2e_reaches_the_teachers_norms(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", loss="l2e-raw", epochs=25)
    embed(lab.data, tmp_path / "emb", teacher=f"run:{tmp_path / 'run'}", device="cpu", workers=0)
    learned, taught = EmbeddingTable.open(tmp_path / "emb"), EmbeddingTable.open(lab.folder / "emb")
    norms = dict(zip(taught.ids().to_pylist(), taught.norms(), strict=True))
    kept = pq.read_table(lab.folder / "w.parquet").column("sample_id").to_pylist()
    error = [
        abs(n / norms[i] - 1)
        for i, n in zip(learned.ids().to_pylist(), learned.norms(), strict=True)
        if i in kept
    ]
    assert np.median(error) < 0.15


def test_relational_distillation_lets_dimensions_differ(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "run", loss="rkd", dim=4, epochs=8)
    rows = lab.metrics(tmp_path / "run")
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    for loss in ("2*rkd", "rkd+0.1*softmax"):
        lab.run(tmp_path / loss[:3], loss=loss, dim=4, epochs=1)
    with pytest.raises(KdbiasError, match="--dim 4, but the teacher's vectors have 6 numbers"):
        lab.run(tmp_path / "refused", loss="rkd+l2e", dim=4)


def test_stored_flips_and_a_live_teacher_teach_the_same(
    lab: Any, teacher: Path, flipped: Path, tmp_path: Path
) -> None:
    stored = {"embeddings": str(flipped), "flip": "target", "epochs": 3}
    live = {"embeddings": None, "live_teacher": f"run:{teacher}", "flip": "target", "epochs": 3}
    lab.run(tmp_path / "stored", **stored)
    lab.run(tmp_path / "live", **live)
    lab.run(tmp_path / "streamed", **live, cache="0", workers=0)
    losses = [[r["loss"] for r in lab.metrics(tmp_path / name)] for name in ("stored", "live", "streamed")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1] == losses[2]
    # Mirroring with the wrong target, or none, is another lesson.
    lab.run(tmp_path / "same", **{**stored, "flip": "same"})
    lab.run(tmp_path / "none", **{**stored, "flip": "none"})
    for other in ("same", "none"):
        assert lab.metrics(tmp_path / other)[0]["loss"] != pytest.approx(losses[0][0], rel=1e-4)
    lab.run(tmp_path / "live same", **{**live, "flip": "same"})
    losses = [[r["loss"] for r in lab.metrics(tmp_path / name)] for name in ("same", "live same")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_live_teacher_that_mixes_the_images_of_a_batch_is_refused(lab: Any, tmp_path: Path) -> None:
    file = tmp_path / "mixing.py"
    file.write_text(MIXING)
    options = {"embeddings": None, "live_teacher": f"python:{file}:teacher"}
    with pytest.raises(KdbiasError, match=r"alone and in a batch of 16.*and give --embeddings"):
        lab.run(tmp_path / "run", **options)


def test_a_live_teacher_that_cannot_run_beside_the_student_is_refused(lab: Any, tmp_path: Path) -> None:
    from kdbias.training.data import open_training_set
    from kdbias.training.processes import Processes
    from kdbias.training.settings import TrainingSettings

    (tmp_path / "net.xml").touch()
    config = TrainingSettings(live_teacher=f"openvino:{tmp_path / 'net.xml'}")
    with pytest.raises(KdbiasError, match=r"net.xml cannot run beside the student on cuda:0 \("):
        open_training_set(lab.data, config, Processes(0, 1, torch.device("cuda:0")))


def test_a_mirrored_image_is_taught_the_norm_of_its_mirrored_view(
    lab: Any, teacher: Path, flipped: Path, tmp_path: Path
) -> None:
    options = {"loss": "l2e-raw", "flip": "target", "epochs": 2}
    lab.run(tmp_path / "stored", **options, embeddings=str(flipped))
    lab.run(tmp_path / "live", **options, embeddings=None, live_teacher=f"run:{teacher}")
    losses = [[r["loss"] for r in lab.metrics(tmp_path / name)] for name in ("stored", "live")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # A table may have mirrored vectors without their norms.
    older = tmp_path / "older"
    shutil.copytree(flipped, older)
    for part in older.glob("part-*.parquet"):
        pq.write_table(pq.read_table(part).drop_columns(["norm_flip"]), part)
    with pytest.raises(KdbiasError, match="norms of the mirrored images' vectors"):
        lab.run(tmp_path / "refused", **options, embeddings=str(older))


def test_half_of_the_images_are_mirrored_by_step_and_rank() -> None:
    from kdbias.training.step import draw_flips, mirror

    drawn = np.concatenate([draw_flips(3, step, 64, 0, 1) for step in range(200)])
    assert abs(drawn.mean() - 0.5) < 0.02
    whole, halves = draw_flips(3, 7, 64, 0, 1), [draw_flips(3, 7, 32, rank, 2) for rank in range(2)]
    assert np.array_equal(whole[0::2], halves[0])
    assert np.array_equal(whole[1::2], halves[1])
    images = torch.arange(2 * 2 * 3 * 1).reshape(2, 2, 3, 1)
    turned = mirror(images, np.array([True, False]))
    assert torch.equal(turned[0, :, :, 0], images[0, :, [2, 1, 0], 0])
    assert torch.equal(turned[1], images[1])


def test_the_running_average_is_what_is_saved(lab: Any, tmp_path: Path) -> None:
    lab.run(tmp_path / "plain")
    lab.run(tmp_path / "average", ema=0.9)
    assert lab.timeless(tmp_path / "plain") == lab.timeless(tmp_path / "average")
    plain, average = lab.student(tmp_path / "plain"), lab.student(tmp_path / "average")
    assert not lab.same(tmp_path / "plain", tmp_path / "average")
    largest = max((plain[k].float() - average[k].float()).abs().max() for k in plain)
    assert 0 < largest < 2


def test_the_running_average_follows_its_formula() -> None:
    from kdbias.training.step import move_average

    network, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    average.weight.data.fill_(1.0)
    expected = 1.0
    for step, value in enumerate([3.0, -2.0, 7.0]):
        network.weight.data.fill_(value)
        move_average(average, network, 0.5, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns_about_the_same(lab: Any, tmp_path: Path, precision: str) -> None:
    lab.run(tmp_path / "fp32", epochs=6)
    lab.run(tmp_path / precision, epochs=6, precision=precision)
    full, half = (lab.metrics(tmp_path / name)[-1]["loss"] for name in ("fp32", precision))
    assert half == pytest.approx(full, rel=0.3)
    assert not lab.same(tmp_path / "fp32", tmp_path / precision)
    assert all(v.dtype in (torch.float32, torch.int64) for v in lab.student(tmp_path / precision).values())


def test_identity_batches_train_and_resume(lab: Any, tmp_path: Path) -> None:
    options = {"loss": "arcface", "embeddings": None, "instances": 5, "batch_size": 15, "epochs": 4}
    lab.run(tmp_path / "whole", **options)
    assert lab.metrics(tmp_path / "whole")[-1]["step"] == 4 * 3
    lab.break_off(5, tmp_path / "broken", **options)
    lab.run(tmp_path / "broken", **options)
    assert lab.same(tmp_path / "whole", tmp_path / "broken")


def test_everything_at_once_resumes_exactly(lab: Any, flipped: Path, tmp_path: Path) -> None:
    options = {
        **{"loss": "l2e+0.1*arcface", "flip": "target", "ema": 0.95, "optimizer": "adamw", "lr": 0.01},
        **{"embeddings": str(flipped), "precision": "bf16", "sampling": "iid", "schedule": "step"},
    }
    lab.run(tmp_path / "whole", **options)
    lab.break_off(7, tmp_path / "broken", **options)
    lab.run(tmp_path / "broken", **options)
    assert lab.same(tmp_path / "whole", tmp_path / "broken")
    assert lab.timeless(tmp_path / "whole") == lab.timeless(tmp_path / "broken")


def test_dropout_is_a_function_of_the_step(lab: Any, tmp_path: Path) -> None:
    # An exact resume cannot restore a generator that something else moved on; it must not need one.
    from kdbias.training.step import seed_step

    drawn = []
    for disturb in (False, True):
        if disturb:
            torch.rand(100)
        seed_step(1, 5, 0)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    seed_step(1, 6, 0)
    assert not torch.equal(drawn[0], torch.rand(4))


def test_the_callers_torch_settings_come_back(lab: Any, tmp_path: Path) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    threads = torch.get_num_threads()
    lab.run(tmp_path / "run", epochs=1, threads=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_exported_student_is_a_teacher_that_gives_the_same_embeddings(lab: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    lab.run(tmp_path / "run", epochs=1, onnx=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype(np.uint8)
    exported = open_teacher(f"onnx:{tmp_path / 'run' / 'student.onnx'}").embed(images)
    assert exported == pytest.approx(
        open_teacher(f"run:{tmp_path / 'run'}").embed(images), rel=1e-4, abs=1e-5
    )


def test_scalars_are_logged_for_tensorboard(lab: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lab.run(tmp_path / "run", epochs=4, tensorboard=True)
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    logged = [(event.step, event.value) for event in log.Scalars("epoch/loss")]
    rows = lab.metrics(tmp_path / "run")
    assert [step for step, _ in logged] == [row["step"] for row in rows]
    assert [value for _, value in logged] == pytest.approx([row["loss"] for row in rows], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip": "target"}, "embed again with --flip"),
        ({"live_teacher": "run:x"}, "not both"),
        ({"embeddings": None, "live_teacher": "run:nowhere"}, "nowhere"),
        ({"instances": 5}, "--batch-size 16 is no multiple of --instances 5"),
        ({"instances": 4}, "4 identities x 4 images cannot be drawn from 3 identities"),
        ({"ema": 1.0}, "ema is 1.0, should be below 1"),
        ({"scale": 32.0}, "loss l2e takes no scale"),
        ({"loss": "l2e+softmax", "margin": 0.2}, "takes no margin"),
        ({"loss": "softmax"}, "would not read --embeddings"),
        ({"loss": "softmax", "embeddings": None, "live_teacher": "run:x"}, "would not read --live-teacher"),
        ({"loss": "l2e+nothing"}, "unknown loss 'l2e.nothing'"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    lab: Any, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(KdbiasError, match=words):
        lab.run(tmp_path / "run", **options)


def test_identity_batches_need_labels(lab: Any, tmp_path: Path) -> None:
    table = pq.read_table(lab.data).drop_columns(["label"])
    pq.write_table(table, tmp_path / "unlabelled.parquet")
    from kdbias.training.stage import train

    with pytest.raises(KdbiasError, match="has no labels"):
        train(tmp_path / "unlabelled.parquet", tmp_path / "run", **lab.options(instances=5, batch_size=15))


def test_labels_with_gaps_are_remapped_and_the_mapping_is_kept(lab: Any, tmp_path: Path) -> None:
    table = pq.read_table(lab.data)
    numbers = pa.array([{"0": 7, "1": 100, "2": 93430}[label[-1]] for label in lab.labels])
    pq.write_table(table.set_column(1, "label", numbers), tmp_path / "data.parquet")
    from kdbias.training.stage import train

    train(
        tmp_path / "data.parquet", tmp_path / "run", **lab.options(loss="arcface", embeddings=None, epochs=1)
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["classes"] == ["100", "7", "93430"]


def test_float32_is_float32_and_the_settings_come_back() -> None:
    from kdbias.training.settings import TrainingSettings
    from kdbias.training.step import reproducible

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    was = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
    for precision, expected in (("fp32", False), ("tf32", True), ("bf16", False)):
        for deterministic in (True, False):
            config = TrainingSettings(precision=precision, deterministic=deterministic)
            with reproducible(config, torch.device("cpu")):
                assert cudnn.allow_tf32 is expected
                assert matmul.allow_tf32 is expected
                assert torch.are_deterministic_algorithms_enabled() is deterministic
                assert cudnn.benchmark is not deterministic
            assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == was


def test_large_tables_are_held_in_half_precision(lab: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from kdbias.training import targets

    lab.run(tmp_path / "float32")
    monkeypatch.setattr(targets, "_FLOAT32_BYTES", 100)
    lab.run(tmp_path / "float16")
    full, half = lab.metrics(tmp_path / "float32"), lab.metrics(tmp_path / "float16")
    assert [r["loss"] for r in half] == pytest.approx([r["loss"] for r in full], rel=1e-2)
