"""embed(): images through a teacher into an embedding table.

The work is planned as parts of fixed rows. Each is written whole with a completion record, so that a run that
was killed at any moment goes on from its last finished part and ends with the same table.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.data.filters import spelled
from kdbias.data.opening import Source, open_data
from kdbias.device import rank_and_world, resolve_device
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.embedding.batches import run_teacher, take_precomputed, write_parts
from kdbias.embedding.parts import Parts, Plan, disk_errors, open_run, usual_rows
from kdbias.embedding.settings import EmbedSettings
from kdbias.errors import KdbiasError, MachineError
from kdbias.functions import takes_settings
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.teachers import Teacher, open_teacher
from kdbias.teachers.precomputed import Precomputed, open_precomputed
from kdbias.teachers.side_car import named_preprocessing
from kdbias.teachers.spec import parse_spec
from kdbias.wording import counted, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class EmbedResult(Result):
    """What a call of `embed` came to.

    state    "finished" (now), "already finished", "planned", or "partial" (other processes still work)
    samples  rows in the table; failures are counted apart
    seconds  elapsed (by the clock), and by activity, which overlap: read and decode (summed over workers),
             wait (for images), compute, write
    """

    path: Path
    state: str
    samples: int
    failures: int
    dim: int
    parts: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float | None:
        """Samples by elapsed time, or None where nothing ran."""
        elapsed = self.seconds.get("elapsed", 0.0)
        return self.samples / elapsed if elapsed > 0 else None

    def blocks(self) -> list[str | Table]:
        """A line, and where the time went."""
        lines = [
            f"{self.path}: {self.state}, {counted(self.samples, 'sample')} of {self.dim} numbers in "
            f"{counted(self.parts, 'part')}, {counted(self.failures, 'failure')}"
        ]
        if self.images_per_second is not None:
            spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
            lines.append(f"{self.images_per_second:,.0f} images/s ({spent})")
        return list(map(visible, lines))

    def to_pandas(self) -> pd.DataFrame:
        """A row a sample: id, label, columns and norm, without the vectors (`EmbeddingTable` has them)."""
        return EmbeddingTable.open(self.path).to_pandas()

    def plot(self) -> Figure:
        """Up to 3,000 samples on the two directions in which they differ most, by label."""
        from kdbias.display import plots

        table = EmbeddingTable.open(self.path)
        rows = np.random.default_rng(0).permutation(table.n)[:3000]
        rows.sort()
        x = table.vectors(np.float64, positions=rows)
        x -= x.mean(axis=0)
        axes, strengths, _ = np.linalg.svd(x, full_matrices=False)
        told = float((strengths[:2] ** 2).sum() / max((strengths**2).sum(), 1e-12))
        title = f"{self.path.name}: two directions, {told:.0%} of the variance"
        labels = table.labels().take(pa.array(rows)).to_pylist()
        return plots.figure(plots.scatter((axes * strengths)[:, :2], labels, title), width=5.2, height=5.0)


@takes_settings(EmbedSettings)
def embed(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    settings: EmbedSettings,
) -> EmbedResult:
    """Embed the images of `data` with a teacher into the embedding table `output`.

    The same call again resumes an interrupted run and does nothing for a finished one. What changes the table
    (teacher, preprocessing, precision, store, flip, data and filters, rows_per_part) may not change in
    between; how it is computed (batch_size, device, workers, ...) and where data and teacher lie may.

    Args:
        data: what `kdbias.open_data` reads, with its options id_column ... root.
        output: folder to write `part-*.parquet`, `failures.parquet` and `run.json` to.
        overwrite: start over where `output` holds another run.

    Raises:
        KdbiasError: wrong options, changed configuration or data, no image readable, NaN or zero embeddings,
            or a teacher whose embedding of an image depends on the others in its batch.
    """
    rank, world = rank_and_world()
    with _named(settings.teacher):
        parse_spec(settings.teacher)  # what can be refused of it without its library
    if settings.preprocessing is not None:
        named_preprocessing(settings.preprocessing)
    source = open_data(data, **settings.reading, images=not settings.precomputed)
    config = _config(settings, source)
    defaults = settings.defaults(config)
    network: Teacher | Precomputed
    if settings.precomputed:
        network, source, rows = _open_stored(settings, source)
    else:
        network, rows = _open_network(settings, world), np.empty(0, np.int64)
        config["preprocessing"] = network.preprocessing.to_dict()
        defaults["preprocessing"] = network.preprocessing.defaults(config["preprocessing"])
    todo = Plan(source.n, network.dim, config["rows_per_part"], settings.store, settings.flip, rank, world)
    progress.say(f"data: {source.describe()}")
    progress.say(todo.describe())
    if settings.plan:
        return EmbedResult(Path(output), "planned", source.n, 0, network.dim, len(todo.parts))
    inputs = {"data": source.fingerprint, "teacher": network.fingerprint}
    reads = (data, settings.teacher.partition(":")[2])
    out = Path(output)
    # Within the run as well, which is forgotten after a refusal.
    opened = (out, config, inputs, overwrite, reads, todo, defaults)
    with disk_errors(out), open_run(*opened) as run, disk_errors(out):
        parts = Parts(run, source, todo, settings.teacher, config)
        parts.refuse_strays()
        waiting = parts.waiting()
        if not waiting and parts.complete and run.already_finished():
            return _result(parts, "already finished")
        _say_what_is_left(parts, len(waiting))
        with progress.bar(sum(part.rows for part in waiting), "images", "embed") as bar:
            if isinstance(network, Precomputed):
                results = take_precomputed(network, rows, waiting, run.out)
            else:
                results = run_teacher(network, source, waiting, settings, bar.update)
            write_parts(parts, results)
        details = {"source": source.describe(), "data": os.fspath(data), "root": settings.root}
        if not isinstance(network, Precomputed):
            about = {"teacher_weights": network.note or None, "teacher_output": network.output}
            details |= {name: value for name, value in about.items() if value is not None}
        return _conclude(parts, details)


def _config(settings: EmbedSettings, source: Source) -> dict[str, Any]:
    """What makes the table what it is, beside the data and the teacher."""
    given = {name: value for name, value in settings.record().items() if value is not None}
    where = spelled(settings.where, source.types())
    return {**given, "where": where, "rows_per_part": settings.rows_per_part or usual_rows(source.n)}


def _open_stored(settings: EmbedSettings, source: Source) -> tuple[Precomputed, Source, np.ndarray]:
    """Stored vectors, the data with the labels that lie beside them, and which row (n,) is whose."""
    with _named(settings.teacher):
        stored = open_precomputed(settings.teacher.partition(":")[2], settings.id_column)
    rows = stored.rows_for(source, settings.same_order)
    source, remark = stored.label(source, rows)
    if remark is not None:
        progress.say(remark)
    progress.say(
        f"embed: no network runs; {stored.vectors.dtype} vectors of {settings.teacher} ({stored.dim}-d)"
    )
    return stored, source, rows


def _open_network(settings: EmbedSettings, world: int) -> Teacher:
    """The teacher on this process's device."""
    device = _device(settings.device, world)
    with _named(settings.teacher):
        teacher = open_teacher(
            settings.teacher,
            device=device,
            precision=settings.precision,
            preprocessing=settings.preprocessing,
            channels_last=settings.channels_last,
            compile=settings.compile,
            output=settings.teacher_output,
        )
    import torch

    progress.say(
        f"embed: {teacher.device}, {teacher.precision}, {counted(torch.get_num_threads(), 'thread')}, "
        f"batch {settings.batch_size}, {counted(settings.workers, 'decode worker')}; {teacher.describe()}; "
        f"{teacher.preprocessing.describe()}"
    )
    return teacher


@contextlib.contextmanager
def _named(teacher: str) -> Iterator[None]:
    """A refusal of the teacher's file or name says which option named it."""
    try:
        yield
    except KdbiasError as error:
        rest = teacher.partition(":")[2] or teacher
        if rest not in str(error) or "--teacher" in str(error):
            raise
        raise type(error)(f"--teacher: {error}") from error


def _device(device: str, world: int) -> str:
    """The device of this process, cuda:LOCAL_RANK where several share a machine."""
    found = resolve_device(device)
    if not found.startswith("cuda"):
        return found
    if device in ("auto", "cuda") and world > 1 and "LOCAL_RANK" in os.environ:
        found = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
    import torch

    torch.cuda.set_device(found)  # else pinned memory takes a context on the first GPU, in every process
    return found


def _say_what_is_left(parts: Parts, waiting: int) -> None:
    """Say how many parts are done, where an earlier run left some."""
    own, run = len(parts.plan.own_parts), parts.run
    if run.state == "finished":
        progress.say(f"{run.out} was finished, but lost files: {waiting:,} of {own:,} parts are made again")
    elif waiting < own:
        progress.say(f"resuming: {own - waiting:,} of {own:,} parts are done")


def _result(parts: Parts, state: str, seconds: dict[str, float] | None = None) -> EmbedResult:
    """What the record of a finished run says."""
    parts.run.require({"counts": {"samples": int, "failures": int, "parts": int}})
    counts = parts.run.record["counts"]
    numbers = (counts["samples"], counts["failures"], parts.plan.dim, counts["parts"])
    return EmbedResult(parts.run.out, state, *numbers, seconds or {})


def _conclude(parts: Parts, details: dict[str, Any]) -> EmbedResult:
    """Finish the run once every part is there; returns what there is so far."""
    todo, out = parts.plan, parts.run.out
    records = [parts.done(part) for part in todo.parts]
    complete = [record for record in records if record is not None]
    own = len(todo.own_parts)
    lost = own - sum(records[part.index] is not None for part in todo.own_parts)
    if lost:
        raise MachineError(
            f"{out} lost {lost:,} of its parts while kdbias embed ran; run the same command again"
        )
    if len(complete) < len(records):
        progress.say(
            f"process {todo.rank} of {todo.world} is done with its {counted(own, 'part')}; "
            f"{len(records) - len(complete):,} of all {len(records):,} are still to come from others"
        )
        samples = sum(record["rows"] for record in complete)
        failures = sum(record["failures"] for record in complete)
        return EmbedResult(out, "partial", samples, failures, todo.dim, len(complete))
    result = _result(parts, "finished", parts.finish(complete, details))
    if result.failures:
        progress.say(f"{counted(result.failures, 'image')} failed; see {out / 'failures.parquet'}")
    return result
