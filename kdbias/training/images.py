"""The images of a run, decoded and prepared: all of them kept in memory, or streamed by workers."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kdbias.data.decode import UnreadableImage, decode_image
from kdbias.data.source import Source
from kdbias.device import parse_bytes
from kdbias.embedding.loader import dead_worker, worker_death
from kdbias.errors import KdbiasError
from kdbias.progress import bar
from kdbias.teachers.preprocessing import Preprocessing
from kdbias.training.config import TrainingConfig

_AHEAD = 2
_WAY_OUT = "; it goes on from its last checkpoint"


def decode_row(source: Source, row: int, color: str) -> np.ndarray:
    try:
        return decode_image(source.read(row), color)
    except UnreadableImage as error:
        name = source.ids[row].as_py()
        raise KdbiasError(
            f"sample {name} cannot be read ({error.reason}); leave it out of the weights"
        ) from error


@dataclass
class Batch:
    """One step's images and the rows (b,) of the training set they come from.

    `images` holds one uint8 tensor (b, h, w, c) a preprocessing: the student's, then the live teacher's.
    """

    images: list[torch.Tensor]
    rows: np.ndarray


class CachedImages:
    """All images of a training set as uint8 tensors (n, h, w, c): a batch is one indexing away."""

    def __init__(
        self,
        source: Source,
        preprocessings: list[Preprocessing],
        workers: int,
        drawn: np.ndarray,
        pin_memory: bool,
    ) -> None:
        self._pin = pin_memory
        self._images = [
            torch.empty((source.n, *p.size, p.channels), dtype=torch.uint8) for p in preprocessings
        ]
        arrays = [images.numpy() for images in self._images]

        def fill(start: int) -> int:
            for row in start + np.flatnonzero(drawn[start : start + 256]):
                for array, image in zip(arrays, _prepared(source, preprocessings, int(row)), strict=True):
                    array[row] = image
            return min(256, source.n - start)

        starts = range(0, source.n, 256)
        with bar(source.n, "images", "decoding") as progress, ThreadPoolExecutor(max(1, workers)) as pool:
            for done in pool.map(fill, starts):
                progress.update(done)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        batches = (
            Batch([self._gather(images, rows) for images in self._images], rows) for rows in row_batches
        )
        return _ahead(batches) if self._pin else batches

    def _gather(self, images: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        out = torch.empty((len(rows), *images.shape[1:]), dtype=torch.uint8, pin_memory=self._pin)
        return torch.index_select(images, 0, torch.from_numpy(rows), out=out)


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, made by a thread while the device computes."""
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, batches, None) for _ in range(_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, batches, None))
            yield batch


class _ImageRows(Dataset[tuple[list[np.ndarray], int]]):
    def __init__(self, source: Source, preprocessings: list[Preprocessing]) -> None:
        self.source, self.preprocessings = source, preprocessings

    def __len__(self) -> int:
        return self.source.n

    def __getitem__(self, row: int) -> tuple[list[np.ndarray], int]:
        return _prepared(self.source, self.preprocessings, row), row


def _prepared(source: Source, preprocessings: list[Preprocessing], row: int) -> list[np.ndarray]:
    colors = {p.decode_color for p in preprocessings}
    decoded = {color: decode_row(source, row, color) for color in colors}
    return [p.apply(decoded[p.decode_color]) for p in preprocessings]


def _stack(samples: Sequence[tuple[list[np.ndarray], int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    images, rows = zip(*samples, strict=True)
    return [torch.from_numpy(np.stack(kind)) for kind in zip(*images, strict=True)], torch.tensor(rows)


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _RowBatches:
    """The rows of an epoch's batches; workers outlive an epoch, and are asked for the next one's."""

    def __init__(self) -> None:
        self.of_epoch: Iterable[np.ndarray] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (rows.tolist() for rows in self.of_epoch)


class StreamedImages:
    """Images decoded when they are due, ahead of the step, by worker processes (none: in process)."""

    def __init__(
        self, source: Source, preprocessings: list[Preprocessing], workers: int, pin_memory: bool
    ) -> None:
        self._rows = _RowBatches()
        self._loader = DataLoader(
            _ImageRows(source, preprocessings),
            batch_sampler=self._rows,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_stack,
            worker_init_fn=_leave_interrupts,
        )

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        self._rows.of_epoch = row_batches
        try:
            for images, rows in self._loader:
                yield Batch(images, rows.numpy())
        except (ConnectionError, EOFError) as error:  # one died while it handed over a batch
            raise dead_worker(str(error) or type(error).__name__, _WAY_OUT) from error
        except KdbiasError as error:
            # A worker's error arrives as its whole traceback; the last line is the message.
            raise KdbiasError(str(error).strip().splitlines()[-1].rpartition("KdbiasError: ")[2]) from error


@contextlib.contextmanager
def worker_deaths() -> Iterator[None]:
    """Raise KdbiasError where a decode worker dies, which a signal handler reports anywhere in the block."""
    try:
        yield
    except RuntimeError as error:
        death = worker_death(error, _WAY_OUT)
        if death is None:
            raise
    else:
        return
    raise death  # not inside the handler: torch's report has nothing to add


def open_images(
    source: Source,
    preprocessings: list[Preprocessing],
    drawn: np.ndarray,
    config: TrainingConfig,
    pin_memory: bool = False,
) -> CachedImages | StreamedImages:
    """Decoded images from memory where they fit `config.cache`, else from workers; same order and bytes.

    `drawn` (n,) bool says which images will be asked for; others are never read.
    """
    budget = 0 if config.cache.strip() == "0" else parse_bytes(config.cache)
    size = source.n * sum(int(np.prod(p.size)) * p.channels for p in preprocessings)
    if size <= budget:
        return CachedImages(source, preprocessings, config.workers, drawn, pin_memory)
    return StreamedImages(source, preprocessings, config.workers, pin_memory)
