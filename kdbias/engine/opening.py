"""What an engine is, and which one was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from kdbias.engine.here import Here
from kdbias.engine.ranks import Ranks
from kdbias.engine.settings import Engines
from kdbias.tables.scratch_folder import require_shared

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Iterable[Item]], Iterator[Result]]


class Engine(Protocol):
    """Does units of work.

    Attributes:
        rank, world: which of how many processes this is that all do the same.
        remote: whether units run in other processes, which open for themselves what they need.
        unit_cpus: CPUs that a unit is given; None where it uses those of its process.
    """

    rank: int
    world: int
    remote: bool
    unit_cpus: int | None

    @property
    def spread(self) -> bool:
        """Whether units run in other processes, too."""

    @property
    def slots(self) -> int:
        """How many units can run at once, now."""

    def map(self, work: Work[Item, Result], items: Sequence[Item]) -> Iterator[Result]:
        """A result for each item, in any order.

        Args:
            work: an importable function (or a `functools.partial` of one) from items to a result for each; it
                may keep open between items what is dear to open.
            items: small values that can be pickled.

        Raises:
            KdbiasError: a unit refused (never tried again), or was lost too often.
        """

    def settle(
        self, work: Work[Item, Result], items: Sequence[Item], done: Callable[[Item], bool]
    ) -> Iterator[Result]:
        """Do what is not ``done`` of the items, and return once all are, whichever process does them."""


def open_engine(
    settings: Engines, device: str = "cpu", memory: int = 0, places: Sequence[str] = ()
) -> AbstractContextManager[Engine]:
    """The engine of the settings, as a context.

    Args:
        device: where a unit computes; on Ray one with cuda is given a GPU.
        memory: bytes that a unit takes, asked of Ray.
        places: what units read and write, which several processes must all see.

    Raises:
        KdbiasError: a place in a store and no scratch folder that all see, no launcher started this process,
            Ray is not installed or its cluster not reached, or no node of it holds a unit.
    """
    kind = settings.engine_kind
    if kind == "here":
        return Here()
    require_shared(*places)
    if kind == "ranks":
        return Ranks(explicit=settings.engine is not None)
    from kdbias.engine.ray_tasks import RayTasks

    gpus = float(device.startswith("cuda")) if settings.unit_gpus is None else settings.unit_gpus
    address = (settings.engine or "").partition(":")[2] or None
    return RayTasks(address, settings.retries, settings.unit_cpus or 1, gpus, memory)
