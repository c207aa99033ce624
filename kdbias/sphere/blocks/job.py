"""Work in units that any of several processes can do, and what another one is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

Unit = tuple[int, int]
"""A pair of blocks."""


class Job(Protocol):
    """Work on pairs of blocks, as any process can do its units."""

    def units(self) -> list[Unit]:
        """All of its units."""

    def done(self, unit: Unit) -> bool:
        """Whether the file of a unit is there, or is not needed any more."""

    def do(self, units: Iterable[Unit]) -> Iterator[int]:
        """Do units and write their files; yields the size of each."""

    def size(self, unit: Unit) -> int:
        """Pairs of rows that a unit stands for, or its rows."""

    def fields(self) -> dict[str, Any]:
        """What another process needs to take part, JSON values only."""

    @classmethod
    def of(cls, folder: Path, fields: dict[str, Any], threads: int) -> Self:
        """The job that another process has told the `fields` of."""


@dataclass(frozen=True)
class Told:
    """A job whose fields, but for ``folder`` and ``threads``, are JSON values, and tuples of them."""

    def fields(self) -> dict[str, Any]:
        """What another process needs to take part, JSON values only."""
        return {name: value for name, value in asdict(self).items() if name not in ("folder", "threads")}

    @classmethod
    def of(cls, folder: Path, fields: dict[str, Any], threads: int) -> Self:
        """The job that another process has told the `fields` of."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        del known["kind"]
        return cls(**known, **{"folder": folder, "threads": threads})
