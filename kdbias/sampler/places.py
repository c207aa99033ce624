"""Which of how many processes draws, and who gives each its part.

A sampler slices its order by itself. Whatever slices what it is given (a foreign `DistributedSampler`,
Accelerate's `BatchSamplerShard` or its dispatcher) would slice a second time, and most of an epoch would
never be drawn: to those the sampler gives the whole order. They are found among the callers, since nothing
else tells a sampler that it is wrapped.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from torch import distributed
from torch.utils.data import Sampler

from kdbias.device import rank_and_world
from kdbias.errors import KdbiasError
from kdbias.sampler.epoch_order import check_counts

Place = tuple[int, int]
ALONE: Place = (0, 1)

# What hands batches out to processes without being a sampler: Accelerate's, and transformers' of old.
_HANDING_OUT = {"DataLoaderDispatcher", "IterableDatasetShard"}


def given_place(rank: int | None, world_size: int | None) -> Place | None:
    """(rank, world size) as the user gave them, None where neither was given."""
    if (rank is None) != (world_size is None):
        raise KdbiasError(f"rank={rank}, world_size={world_size}: give both or neither")
    if rank is None or world_size is None:
        return None
    check_counts(0, rank=rank, world_size=world_size)
    if not rank < world_size:
        raise KdbiasError(f"rank {rank} is not one of 0 .. {world_size - 1}")
    return rank, world_size


def usual_place() -> Place:
    """(rank, world size) of torch.distributed, else as RANK and WORLD_SIZE announce them, else 0 of 1."""
    if in_group():
        return distributed.get_rank(), distributed.get_world_size()
    return rank_and_world() if "RANK" in os.environ else ALONE


def in_group() -> bool:
    """Whether this process is one of a group of torch.distributed."""
    return distributed.is_available() and distributed.is_initialized()


def find_slicer() -> Any:
    """The caller, however far out, that gives each of several processes its part of what it gets; or None."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",) and _slices(caller := frame.f_locals.get("self")):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _slices(caller: Any) -> bool:
    """Whether the caller deals batches out to several processes."""
    if isinstance(caller, Sampler):
        if hasattr(caller, "find_place"):  # one of ours
            return False
    elif not _HANDING_OUT & {kind.__name__ for kind in type(caller).__mro__}:
        return False
    counts = [getattr(caller, name, None) for name in ("num_replicas", "num_processes", "world_size")]
    counts.append(getattr(getattr(caller, "state", None), "num_processes", 1))
    return next(count for count in counts if isinstance(count, int)) > 1
