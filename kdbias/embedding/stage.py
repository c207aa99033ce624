"""embed(): images through a teacher into an embedding table.

The work is planned as parts of fixed rows. Each is written whole with a completion record, so that a run that
was killed at any moment goes on from its last finished part and ends with the same table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.embedding.batches import write_parts
from kdbias.embedding.inputs import Inputs, Order, make_parts, named, open_inputs, results_of
from kdbias.embedding.parts import Part, Parts, disk_errors, open_run
from kdbias.embedding.settings import EmbedSettings
from kdbias.engine.opening import Engine, open_engine
from kdbias.errors import MachineError
from kdbias.functions import takes_settings
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import refuse_store
from kdbias.teachers.precomputed import Precomputed
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
    refuse_store(output)
    with named(settings.teacher):
        parse_spec(settings.teacher)  # what can be refused of it without its library
    if settings.preprocessing is not None:
        named_preprocessing(settings.preprocessing)
    with open_engine(settings, settings.device) as engine:
        order = Order(os.fspath(data), os.fspath(output), settings)
        order = order.for_units(settings.unit_cpus or 1) if engine.remote else order
        return _embed(order, overwrite, settings, engine)


def _embed(order: Order, overwrite: bool, settings: EmbedSettings, engine: Engine) -> EmbedResult:
    """`embed` by an engine."""
    opened = open_inputs(order, engine)
    network, source, out = opened.network, opened.source, Path(order.output)
    todo = opened.plan(engine.rank, engine.world)
    progress.say(f"data: {source.describe()}")
    progress.say(todo.describe())
    if settings.plan:
        return EmbedResult(out, "planned", source.n, 0, network.dim, len(todo.parts))
    reads = (order.data, settings.teacher.partition(":")[2])
    # Within the run as well, which is forgotten after a refusal.
    given = (engine, out, opened.config, opened.inputs, overwrite, reads, opened.defaults)
    with disk_errors(out), open_run(*given) as run, disk_errors(out):
        parts = Parts(run, source, todo, settings.teacher, opened.config)
        parts.refuse_strays()
        waiting = parts.waiting()
        if not waiting and parts.complete and run.already_finished():
            return _result(parts, "already finished")
        _say_what_is_left(parts, len(waiting))
        with progress.bar(sum(part.rows for part in waiting), "images", "embed") as bar:
            here = partial(_made_here, parts, opened, bar.update)
            for images in engine.map(partial(make_parts, order) if engine.remote else here, waiting):
                bar.update(images)
        details = {"source": source.describe(), "data": order.data, "root": settings.root}
        if not isinstance(network, Precomputed):
            about = {"teacher_weights": network.note or None, "teacher_output": network.output}
            details |= {name: value for name, value in about.items() if value is not None}
        return _conclude(parts, details)


def _made_here(
    parts: Parts, opened: Inputs, advance: Callable[[int], Any], items: Iterable[Part]
) -> Iterator[int]:
    """Make parts in this process, in one stream; `advance(n)` tells of n images."""
    write_parts(parts, results_of(opened, list(items), parts.run.out, advance))
    return iter(())


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
