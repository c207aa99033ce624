"""The images of a run, decoded and prepared: all of them kept in memory, or streamed by workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from kdbias.data.source import Source
from kdbias.device import parse_bytes
from kdbias.embedding.parts import failed_rows
from kdbias.errors import KdbiasError
from kdbias.loading import ImageLoader, Prepared, RowBatches
from kdbias.progress import bar, say
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.training.settings import TrainingSettings
from kdbias.wording import counted

_AHEAD = 2
_AT_ONCE = 256  # rows that a thread decodes
WAY_OUT = "; it goes on from its last checkpoint"


class Unreadable:
    """The samples of a run whose images cannot be read, and what becomes of their draws.

    drawn      (n,) bool: those that are drawn at all; others are never read
    reasons    row of the training set -> why, of those met so far
    skip       their draws go to the next sample of the training set that can be read and is drawn at all: a
               function of the data alone, so that any number of processes and a resumed run agree
    """

    def __init__(self, source: Source, config: TrainingSettings, drawn: np.ndarray) -> None:
        self.source, self.config, self.drawn = source, config, drawn
        self.skip = config.on_error == "skip"
        self.reasons: dict[int, str] = {}

    def note(self, failures: Iterable[tuple[int, str]], left: int = 1) -> None:
        """Count failures; `left` is how many images there are in spite of them.

        Raises KdbiasError for the first one where draws are not to be skipped, and where no image is left.
        """
        for row, reason in failures:
            if row in self.reasons:
                continue
            text = f"sample {self.source.ids[row].as_py()} cannot be read ({reason})"
            if not self.skip:
                way_out = "leave it out of the weights, or " if self.config.weights else ""
                raise KdbiasError(f"{text}; {way_out}let --on-error skip train without such")
            if not self.reasons:
                say(f"{text}: draws of such go to the next that can (--on-error fail ends the run instead)")
            self.reasons[row] = reason
        if not left:
            row, reason = next(iter(self.reasons.items()))
            raise KdbiasError(
                f"of {counted(len(self.reasons), 'drawn sample')} none can be read; the first: "
                f"{self.source.ids[row].as_py()} ({self.source.location(row)}): {reason}"
            )

    def rows(self) -> list[dict[str, str]]:
        """Id, path and reason of each, in the data's order."""
        return failed_rows(self.source, sorted(self.reasons.items()))


class CachedImages:
    """All images of a training set as uint8 tensors (n, h, w, c): a batch is one indexing away."""

    def __init__(self, unreadable: Unreadable, preprocessings: list[Preprocessing], pin: bool) -> None:
        self._pin, source, drawn = pin, unreadable.source, unreadable.drawn
        self._images = [
            torch.empty((source.n, *p.size, p.channels), dtype=torch.uint8) for p in preprocessings
        ]
        decoded = RowBatches(source, preprocessings)

        def fill(start: int) -> Prepared:
            batch = decoded[start + np.flatnonzero(drawn[start : start + _AT_ONCE])]
            for kept, images in zip(self._images, batch.images, strict=True):
                kept.numpy()[batch.rows] = images
            batch.images = []
            return batch

        readable, starts = drawn.copy(), range(0, source.n, _AT_ONCE)
        threads = max(1, unreadable.config.workers)
        with bar(source.n, "images", "decoding") as progress, ThreadPoolExecutor(threads) as pool:
            for start, batch in zip(starts, pool.map(fill, starts), strict=True):
                progress.update(min(_AT_ONCE, source.n - start))
                readable[[row for row, _ in batch.failures]] = False
                unreadable.note(batch.failures)
        unreadable.note((), left=int(readable.sum()))
        # Each row's own place, or that of the next one that can be read.
        places = np.flatnonzero(readable)
        self._places = places[np.searchsorted(places, np.arange(source.n)) % len(places)]

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Prepared]:
        """Batches of images from memory, in the order of the rows given."""
        batches = (self._batch(rows) for rows in row_batches)
        return _ahead(batches) if self._pin else batches

    def _batch(self, asked: np.ndarray) -> Prepared:
        rows = self._places[asked]
        images = [self._gather(images, rows) for images in self._images]
        return Prepared(images, rows, replaced=int((rows != asked).sum()))

    def _gather(self, images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        out = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=self._pin)
        return torch.index_select(images, 0, torch.from_numpy(rows), out=out)


def _ahead(batches: Iterator[Prepared]) -> Iterator[Prepared]:
    """The same batches, made by a thread while the device computes."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, batches, None))
            yield batch


class StreamedImages:
    """Images decoded when they are due, ahead of the step, by worker processes (none: in process)."""

    def __init__(self, unreadable: Unreadable, preprocessings: list[Preprocessing], pin: bool) -> None:
        self._unreadable = unreadable
        source, workers = unreadable.source, unreadable.config.workers
        stand_ins = unreadable.drawn if unreadable.skip else None
        self._loader = ImageLoader(
            source, preprocessings, workers, pin=pin, stand_ins=stand_ins, keep=True, way_out=WAY_OUT
        )

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Prepared]:
        """Batches of decoded images, in the order of the rows given; failures are noted."""
        for batch in self._loader.batches(row_batches):
            self._unreadable.note(batch.failures, len(batch.rows))
            yield batch


def open_images(
    unreadable: Unreadable, preprocessings: list[Preprocessing], pin: bool
) -> CachedImages | StreamedImages:
    """Decoded images of a run, from memory where they fit its `cache`, or streamed; same order and bytes.

    Args:
        unreadable: of their source; only images that are drawn are read.
        pin: in page-locked memory, for a CUDA device.
    """
    cache = unreadable.config.cache
    budget = 0 if cache.strip() == "0" else parse_bytes(cache)
    size = unreadable.source.n * sum(int(np.prod(p.size)) * p.channels for p in preprocessings)
    kind = CachedImages if size <= budget else StreamedImages
    return kind(unreadable, preprocessings, pin)
