"""Which blocks there are, which pairs of them come when, and how large they may be: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kdbias.sphere.all_pairs import bytes_needed
from kdbias.sphere.tiles import TILE

UNITS_A_SLOT = 8  # at least, so that slots end at about the same time and a lost unit costs little


@dataclass(frozen=True)
class BlockPlan:
    """n rows in blocks of ``rows``, the last of which may be shorter; ``rows`` is a multiple of the tile."""

    n: int
    rows: int

    @property
    def blocks(self) -> int:
        """How many blocks."""
        return -(-self.n // self.rows)

    @property
    def units(self) -> int:
        """How many pairs of blocks, a block with itself among them."""
        return self.blocks * (self.blocks + 1) // 2

    def run(self, block: int) -> slice:
        """The rows of a block."""
        return slice(block * self.rows, min(self.n, (block + 1) * self.rows))

    @property
    def waves(self) -> int:
        """How many waves: the diagonal, then distances 1, 2-3, 4-7 ..."""
        return 1 + (self.blocks - 1).bit_length()

    def wave(self, number: int) -> Iterator[tuple[int, int]]:
        """(i, j), i <= j, of each pair of blocks of a wave."""
        first, last = (0, 1) if number == 0 else (1 << (number - 1), 1 << number)
        for distance in range(first, min(last, self.blocks)):
            for i in range(self.blocks - distance):
                yield i, i + distance

    def met(self, number: int, block: int) -> list[int]:
        """The other blocks that a block meets in a wave, ascending; itself in the first."""
        return sorted(i + j - block for i, j in self.wave(number) if block in (i, j))

    def pairs(self, i: int, j: int) -> int:
        """Ordered pairs of rows that a unit stands for."""
        a, b = (run.stop - run.start for run in (self.run(i), self.run(j)))
        return a * a if i == j else 2 * a * b


def unit_bytes(rows: int, k: int, schemes: int, bandwidths: int, threads: int) -> int:
    """Most memory that a unit of two blocks takes beside their vectors."""
    return bytes_needed(2 * rows, k, schemes, bandwidths, threads) + 2 * rows * 8 * (k + bandwidths * schemes)


def temporary_bytes(plan: BlockPlan, k: int, schemes: int, bandwidths: int) -> int:
    """About the most that partial results of a wave and states take on disk."""
    partials = max(sum(1 for _ in plan.wave(number)) for number in range(plan.waves))
    state = plan.n * (8 * k + 8 + 8 * schemes * bandwidths)
    return state + 2 * partials * plan.rows * (8 * k + 8 + 8 * schemes * bandwidths)


def planned_rows(n: int, slots: int, needed: Callable[[int], int], memory: int) -> int:
    """Rows of a block: the most that fit ``memory`` and leave 8 units a slot; 0 where not even a tile fits.

    Args:
        needed: bytes of a unit at so many rows, ascending.
    """
    least = math.ceil((math.sqrt(1 + 8 * UNITS_A_SLOT * slots) - 1) / 2)
    most = -(-n // (least * TILE)) or 1  # in tiles
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle * TILE) <= memory else (low, middle - 1)
    return low * TILE
