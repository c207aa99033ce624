"""embed(): images through a teacher into an embedding table.

The work is planned as units of fixed rows. Each becomes one part, written whole with a completion record, so
that a run that was killed at any moment goes on from its last finished part and ends with the same table.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbias import progress
from kdbias.data.filters import spelled
from kdbias.data.opening import open_data
from kdbias.device import check_parallel, resolve_device
from kdbias.embedding.engine import run_teacher, take_precomputed, write_units
from kdbias.embedding.plan import Plan, rank_and_world, usual_rows
from kdbias.embedding.units import Parts, disk_errors, open_run
from kdbias.errors import KdbiasError, MachineError
from kdbias.tables.embedding_parts import STORES
from kdbias.tables.run_record import Run
from kdbias.teachers import PRECOMPUTED, Teacher, open_teacher
from kdbias.teachers.precomputed import Precomputed, open_precomputed
from kdbias.wording import counted, visible


@dataclass(frozen=True)
class EmbedResult:
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

    def summary(self) -> str:
        """A line for people, and where the time went."""
        lines = [
            f"{self.path}: {self.state}, {counted(self.samples, 'sample')} of {self.dim} numbers in "
            f"{counted(self.parts, 'part')}, {counted(self.failures, 'failure')}"
        ]
        if self.images_per_second is not None:
            spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
            lines.append(f"{self.images_per_second:,.0f} images/s ({spent})")
        return "\n".join(map(visible, lines))


def embed(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    teacher: str,
    preprocessing: str | None = None,
    teacher_output: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    image_column: str | None = None,
    where: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    same_order: bool = False,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "fp32",
    channels_last: bool | None = None,
    compile: bool = False,
    store: str = "float16",
    workers: int = 2,
    flip: bool = False,
    on_error: str = "skip",
    plan: bool = False,
    overwrite: bool = False,
    rows_per_part: int | None = None,
) -> EmbedResult:
    """Embed the images of `data` with `teacher` into the embedding table `output`.

    The same call again resumes an interrupted run and does nothing for a finished one. What changes the table
    (teacher, preprocessing, precision, store, flip, data and filters, rows_per_part) may not change in
    between; how it is computed (batch_size, device, workers, ...) and where data and teacher lie may.

    Args:
        data: what `kdbias.open_data` reads, with its options id_column ... root.
        output: folder to write `part-*.parquet`, `failures.parquet` and `run.json` to.
        teacher: a spec of `kdbias.teachers.open_teacher`, or `precomputed:FILE`.
        preprocessing: TOML file with a [preprocessing] table, instead of the teacher's own.
        teacher_output: name or index of the output that gives the embeddings, of a network with several.
        same_order: rows of a precomputed array without ids stand in the order of `data` before `where`.
        batch_size: images a batch; halved by itself when the device runs out of memory.
        device: "auto", "cpu", "cuda" or "cuda:N"; under torchrun "auto" takes the process's own GPU.
        precision: "fp32", "bf16" or "fp16" arithmetic.
        channels_last, compile: see `kdbias.teachers.TeacherOptions`.
        store: "float16" or "float32" vectors on disk.
        workers: decode processes; 0 decodes in this one.
        flip: also embed the mirrored image, column `embedding_flip`.
        on_error: what an unreadable image does: "skip" lists it in failures.parquet, "fail" ends the run.
        plan: say what would be done, and stop.
        overwrite: start over where `output` holds another run.
        rows_per_part: rows of a part; an interrupted run loses the one at work and the one being written at
            most. By default a sixteenth of all, but 2,048 to 16,384.

    Raises:
        KdbiasError: wrong options, changed configuration or data, no image readable, NaN or zero embeddings,
            or a teacher whose embedding of an image depends on the others in its batch.
    """
    _check_options(store, on_error, batch_size, workers, rows_per_part)
    rank, world = rank_and_world()
    columns: dict[str, Any] = {
        "id_column": id_column,
        "label_column": label_column,
        "path_column": path_column,
        "image_column": image_column,
    }
    stored = teacher.startswith(f"{PRECOMPUTED}:")
    source = open_data(data, **columns, where=where, root=root, images=not stored)
    rows_per_part = rows_per_part or usual_rows(source.n)
    config: dict[str, Any] = {
        "precision": precision,
        "store": store,
        "flip": flip,
        "where": spelled(where, source.types()),
        "rows_per_part": rows_per_part,
        **{name: column for name, column in columns.items() if column is not None},
    }
    details = {"source": source.describe(), "data": os.fspath(data), "root": _text(root)}
    network: Teacher | Precomputed
    if stored:
        network_options = (flip or None, preprocessing, teacher_output, channels_last, compile or None)
        if precision != "fp32" or any(option is not None for option in network_options):
            raise KdbiasError(
                "precomputed embeddings take no --flip, --preprocessing, --output, --precision, "
                "--channels-last or --compile: no network runs"
            )
        with _named(teacher):
            network = open_precomputed(teacher.partition(":")[2], id_column)
        rows = network.rows_for(source, same_order)
        source, remark = network.label(source, rows)
        if remark is not None:
            progress.say(remark)
            details["source"] = source.describe()
        progress.say(
            f"embed: no network runs; {network.vectors.dtype} vectors of {teacher} ({network.dim}-d)"
        )
    else:
        where_to_run = _device(device, world)
        with _named(teacher):
            network = open_teacher(
                teacher,
                device=where_to_run,
                precision=precision,
                preprocessing=preprocessing,
                channels_last=channels_last,
                compile=compile,
                output=teacher_output,
            )
        about = {"teacher_weights": network.note or None, "teacher_output": network.output}
        details |= {name: value for name, value in about.items() if value is not None}
        config["preprocessing"] = network.preprocessing.to_dict()
        progress.say(_first_line(network, batch_size, workers))
    todo = Plan(source.n, network.dim, rows_per_part, store, flip, rank, world)
    progress.say(f"data: {source.describe()}")
    progress.say(todo.describe())
    if plan:
        return EmbedResult(Path(output), "planned", source.n, 0, network.dim, len(todo.units))
    inputs = {"data": source.fingerprint, "teacher": network.fingerprint}
    reads = (data, teacher.partition(":")[2])
    with disk_errors(Path(output)):
        run = _open_run(Path(output), config, inputs, overwrite, reads, rank, world)
    parts = Parts(run, source, todo, teacher)
    parts.refuse_strays()
    waiting = [unit for unit in todo.own_units if parts.done(unit, thorough=True) is None]
    if run.state == "finished" and not waiting and parts.complete:
        run.require({"counts": {"samples": int, "failures": int, "parts": int}})
        counts = run.record["counts"]
        progress.say(f"{run.out} is finished already ({counted(counts['samples'], 'sample')}); nothing to do")
        return EmbedResult(
            run.out, "already finished", counts["samples"], counts["failures"], network.dim, counts["parts"]
        )
    if run.state == "finished":
        progress.say(
            f"{run.out} was finished, but lost files: {len(waiting):,} of {len(todo.own_units):,} parts are "
            "made again"
        )
    elif len(waiting) < len(todo.own_units):
        done = len(todo.own_units) - len(waiting)
        progress.say(f"resuming: {done:,} of {len(todo.own_units):,} parts are done")
    with progress.bar(sum(unit.rows for unit in waiting), "images", "embed") as bar:
        if isinstance(network, Precomputed):
            results = take_precomputed(network, rows, waiting, run.out)
        else:
            results = run_teacher(network, source, waiting, batch_size, workers, flip, on_error, bar.update)
        write_units(parts, results)
    return _conclude(parts, todo, details)


def _check_options(
    store: str, on_error: str, batch_size: int, workers: int, rows_per_part: int | None
) -> None:
    if store not in STORES:
        raise KdbiasError(f"--store is {store!r}, should be float16 or float32")
    if on_error not in ("skip", "fail"):
        raise KdbiasError(f"--on-error is {on_error!r}, should be skip or fail")
    check_parallel("workers", workers, 0)
    for name, value, least in (("batch-size", batch_size, 1), ("rows-per-part", rows_per_part, 1)):
        if value is not None and value < least:
            raise KdbiasError(f"--{name} is {value}, should be at least {least}")


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
    found = resolve_device(device)
    if not found.startswith("cuda"):
        return found
    if device in ("auto", "cuda") and world > 1 and "LOCAL_RANK" in os.environ:
        found = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
    import torch

    torch.cuda.set_device(found)  # else pinned memory takes a context on the first GPU, in every process
    return found


def _first_line(teacher: Teacher, batch_size: int, workers: int) -> str:
    import torch

    threads = torch.get_num_threads()
    return (
        f"embed: {teacher.device}, {teacher.precision}, {counted(threads, 'thread')}, batch {batch_size}, "
        f"{workers} decode workers; {teacher.describe()}; {teacher.preprocessing.describe()}"
    )


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _open_run(
    out: Path,
    config: dict[str, Any],
    inputs: dict[str, str],
    overwrite: bool,
    reads: Sequence[Any],
    rank: int,
    world: int,
) -> Run:
    if world == 1:
        return open_run(out, config, inputs, overwrite, reads)
    from kdbias.embedding.ranks import open_shared_run

    return open_shared_run(out, config, inputs, overwrite, reads, rank, world)


def _conclude(parts: Parts, todo: Plan, details: dict[str, Any]) -> EmbedResult:
    records = [parts.done(unit) for unit in todo.units]
    complete = [record for record in records if record is not None]
    own = len(todo.own_units)
    lost = own - sum(records[unit.index] is not None for unit in todo.own_units)
    if lost:
        raise MachineError(
            f"{parts.run.out} lost {lost:,} of its parts while kdbias embed ran; run the same command again"
        )
    if len(complete) < len(records):
        progress.say(
            f"process {todo.rank} of {todo.world} is done with its {counted(own, 'part')}; "
            f"{len(records) - len(complete):,} of all {len(records):,} are still to come from others"
        )
        samples = sum(record["rows"] for record in complete)
        failures = sum(record["failures"] for record in complete)
        return EmbedResult(parts.run.out, "partial", samples, failures, todo.dim, len(complete))
    with disk_errors(parts.run.out):
        seconds = parts.finish(complete, details)
    counts = parts.run.record["counts"]
    result = EmbedResult(
        parts.run.out, "finished", counts["samples"], counts["failures"], todo.dim, counts["parts"], seconds
    )
    if result.failures:
        progress.say(f"{counted(result.failures, 'image')} failed; see {parts.run.out / 'failures.parquet'}")
    return result
