"""Rows of a data source -> batches of prepared pixels, made in this process or in decode workers.

One unreadable image costs one row, never its batch. Workers are forked where the platform can (the source's
arrays are then shared, not copied), touch neither faiss nor CUDA, leave Ctrl-C to this process and may
outlive a pass. Batches come back through shared memory or, where that has no room, through pipes.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kdbias.data.image_facts import digest_of, facts_of
from kdbias.data.source import Source
from kdbias.errors import KdbiasError, MachineError
from kdbias.progress import say
from kdbias.tables.columns import IMAGE
from kdbias.teachers.preprocessing import Preprocessing

_PREFETCH = 4
_SHARED = "/dev/shm"
_STARVED = "out of memory"


@dataclass
class Prepared:
    """One batch.

    images    a uint8 (b, h, w, c) tensor a preprocessing, of the images that could be read
    rows      (b,) their rows in the source
    facts     (b, 6) float32, `columns.IMAGE` of each, where they were asked for
    digests   (b,) uint64 of their content, likewise
    failures  (row, reason) of rows that could not be read
    replaced  how many of `rows` stand in for such
    piped     it came through a pipe, since shared memory has no room
    """

    images: list[Any]
    rows: np.ndarray
    facts: np.ndarray | None = None
    digests: np.ndarray | None = None
    failures: list[tuple[int, str]] = field(default_factory=list)
    replaced: int = 0
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    piped: bool = False

    def pin_memory(self) -> Prepared:
        """Called by the loader's pinning thread."""
        self.images = [torch.as_tensor(images).pin_memory() for images in self.images]
        return self


def prepare_image(
    data: Any, preprocessings: list[Preprocessing], facts: np.ndarray | None = None
) -> list[np.ndarray]:
    """Bytes of an image file, or pixels -> uint8 (h, w, c) a preprocessing; decoded once where that serves.

    Args:
        facts: (6,) float32 to be filled with what the first decoding shows, see `image_facts`.

    Raises whatever decoders raise; `failure_reason` makes a text of it.
    """
    decoded: dict[str, np.ndarray] = {}
    prepared: list[np.ndarray] = []
    for prepare in preprocessings:
        color = prepare.decode_color
        pixels = None if prepare.fast_decode else decoded.get(color)
        if pixels is None:
            pixels = prepare.decode(data)
        if not prepare.fast_decode:
            decoded[color] = pixels
        if facts is not None and not prepared:
            facts[:] = facts_of(pixels, data if prepare.fast_decode else None)
        prepared.append(prepare.apply(pixels))
    return prepared


def failure_reason(error: Exception) -> str:
    """Why an image cannot be read, on one line."""
    if isinstance(error, MemoryError):
        return _STARVED
    text = getattr(error, "reason", None) or str(error) or type(error).__name__
    if not isinstance(error, KdbiasError | OSError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(str(text).split())[:300]


class RowBatches(Dataset[Prepared]):
    """Maps rows (b,) of the source to their batch.

    stand_ins  (n,) bool: a row that cannot be read is replaced by the next of these, in the order of the data
               and from its end on to its start; None leaves it out of its batch
    facts      whether batches hold what their images look like at a glance
    """

    def __init__(
        self,
        source: Source,
        preprocessings: list[Preprocessing],
        stand_ins: np.ndarray | None = None,
        facts: bool = False,
    ) -> None:
        self.source, self.preprocessings, self._facts = source, preprocessings, facts
        self._stand_ins = None if stand_ins is None else np.flatnonzero(stand_ins)
        self._unreadable: dict[int, str] = {}

    def __getitem__(self, rows: np.ndarray) -> Prepared:
        shapes = [(len(rows), *p.size, p.channels) for p in self.preprocessings]
        images, piped = _room_for(shapes)
        pixels = [np.asarray(one) for one in images]
        facts = np.empty((len(rows), len(IMAGE)), np.float32) if self._facts else None
        digests = np.empty(len(rows), np.uint64) if self._facts else None
        batch = Prepared(images, rows, facts, digests, piped=piped)
        taken: list[int] = []
        for row in rows.tolist():
            for candidate in self._candidates(row):
                if self._take(candidate, [one[len(taken)] for one in pixels], batch, len(taken)):
                    batch.replaced += candidate != row
                    taken.append(candidate)
                    break
        batch.images = [one[: len(taken)] for one in images]
        batch.rows = np.asarray(taken, np.int64)
        if facts is not None and digests is not None:
            batch.facts, batch.digests = facts[: len(taken)], digests[: len(taken)]
        return batch

    def _candidates(self, row: int) -> Iterator[int]:
        yield row
        if self._stand_ins is not None:
            after = int(np.searchsorted(self._stand_ins, row, side="right"))
            yield from map(int, itertools.chain(self._stand_ins[after:], self._stand_ins[:after]))

    def _take(self, row: int, places: list[np.ndarray], batch: Prepared, at: int) -> bool:
        """Put the images of a row into their places, its facts into row ``at`` of the batch's.

        False, with its failure noted, where it has none.
        """
        facts = None if batch.facts is None else batch.facts[at]
        if (known := self._unreadable.get(row)) is not None:
            batch.failures.append((row, known))
            return False
        begun = read = time.perf_counter()
        try:
            data = self.source.read(row)
            read = time.perf_counter()
            for place, image in zip(places, prepare_image(data, self.preprocessings, facts), strict=True):
                place[:] = image
            if batch.digests is not None:
                batch.digests[at] = digest_of(data)
        except Exception as error:  # decoders raise almost anything on damaged files
            reason = failure_reason(error)
            if self._stand_ins is not None:  # rows come again
                self._unreadable[row] = reason
            batch.failures.append((row, reason))
        else:
            return True
        finally:
            batch.read_seconds += read - begun
            batch.decode_seconds += time.perf_counter() - read
        return False


def _room_for(shapes: Sequence[tuple[int, ...]]) -> tuple[list[Any], bool]:
    """Room for uint8 images of these shapes; in a worker shared memory, or arrays (True) where it is full.

    Memory that its system promises and does not have ends a worker by a signal, and an error while a batch is
    handed over loses it unsaid: so the room is taken first, and only where it is free.
    """
    tensors = [torch.empty(shape, dtype=torch.uint8) for shape in shapes]
    if get_worker_info() is None:
        return tensors, False
    try:
        if sum(t.nbytes for t in tensors) < shutil.disk_usage(_SHARED).free:
            return [tensor.share_memory_() for tensor in tensors], False
    except FileNotFoundError:
        if sys.platform != "linux":
            return tensors, False
    except (OSError, RuntimeError):
        pass
    return [tensor.numpy() for tensor in tensors], True


class _Pass:
    """The rows of a pass; workers may outlive it, and are asked for the next one's."""

    def __init__(self) -> None:
        self.row_batches: Iterable[np.ndarray] = ()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.row_batches)


class ImageLoader:
    """Batches of prepared images, in the order in which their rows are asked for.

    workers    processes that read and decode ahead; 0 does it in this one
    pin        images in page-locked memory, for a CUDA device
    stand_ins, facts  see `RowBatches`
    keep       workers stay for the next pass
    way_out    what to say where a worker dies, after "with fewer --workers (0 decodes in this process)"
    """

    def __init__(
        self,
        source: Source,
        preprocessings: list[Preprocessing],
        workers: int,
        *,
        pin: bool = False,
        stand_ins: np.ndarray | None = None,
        facts: bool = False,
        keep: bool = False,
        way_out: str = "",
    ) -> None:
        self._pass, self._keep, self._way_out = _Pass(), keep and workers > 0, way_out
        self._images = RowBatches(source, preprocessings, stand_ins, facts)
        self._pin, self._piped = pin, False
        self._loader = self._made(workers)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Prepared]:
        """The batches of one pass.

        Raises MachineError where a worker dies, or memory is wanting for each image of a batch.
        """
        self._pass.row_batches = row_batches
        iterator = self._begun()
        try:
            for batch in iterator:
                self._look_at(batch)
                batch.images = [torch.as_tensor(images) for images in batch.images]
                yield batch
        except (OSError, EOFError) as error:  # it died while it handed over a batch
            raise dead_worker(str(error) or type(error).__name__, self._way_out) from error
        finally:
            # Now, not when the iterator is collected: until then torch's signal handler would go on to report
            # a dead worker, in whatever code runs then.
            shut_down = getattr(iterator, "_shutdown_workers", None)
            if shut_down is not None and not self._keep:
                shut_down()

    def _made(self, workers: int) -> DataLoader[Prepared]:
        return DataLoader(
            self._images,
            batch_size=None,
            sampler=self._pass,
            num_workers=workers,
            pin_memory=self._pin,
            prefetch_factor=_PREFETCH if workers else None,
            multiprocessing_context=_start_method() if workers else None,
            worker_init_fn=_leave_interrupts,
            persistent_workers=self._keep,
        )

    def _begun(self) -> Iterator[Prepared]:
        with warnings.catch_warnings():
            # Python >= 3.12 warns of forking beside threads, torch of more workers than cores: as chosen.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*worker processes in total.*", category=UserWarning)
            workers = self._loader.num_workers
            try:
                # Their queues take a little shared memory; torch does not survive that there is none.
                queues = [multiprocessing.get_context(_start_method()).Queue() for _ in range(2 * workers)]
                del queues
                return iter(self._loader)
            except OSError as error:
                if not workers:
                    raise
                say(f"no decode workers can be started ({error}): images are decoded in this process, slower")
                self._keep, self._loader = False, self._made(0)
                return iter(self._loader)

    def _look_at(self, batch: Prepared) -> None:
        starved = [reason for _, reason in batch.failures if reason.startswith(_STARVED)]
        if not len(batch.rows) and len(starved) == len(batch.failures) > 1:
            raise MachineError(
                f"{_STARVED} while decoding images: run the same command again with fewer --workers or a "
                f"smaller --batch-size{self._way_out}"
            )
        if batch.piped and not self._piped:
            self._piped = True
            size = sum(images.nbytes for images in batch.images) / 1e6
            say(
                f"{_SHARED} has no room for batches of {size:,.1f} MB: they come through pipes, which is "
                "slower; give it more (docker run --shm-size=2g) or use a smaller --batch-size or --workers 0"
            )


@contextlib.contextmanager
def worker_deaths(way_out: str = "") -> Iterator[None]:
    """Raise MachineError where a decode worker dies, which a signal handler reports anywhere in the block."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        report = str(error)
    else:
        return
    raise dead_worker(report, way_out)  # not inside the handler: torch's report has nothing to add


def dead_worker(report: str, way_out: str) -> MachineError:
    """Error for a decode worker that died, with its report and the way out."""
    return MachineError(
        f"a decode worker died ({report.splitlines()[0].rstrip('. ')}); usually memory or shared memory ran "
        f"out: run the same command again with fewer --workers (0 decodes in this process){way_out}"
    )


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: the main process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_method() -> str | None:
    """How decode workers start; None for the system's own way."""
    # Elsewhere fork is absent, or (macOS) unsafe beside the system's own threads; the source is then pickled.
    return "fork" if sys.platform == "linux" else None
