"""Units in this process, one after another; a unit uses its threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


class Here:
    """An engine that is this process."""

    rank, world, remote = 0, 1, False
    unit_cpus: int | None = None

    @property
    def spread(self) -> bool:
        """Whether units run in other processes, too."""
        return self.remote or self.world > 1

    @property
    def slots(self) -> int:
        """How many units run at once."""
        return 1

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(self, work: Callable[[Iterable[Any]], Iterator[Any]], items: Sequence[Any]) -> Iterator[Any]:
        """The results, in order."""
        yield from work(items)

    def settle(
        self,
        work: Callable[[Iterable[Any]], Iterator[Any]],
        items: Sequence[Any],
        done: Callable[[Any], bool],
    ) -> Iterator[Any]:
        """The results of what is not done."""
        yield from self.map(work, [item for item in items if not done(item)])
