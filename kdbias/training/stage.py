"""Train a student: on the teacher's embeddings, or on labels, drawing samples as the weights say.

    kdbias train images/ -o student --embeddings emb --weights weights.parquet
    kdbias train images/ -o teacher --loss arcface --student torchvision:resnet18
    torchrun --nproc-per-node 8 -m kdbias.cli train faces.rec -o student --embeddings emb --student
    mobilefacenet

What can be refused without torch, which takes seconds to import, is refused here; `loop` does the rest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.loss_terms import OF_LABELS, parse_loss
from kdbias.tables.files import require_there
from kdbias.training.settings import TrainingSettings

if TYPE_CHECKING:
    from kdbias.training.result import TrainingResult


@takes_settings(TrainingSettings, file="config")
def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    plan: bool = False,
    settings: TrainingSettings,
) -> TrainingResult:
    """Train a student on `data` and leave student.pt, metrics.csv, config.toml and run.json in `output`.

    The same call again resumes an interrupted run exactly, or finds it finished and does nothing. Under
    torchrun the processes share every batch.

    Args:
        data: what `kdbias.open_data` reads.
        output: folder to write.
        resume: refuse to begin a new run.
        overwrite: begin anew whatever is there.
        plan: say what it would take and write, from a few steps that are timed and thrown away.
        config: TOML file with the options below as keys; options win over it.

    Raises:
        KdbiasError: unknown keys, inputs that do not match by id, a changed configuration (the keys that
            differ are named), or a loss that is no longer a number.
    """
    if resume and overwrite:
        raise KdbiasError("--resume goes on with a run and --overwrite removes it: leave one of them out")
    _refuse_teachers(settings)
    _refuse_inputs(os.fspath(data), settings)
    if plan:
        from kdbias.training.planned import plan_training

        return plan_training(data, output, settings)
    from kdbias.training.loop import run_training

    return run_training(data, output, resume, overwrite, settings)


def _refuse_teachers(settings: TrainingSettings) -> None:
    """Refuse a loss without the one teacher that it learns from, and a teacher that it would not hear."""
    distils = any(name not in OF_LABELS for _, name in parse_loss(settings.loss))
    if distils and (settings.embeddings is None) == (settings.live_teacher is None):
        raise KdbiasError(
            f"loss {settings.loss} learns from a teacher: give --embeddings or --live-teacher (not both); "
            "--loss softmax learns from labels"
        )
    unread = [f"--{k.replace('_', '-')}" for k in ("embeddings", "live_teacher") if getattr(settings, k)]
    if unread and not distils:
        raise KdbiasError(
            f"loss {settings.loss} learns from labels alone and would not read {' or '.join(unread)}: leave "
            "it out, or add a loss that learns from a teacher, such as l2e"
        )


def _refuse_inputs(data: str, settings: TrainingSettings) -> None:
    """Refuse data, an embedding table or weights of which a look at the paths shows that there are none."""
    from kdbias.data.opening import require_data
    from kdbias.tables.embedding_record import require_table
    from kdbias.teachers.spec import parse_spec

    require_data(data)
    if settings.live_teacher is not None:
        parse_spec(settings.live_teacher)
    if settings.embeddings is not None:
        require_table(settings.embeddings)
    if settings.weights is not None:
        require_there(settings.weights)
