"""The plan of an embedding run: which rows make which part, and which parts fall to which process.

Everything here is a pure function of counts, so a run can be described, split and resumed without looking at
data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from kdbias.errors import KdbiasError
from kdbias.wording import counted

_PARTS, _ROWS = 16, (2048, 16_384)
_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` (exclusive) of the data; they become one part."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def batches(self, size: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each batch; none crosses units, so a resumed run repeats the same ones."""
        for start in range(self.start, self.stop, size):
            yield start, min(start + size, self.stop)


def usual_rows(n: int) -> int:
    """Rows of a part: an interruption costs a small run little, and a large one has few files."""
    return min(max(-(-n // _PARTS), _ROWS[0]), _ROWS[1])


@dataclass(frozen=True)
class Plan:
    """n samples of dimension `dim` in parts of `rows_per_part`, shared by `world` processes."""

    n: int
    dim: int
    rows_per_part: int
    store: str
    flip: bool
    rank: int = 0
    world: int = 1

    @property
    def units(self) -> list[Unit]:
        """All parts, in order."""
        step = self.rows_per_part
        return [Unit(i, start, min(start + step, self.n)) for i, start in enumerate(range(0, self.n, step))]

    @property
    def own_units(self) -> list[Unit]:
        """The parts of this process: every `world`-th, so that all finish at about the same time."""
        return self.units[self.rank :: self.world]

    @property
    def vector_bytes(self) -> int:
        """Bytes of vectors on disk, all parts together."""
        return self.n * self.dim * _BYTES[self.store] * (2 if self.flip else 1)

    def describe(self) -> str:
        """One line for people."""
        views = " and their mirror images" if self.flip else ""
        text = (
            f"plan: {counted(self.n, 'sample')}{views} -> {counted(len(self.units), 'part')} of up to "
            f"{counted(self.rows_per_part, 'row')}, {self.dim}-d {self.store} vectors, "
            f"{_human(self.vector_bytes)}"
        )
        if self.world > 1:
            text += f"; process {self.rank} of {self.world} makes {len(self.own_units):,} of them"
        return text


def rank_and_world() -> tuple[int, int]:
    """(RANK, WORLD_SIZE) as torchrun and most launchers set them; (0, 1) without a launcher."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise KdbiasError(
            f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} do not fit together"
        )
    return rank, world


def _human(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
