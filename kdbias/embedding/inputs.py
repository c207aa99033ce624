"""What an embedding table is made of: data and teacher, opened here, or in the process that does a unit."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.data.filters import spelled
from kdbias.data.opening import Source, open_data
from kdbias.device import process_device
from kdbias.embedding.batches import run_teacher, take_precomputed, write_parts
from kdbias.embedding.embedded import Embedded
from kdbias.embedding.parts import RECORDS, Part, Parts, Plan, usual_rows
from kdbias.embedding.settings import EmbedSettings
from kdbias.engine.opening import Engine
from kdbias.engine.ranks import joined, open_run
from kdbias.errors import KdbiasError
from kdbias.tables.embedding_record import STAGE
from kdbias.tables.run_record import Run
from kdbias.tables.temporaries import clean_temporaries
from kdbias.teachers import Teacher, open_teacher
from kdbias.teachers.precomputed import Precomputed, open_precomputed
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.wording import counted


@dataclass(frozen=True)
class Order:
    """A call of `embed`, as any process can follow it; `call` tells it from a later one of the same words."""

    data: str
    output: str
    settings: EmbedSettings
    call: str = field(default_factory=lambda: uuid.uuid4().hex)

    def for_units(self, cpus: int) -> Order:
        """The order of units that have so many CPUs: decoding takes those beside the first."""
        return replace(self, settings=replace(self.settings, workers=min(self.settings.workers, cpus - 1)))


@dataclass(frozen=True)
class Facts:
    """What is to be known of a teacher that other processes open; attributes as a `Teacher`'s."""

    dim: int
    fingerprint: str
    preprocessing: Preprocessing
    note: str
    output: str | None
    told: str


@dataclass(frozen=True)
class Inputs:
    """Data and teacher of a run; `rows` (n,) of stored vectors, which is whose.

    config    what makes the table what it is, beside the data and the teacher
    defaults  what an earlier record stands for that lacks an option
    """

    settings: EmbedSettings
    network: Teacher | Precomputed | Facts
    source: Source
    rows: np.ndarray
    config: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprints that a run is of."""
        return {"data": self.source.fingerprint, "teacher": self.network.fingerprint}

    @property
    def made_from(self) -> dict[str, Any]:
        """Configuration and inputs, as a record has them."""
        return {"config": self.config, "inputs": self.inputs}

    def open_run(
        self, engine: Engine, out: Path, overwrite: bool, reads: Sequence[Any]
    ) -> contextlib.AbstractContextManager[Run]:
        """The run in `out` of an engine's processes, as `engine.ranks.open_run` gives it."""
        clean = partial(clean_temporaries, out / RECORDS)
        given = STAGE, self.config, self.inputs, overwrite, self.defaults
        return open_run(engine, out, *given, clean, reads=reads, mends=True)

    def plan(self, rank: int = 0, world: int = 1) -> Plan:
        """The parts, and which of them are a process's."""
        rows, settings = self.config["rows_per_part"], self.settings
        return Plan(self.source.n, self.network.dim, rows, settings.store, settings.flip, rank, world)


def open_inputs(order: Order, engine: Engine | None = None) -> Inputs:
    """Open what an order names; a network is left to the units of an engine that is remote.

    Raises:
        KdbiasError: what cannot be opened, or does not fit together.
    """
    settings = order.settings
    source = open_data(order.data, **settings.reading, images=not settings.precomputed)
    config = _config(settings, source)
    defaults = settings.defaults(config)
    if settings.precomputed:
        return Inputs(settings, *_open_stored(settings, source), config, defaults)
    network: Teacher | Facts
    if engine is not None and engine.remote:
        network = next(engine.map(partial(facts_of, order), [0]))
        progress.say(f"{network.told}, {counted(engine.slots, 'unit')} at a time")
    else:
        network = open_network(settings, engine.world if engine is not None else 1)
        progress.say(_told(network, settings))
    config["preprocessing"] = network.preprocessing.to_dict()
    defaults["preprocessing"] = network.preprocessing.defaults(config["preprocessing"])
    return Inputs(settings, network, source, np.empty(0, np.int64), config, defaults)


@lru_cache(maxsize=1)
def _opened(order: Order) -> Inputs:
    """In a process that does units: opened once."""
    return open_inputs(order)


def facts_of(order: Order, items: Iterable[int]) -> Iterator[Facts]:
    """A unit that opens the teacher of an order and says what it is."""
    for _ in items:
        found = _opened(order).network
        assert isinstance(found, Teacher)
        facts = found.dim, found.fingerprint, found.preprocessing, found.note, found.output
        yield Facts(*facts, told=_told(found, order.settings))


def make_parts(order: Order, items: Iterable[Part]) -> Iterator[int]:
    """A unit that makes parts of a run that was opened elsewhere; yields the images of each.

    Raises:
        KdbiasError: this process sees other data, or another teacher, than the run is of.
    """
    opened, settings, out = _opened(order), order.settings, Path(order.output)
    for part in items:
        run = joined(0, out, STAGE, opened.config, opened.inputs, opened.defaults, opened=True)
        parts = Parts(run, opened.source, opened.plan(), settings.teacher, opened.config)
        write_parts(parts, results_of(opened, [part], out))
        yield part.rows


def results_of(
    opened: Inputs,
    parts: list[Part],
    folder: Path,
    advance: Callable[[int], Any] = lambda images: None,
    rows_of: Callable[[Part], np.ndarray] = Part.all_rows,
) -> Generator[tuple[Part, Embedded], None, None]:
    """What the parts come to, in order; `advance(n)` tells of n images that a network has seen.

    `rows_of` says which rows of a part a network is to see; `folder` takes a temporary file where stored
    vectors cannot be read in the order of the data.
    """
    network = opened.network
    if isinstance(network, Precomputed):
        return take_precomputed(network, opened.rows, parts, folder)
    assert isinstance(network, Teacher)
    return run_teacher(network, opened.source, parts, opened.settings, advance, rows_of)


def _config(settings: EmbedSettings, source: Source) -> dict[str, Any]:
    """What makes the table what it is, beside the data and the teacher."""
    given = {name: value for name, value in settings.record().items() if value is not None}
    where = spelled(settings.where, source.types())
    return {**given, "where": where, "rows_per_part": settings.rows_per_part or usual_rows(source.n)}


def _open_stored(settings: EmbedSettings, source: Source) -> tuple[Precomputed, Source, np.ndarray]:
    """Stored vectors, the data with the labels that lie beside them, and which row (n,) is whose."""
    with named(settings.teacher):
        stored = open_precomputed(settings.teacher.partition(":")[2], settings.id_column)
    rows = stored.rows_for(source, settings.same_order)
    source, remark = stored.label(source, rows)
    if remark is not None:
        progress.say(remark)
    progress.say(
        f"embed: no network runs; {stored.vectors.dtype} vectors of {settings.teacher} ({stored.dim}-d)"
    )
    return stored, source, rows


def open_network(settings: EmbedSettings, world: int = 1) -> Teacher:
    """The teacher on this process's device."""
    device = process_device(settings.device, world)
    with named(settings.teacher):
        teacher = open_teacher(
            settings.teacher,
            device=device,
            precision=settings.precision,
            preprocessing=settings.preprocessing,
            channels_last=settings.channels_last,
            compile=settings.compile,
            output=settings.teacher_output,
        )
    return teacher


def _told(teacher: Teacher, settings: EmbedSettings) -> str:
    """How a teacher runs, for people."""
    import torch

    return (
        f"embed: {teacher.device}, {teacher.precision}, {counted(torch.get_num_threads(), 'thread')}, "
        f"batch {settings.batch_size}, {counted(settings.workers, 'decode worker')}; {teacher.describe()}; "
        f"{teacher.preprocessing.describe()}"
    )


@contextlib.contextmanager
def named(teacher: str) -> Iterator[None]:
    """A refusal of the teacher's file or name says which option named it."""
    try:
        yield
    except KdbiasError as error:
        rest = teacher.partition(":")[2] or teacher
        if rest not in str(error) or "--teacher" in str(error):
            raise
        raise type(error)(f"--teacher: {error}") from error
