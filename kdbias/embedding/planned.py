"""What an embedding would take: a few batches of its images go through the teacher, and are thrown away."""

from __future__ import annotations

import time

import numpy as np

from kdbias.embedding.batches import run_teacher
from kdbias.embedding.inputs import Inputs
from kdbias.embedding.parts import Plan
from kdbias.errors import KdbiasError
from kdbias.planning import Planned
from kdbias.teachers import Teacher
from kdbias.teachers.precomputed import Precomputed
from kdbias.wording import counted, human_bytes

_TRIED = 8  # batches that are embedded at most
_PART = 10  # of few images a tenth, or two batches


def plan_embedding(opened: Inputs, todo: Plan, output: str) -> Planned:
    """The plan of a run.

    Args:
        todo: its parts, and how many processes share them.
        output: the folder that it would write.
    """
    n, network = opened.source.n, opened.network
    work = f"{counted(n, 'sample')} -> {counted(len(todo.parts), 'part')} of {network.dim}-d vectors"
    files = [
        f"{output}/part-*.parquet (about {human_bytes(todo.bytes)})",
        f"{output}/failures.parquet, run.json",
    ]
    seconds, timed = None, "stored vectors are read and written, as fast as the disk is"
    if isinstance(network, Teacher):
        seconds, timed = _timed(opened, network)
    elif not isinstance(network, Precomputed):
        timed = "the teacher runs in the engine's own processes, which nothing has timed"
    return Planned("embed", work, seconds and seconds / todo.world, timed, None, files)


def _timed(opened: Inputs, network: Teacher) -> tuple[float | None, str]:
    """Seconds for all images, from batches spread over the data, and what was timed.

    The first batch, which starts the workers, counts only where there is no other.
    """
    source, settings = opened.source, opened.settings
    least, most = (batches * settings.batch_size for batches in (2, _TRIED))
    count = min(max(least, source.n // _PART), most, source.n)
    rows = np.linspace(0, source.n - 1, count).round().astype(np.int64)
    trial = Plan(count, network.dim, count, settings.store, settings.flip)
    marks = [(0, time.perf_counter())]

    def advance(done: int) -> None:
        marks.append((marks[-1][0] + done, time.perf_counter()))

    try:
        for _ in run_teacher(network, source.select(rows), trial.parts, settings, advance):
            pass
    except KdbiasError as error:
        return None, f"the images that were tried failed: {error}"
    before, began = marks[min(1, len(marks) - 2)]
    done, spent = marks[-1][0] - before, marks[-1][1] - began
    about = f"{counted(done, 'image')} of it in {spent:.2f} s on {network.device}"
    return spent * source.n / done, f"{about}, {counted(settings.workers, 'worker')}"
