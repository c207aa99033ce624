"""From rows of a data source to batches of prepared pixels, in decode workers.

A worker reads, decodes and prepares; one unreadable image costs one row, never its batch. Workers are forked
where the platform can (the source's arrays are then shared, not copied) and touch neither faiss nor CUDA.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdbias.data import Source
from kdbias.embedding.plan import Unit
from kdbias.errors import KdbiasError
from kdbias.teachers.preprocessing import Preprocessing

# (unit index, first row, row after the last)
BatchKey = tuple[int, int, int]
_PREFETCH = 4
_WAY_OUT = " or a smaller --batch-size; finished parts are kept"


@dataclass
class Batch:
    """One batch from a worker.

    images    uint8 (b, h, w, c) tensor of the images that could be read
    rows      (b,) their rows in the source
    failures  (row, reason) of the others
    """

    unit: int
    images: torch.Tensor
    rows: np.ndarray
    failures: list[tuple[int, str]] = field(default_factory=list)
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    out_of_memory: bool = False

    def pin_memory(self) -> Batch:
        """Called by the loader's pinning thread."""
        self.images = self.images.pin_memory()
        return self


class PreparedImages(Dataset[Batch]):
    """Maps a `BatchKey` to its batch."""

    def __init__(self, source: Source, preprocessing: Preprocessing) -> None:
        self.source, self.preprocessing = source, preprocessing

    def __getitem__(self, key: BatchKey) -> Batch:
        unit, start, stop = key
        prepare = self.preprocessing
        shape = (stop - start, *prepare.size, prepare.channels)
        images = torch.empty(shape, dtype=torch.uint8)
        pixels = images.numpy()
        batch = Batch(unit, images, np.empty(0, np.int64))
        rows: list[int] = []
        clock = time.perf_counter
        for row in range(start, stop):
            begun = read = clock()
            try:
                data = self.source.read(row)
                read = clock()
                pixels[len(rows)] = prepare.apply(prepare.decode(data))
                rows.append(row)
            except MemoryError:
                batch.out_of_memory = True
                break
            except Exception as error:  # decoders raise almost anything on damaged files
                batch.failures.append((row, _reason(error)))
            batch.read_seconds += read - begun
            batch.decode_seconds += clock() - read
        batch.images = images[: len(rows)]
        batch.rows = np.asarray(rows, np.int64)
        return batch


class UnitBatches(Sampler[BatchKey]):
    """The batches of some units, in order."""

    def __init__(self, units: Sequence[Unit], batch_size: int) -> None:
        self.units, self.batch_size = units, batch_size

    def __iter__(self) -> Iterator[BatchKey]:
        for unit in self.units:
            for start, stop in unit.batches(self.batch_size):
                yield unit.index, start, stop

    def __len__(self) -> int:
        return sum(-(-unit.rows // self.batch_size) for unit in self.units)


def load_batches(
    source: Source,
    preprocessing: Preprocessing,
    units: Sequence[Unit],
    batch_size: int,
    workers: int,
    pin: bool,
) -> Iterator[Batch]:
    """Batches of prepared images, in order of units and rows.

    Raises KdbiasError where a worker dies or runs out of memory.
    """
    options: dict[str, Any] = {}
    batches = UnitBatches(units, batch_size)
    workers = min(workers, len(batches))
    if workers:
        options = {"prefetch_factor": _PREFETCH, "multiprocessing_context": _start_method()}
    loader = DataLoader(
        PreparedImages(source, preprocessing),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        pin_memory=pin,
        **options,
    )
    with warnings.catch_warnings():
        # Python >= 3.12 warns of forking beside threads, torch of more workers than cores: both are chosen.
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*worker processes in total.*", category=UserWarning)
        iterator = iter(loader)
    try:
        for batch in iterator:
            if batch.out_of_memory:
                raise KdbiasError(
                    "out of memory while decoding images: run the same command again with fewer --workers or "
                    "a smaller --batch-size; finished parts are kept"
                )
            yield batch
    except (OSError, EOFError) as error:  # it died while it handed over a batch
        raise dead_worker(str(error) or type(error).__name__) from error
    finally:
        # Now, not when the iterator is collected: until then torch's signal handler would go on to report a
        # dead worker, in whatever code runs then.
        shut_down = getattr(iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()


def worker_death(error: BaseException, way_out: str = _WAY_OUT) -> KdbiasError | None:
    """The error to show where `error` is torch's report of a dead decode worker, else None."""
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in str(error):
        return None
    return dead_worker(str(error), way_out)


def dead_worker(report: str, way_out: str = _WAY_OUT) -> KdbiasError:
    return KdbiasError(
        f"a decode worker died ({report.splitlines()[0].rstrip('. ')}); usually memory or shared memory ran "
        f"out: run the same command again with fewer --workers (0 decodes in this process){way_out}"
    )


def _start_method() -> str | None:
    # Elsewhere fork is absent, or (macOS) unsafe beside the system's own threads; the source is then pickled.
    return "fork" if sys.platform == "linux" else None


def _reason(error: Exception) -> str:
    text = getattr(error, "reason", None) or str(error) or type(error).__name__
    if not isinstance(error, KdbiasError | OSError):
        text = f"{type(error).__name__}: {text}"
    return " ".join(str(text).split())[:300]
