"""embed(): images through a teacher into an embedding table.

The work is planned as parts of fixed rows. Each is written whole with a completion record, so that a run that
was killed at any moment goes on from its last finished part and ends with the same table.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kdbias import progress
from kdbias.data.source import Source
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.embedding.batches import write_parts
from kdbias.embedding.growth import GrownParts, discard, growth_of, home_of, recover
from kdbias.embedding.inputs import Facts, Inputs, Order, make_parts, named, open_inputs, results_of
from kdbias.embedding.parts import Part, Parts, disk_errors
from kdbias.embedding.planned import plan_embedding
from kdbias.embedding.settings import EmbedSettings
from kdbias.engine.opening import Engine, open_engine
from kdbias.errors import ConfigChangedError, KdbiasError, MachineError
from kdbias.functions import takes_settings
from kdbias.planning import Planned
from kdbias.tables.embedding_table import STAGE, EmbeddingTable
from kdbias.tables.run_record import finished_alike
from kdbias.teachers import Teacher
from kdbias.teachers.precomputed import Precomputed
from kdbias.teachers.side_car import named_preprocessing
from kdbias.teachers.spec import parse_spec
from kdbias.wording import counted, visible, visible_lines

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
    planned  what it would take and write, where that alone was asked
    kept     samples that were taken from an earlier state of the table
    """

    path: Path
    state: str
    samples: int
    failures: int
    dim: int
    parts: int
    seconds: dict[str, float] = field(default_factory=dict)
    planned: Planned | None = None
    kept: int = 0

    @property
    def images_per_second(self) -> float | None:
        """Samples that were embedded by elapsed time, or None where none was."""
        elapsed = self.seconds.get("elapsed", 0.0)
        embedded = self.samples - self.kept
        return embedded / elapsed if elapsed > 0 and embedded else None

    def blocks(self) -> list[str | Table]:
        """A line, and where the time went; of a plan, the plan."""
        if self.planned is not None:
            return [visible_lines(self.planned.summary())]
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
        self.require_made()
        return EmbeddingTable.open(self.path).to_pandas()

    def plot(self) -> Figure:
        """Up to 3,000 samples on the two directions in which they differ most, by label."""
        self.require_made()
        return EmbeddingTable.open(self.path).plot()


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
    with named(settings.teacher):
        parse_spec(settings.teacher)  # what can be refused of it without its library
    if settings.preprocessing is not None:
        named_preprocessing(settings.preprocessing)
    places = (os.fspath(data), os.fspath(output), settings.teacher)
    with open_engine(settings, settings.device, places=places) as engine:
        order = Order(os.fspath(data), os.fspath(output), settings)
        if engine.unit_cpus is not None:
            order = order.for_units(engine.unit_cpus)
        return _embed(order, overwrite, settings, engine)


def _embed(order: Order, overwrite: bool, settings: EmbedSettings, engine: Engine) -> EmbedResult:
    """`embed` by an engine."""
    opened = open_inputs(order, engine)
    pa.default_memory_pool().release_unused()  # twice as much as the ids that were read
    network, source, out = opened.network, opened.source, Path(order.output)
    todo = opened.plan(engine.rank, engine.world)
    progress.say(f"data: {source.describe()}")
    progress.say(todo.describe())
    if engine.rank == 0 and not settings.plan:
        recover(out)
    growth = None
    if settings.append:
        _refuse_append(overwrite, engine)
        growth = growth_of(out, opened)
    if settings.plan:
        done = not overwrite and finished_alike(out, STAGE, opened.config, opened.inputs, opened.defaults)
        planned = Planned.finished("embed", out) if done else plan_embedding(opened, todo, order.output)
        return EmbedResult(out, "planned", source.n, 0, network.dim, len(todo.parts), planned=planned)
    reads = order.data, settings.teacher.partition(":")[2]
    # disk_errors within the run as well, which is forgotten after a refusal.
    with (
        disk_errors(out),
        _way_to_append(settings),
        home_of(out, growth, opened) as home,
        opened.open_run(engine, home, overwrite, reads) as run,
        disk_errors(out),
    ):
        made = (run, source, todo, settings.teacher, opened.config)
        parts = Parts(*made) if growth is None else GrownParts(growth, *made)
        parts.refuse_strays()
        waiting = parts.waiting()
        if growth is None and not waiting and parts.complete and run.already_finished():
            return _result(parts, "already finished")
        _make(parts, waiting, order, opened, engine)
        result = replace(_conclude(parts, _origin(order, network, source)), path=out)
    if result.failures and result.state == "finished":
        progress.say(f"{counted(result.failures, 'image')} failed; see {out / 'failures.parquet'}")
    return result


def _make(parts: Parts, waiting: list[Part], order: Order, opened: Inputs, engine: Engine) -> None:
    """Make the parts that are waiting, by the engine."""
    _say_what_is_left(parts, len(waiting))
    with progress.bar(sum(len(parts.rows_of(part)) for part in waiting), "images", "embed") as bar:
        here = partial(_made_here, parts, opened, bar.update)
        for images in engine.map(partial(make_parts, order) if engine.remote else here, waiting):
            bar.update(images)


def _origin(order: Order, network: Teacher | Precomputed | Facts, source: Source) -> dict[str, Any]:
    """What the record says of data and teacher beside their fingerprints."""
    found = {"source": source.describe(), "data": order.data, "root": order.settings.root}
    if isinstance(network, Precomputed):
        return found
    about = {"teacher_weights": network.note or None, "teacher_output": network.output}
    return found | {name: value for name, value in about.items() if value is not None}


def _refuse_append(overwrite: bool, engine: Engine) -> None:
    """Refuse what --append does not go with."""
    if overwrite:
        raise KdbiasError("--append goes on from the table that is there, --overwrite starts over: give one")
    if engine.spread:
        where = "on Ray" if engine.remote else f"in {engine.world}"
        raise KdbiasError(
            f"--append runs in one process, not {where}: it embeds only what is new; start it without "
            "torchrun or srun (RANK, WORLD_SIZE) and without --engine"
        )


@contextlib.contextmanager
def _way_to_append(settings: EmbedSettings) -> Iterator[None]:
    """A refusal of other data says how to go on from what is there."""
    try:
        yield
    except ConfigChangedError as error:
        if settings.precomputed or "input data is another one" not in str(error):
            raise
        raise ConfigChangedError(
            f"{error}. If the data have grown: --append embeds only what is new"
        ) from error


def _made_here(
    parts: Parts, opened: Inputs, advance: Callable[[int], Any], items: Iterable[Part]
) -> Iterator[int]:
    """Make parts in this process, in one stream; `advance(n)` tells of n images."""
    write_parts(parts, results_of(opened, list(items), parts.run.out, advance, parts.rows_of))
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
    return EmbedResult(parts.run.out, state, *numbers, seconds or {}, kept=parts.changes.get("kept", 0))


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
    discard(out)
    return result
