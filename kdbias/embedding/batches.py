"""Work on the parts of an embedding run: batches through the teacher, results in order, files on disk."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.data.opening import Source
from kdbias.embedding.embedded import Embedded
from kdbias.embedding.parts import Part, Parts
from kdbias.embedding.settings import EmbedSettings
from kdbias.errors import KdbiasError
from kdbias.tables.columns import IMAGE
from kdbias.teachers.precomputed import Precomputed
from kdbias.teachers.teacher import Teacher

if TYPE_CHECKING:
    from kdbias.loading import Prepared

    _Batch = tuple[Prepared, list[np.ndarray], dict[str, float]]

WAY_OUT = "; finished parts are kept"

_CONSISTENT = 0.999
_CHECKED_ROWS = 32


def take_precomputed(
    stored: Precomputed, rows: np.ndarray, parts: list[Part], folder: Path
) -> Generator[tuple[Part, Embedded], None, None]:
    """The results of the parts from stored vectors; `rows` (n,) says which belongs to which sample.

    `folder` takes a temporary file where the vectors cannot be read in the order of the data.
    """
    if not parts:
        return
    begun = time.perf_counter()
    wanted = np.concatenate([rows[part.start : part.stop] for part in parts])
    vectors, places = stored.within_reach(wanted, folder)
    for part in parts:
        here, places = places[: part.rows], places[part.rows :]
        taken = np.asarray(vectors[here], dtype=np.float32)
        read = time.perf_counter() - begun
        seconds = {"elapsed": read, "read": read}
        yield part, Embedded(np.arange(part.start, part.stop), taken, None, [], seconds)
        begun = time.perf_counter()


def run_teacher(
    teacher: Teacher,
    source: Source,
    parts: list[Part],
    settings: EmbedSettings,
    advance: Callable[[int], Any],
    rows_of: Callable[[Part], np.ndarray] = Part.all_rows,
) -> Generator[tuple[Part, Embedded], None, None]:
    """The results of the parts, in order; `advance(n)` is called for every n images done.

    `rows_of` says which rows of a part there are to embed.
    """
    if not parts:
        return
    from kdbias.loading import ImageLoader

    pin, size = teacher.device.startswith("cuda"), settings.batch_size
    batches = (batch for part in parts for batch in _batches(rows_of(part), size))
    workers = min(settings.workers, sum(-(-len(rows_of(part)) // size) for part in parts))
    loader = ImageLoader(source, [teacher.preprocessing], workers, pin=pin, facts=True, way_out=WAY_OUT)
    embedded = _Feed(teacher, source, settings).embedded(loader.batches(batches))
    for part in parts:
        yield part, _gathered(islice(embedded, -(-len(rows_of(part)) // size)), teacher.dim, advance)


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The rows of each batch of a part; none crosses parts, so a resumed run repeats the same ones."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class _Feed:
    """Leads batches through the teacher's stream and brings each back with its vectors."""

    def __init__(self, teacher: Teacher, source: Source, settings: EmbedSettings) -> None:
        self.teacher, self.source, self.settings = teacher, source, settings
        self.waited = 0.0
        self._pending: deque[Prepared] = deque()
        self._unchecked = True

    def embedded(self, batches: Iterator[Prepared]) -> Iterator[_Batch]:
        """(batch, its vectors and, with flip, the mirrored ones, seconds) in order."""
        begun, collected = time.perf_counter(), list[np.ndarray]()
        for vectors in self.teacher.stream(self._images(batches), self.settings.flip):
            collected.append(vectors)
            if len(collected) <= self.settings.flip:
                continue
            while not len(self._pending[0].rows):
                yield self._pending.popleft(), [], {}
            if self._unchecked and len(collected[0]) > 1:
                require_consistent(self.teacher, self._pending[0].images[0].numpy(), collected[0])
                self._unchecked = False
            elapsed = time.perf_counter() - begun
            yield self._pending.popleft(), collected, {"elapsed": elapsed, "wait": self.waited}
            collected, self.waited, begun = [], 0.0, time.perf_counter()
        while self._pending:
            yield self._pending.popleft(), [], {}

    def _images(self, batches: Iterator[Prepared]) -> Iterator[Any]:
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begun
            if batch is None:
                return
            if batch.failures and self.settings.on_error == "fail":
                row, reason = batch.failures[0]
                name = self.source.ids[row].as_py()
                raise KdbiasError(
                    f"{name} ({self.source.location(row)}): {reason}; --on-error skip lists it and goes on"
                )
            self._pending.append(batch)
            if len(batch.rows):
                yield batch.images[0]


def _gathered(batches: Iterable[_Batch], dim: int, advance: Callable[[int], Any]) -> Embedded:
    """The results of a part from those of its batches."""
    rows, failures = [np.empty(0, np.int64)], list[tuple[int, str]]()
    facts, digests = [np.empty((0, len(IMAGE)), np.float32)], [np.empty(0, np.uint64)]
    views: tuple[list[np.ndarray], list[np.ndarray]] = ([np.empty((0, dim), np.float32)], [])
    seconds = dict.fromkeys(("elapsed", "read", "decode", "wait"), 0.0)
    for batch, vectors, spent in batches:
        rows.append(batch.rows)
        facts += [] if batch.facts is None else [batch.facts]
        digests += [] if batch.digests is None else [batch.digests]
        failures += batch.failures
        for view, block in zip(views, vectors, strict=False):
            view.append(block)
        for name, value in {**spent, "read": batch.read_seconds, "decode": batch.decode_seconds}.items():
            seconds[name] += value
        advance(len(batch.rows) + len(batch.failures))
    seconds["compute"] = max(0.0, seconds["elapsed"] - seconds["wait"])
    flipped = np.concatenate(views[1]) if views[1] else None
    joined = np.concatenate(rows), np.concatenate(views[0]), flipped, failures, seconds
    return Embedded(*joined, facts=np.concatenate(facts), digests=np.concatenate(digests))


def require_consistent(
    teacher: Teacher,
    images: np.ndarray,
    embedded: np.ndarray | None = None,
    remedy: str = "use --batch-size 1, or export the network for any batch size",
) -> float:
    """Embed images of one batch (at most 32) again one by one and compare; returns the lowest cosine.

    images: uint8 (b, h, w, c); embedded: (b, d) what the teacher gave for the whole batch, if known.
    A network exported for one batch size can silently spoil others.
    Raises KdbiasError where a cosine is not above 0.999.
    """
    count = len(images)
    if count < 2:
        return 1.0
    together = teacher.embed(images) if embedded is None else embedded
    picked = np.unique(np.linspace(0, count - 1, min(count, _CHECKED_ROWS)).astype(np.intp))
    alone = np.concatenate([teacher.embed(images[i : i + 1]) for i in picked]).astype(np.float64)
    together = together[picked].astype(np.float64)
    # Zero and non-finite vectors are refused later, by id; here they would only cloud the message.
    scale = np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1)
    sound = np.isfinite(scale) & (scale > 0)
    if not sound.any():
        return 1.0
    cosines = np.einsum("ij,ij->i", together[sound], alone[sound]) / scale[sound]
    lowest = float(cosines.min())
    if lowest <= _CONSISTENT:
        raise KdbiasError(
            f"teacher {teacher.spec} embeds an image differently alone and in a batch of {count}: cosine "
            f"{lowest:.4f} at worst, {cosines.mean():.4f} on average over {len(cosines)} images, should be "
            f"above {_CONSISTENT}; {remedy}"
        )
    return lowest


def write_parts(parts: Parts, results: Generator[tuple[Part, Embedded], None, None]) -> None:
    """Write parts as they come, one behind, so that the device does not wait for the disk.

    Raises KdbiasError where a decode worker dies (torch says so from a signal handler: anywhere in here).
    """
    from kdbias.loading import worker_deaths

    writing: Future[None] | None = None
    with worker_deaths(WAY_OUT), contextlib.closing(results), ThreadPoolExecutor(max_workers=1) as writer:
        for part, found in results:
            if writing is not None:
                writing.result()
            writing = writer.submit(parts.write, part, found)
        if writing is not None:
            writing.result()
