"""The order of an epoch for data that are read shard by shard.

Each sample is drawn as often as in the order without shards; only where in the epoch differs. Shards come in
a random order, and the draws of all, one shard after another, are cut into as many equal pieces as there are
processes: each reads its own shards, but for the one at a cut. Within its piece a process goes in *steps*.
In each it draws from `BUFFER` shards at once; with the next step the first of them is used up and another
comes. So no more than these have to be at hand, each is opened once, and any position of the epoch is found
without what came before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sampler.epoch_order import Order, index_type
from kdbias.tables import fingerprints
from kdbias.wording import counted

BUFFER = 16
"""Shards that a process draws from at a time."""
# What the generators of an epoch are for: the order of its shards, of a shard's draws, of a step's.
_OF_EPOCH, _OF_SHARD, _OF_STEP = 11, 12, 13


class Shards:
    """Which of n rows lie in each shard.

    Args:
        numbers: (n,) integers, the same for rows of the same shard; they need not be sorted.
        rows: n.

    Attributes:
        fingerprint: digest of which rows lie together; what their numbers are does not count.

    Raises:
        KdbiasError: not one integer for each row.
    """

    def __init__(self, numbers: Sequence[int] | np.ndarray, rows: int) -> None:
        array = np.asarray(numbers)
        if array.shape != (rows,) or array.dtype.kind not in "iu":
            raise KdbiasError(
                f"shards are {array.dtype} of shape {array.shape}; there should be one whole number for each "
                f"of {counted(rows, 'weight')}"
            )
        self._rows: np.ndarray | None = None  # grouped by shard, where they are not so already
        self._shard_of: np.ndarray | None = None
        if (array[1:] < array[:-1]).any():
            self._rows = array.argsort(kind="stable").astype(index_type(rows))
            array = array[self._rows]
        new = np.append(True, array[1:] != array[:-1])
        self._starts = np.append(np.flatnonzero(new), rows)
        if self._rows is not None:
            self._shard_of = np.empty(rows, np.int32)
            self._shard_of[self._rows] = np.cumsum(new) - 1
        self.fingerprint = fingerprints.of_arrays(self._starts, self._rows)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def neighbourhood(self, draws: int, processes: int) -> int:
        """Draws of an epoch among which a process's next one is picked: of the shards at hand, on average."""
        return round(draws / len(self) * min(BUFFER, max(1.0, len(self) / processes)))

    def rows(self, shard: int) -> np.ndarray:
        """The rows of a shard, ascending."""
        start, stop = self._starts[shard : shard + 2]
        return np.arange(start, stop) if self._rows is None else self._rows[start:stop]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The shard, 0 .. len - 1, of each of these rows."""
        if self._shard_of is not None:
            return self._shard_of[rows]
        return np.searchsorted(self._starts, rows, side="right") - 1


class ShardedOrder(Order):
    """Which row is drawn at each position of one epoch, by `lanes` processes: position p is the next draw of
    process (p - begin) % lanes.

    A pure function of its arguments. Memory: a few numbers a shard, and the draws of `BUFFER` shards.

    Args:
        counts: (n,) uint32, how often each row is drawn at the positions from `begin` on.
        key: seed and epoch.
        begin: the first position; those before belong to another order, of another number of processes.
    """

    def __init__(
        self, counts: np.ndarray, shards: Shards, lanes: int, key: tuple[int, int], begin: int = 0
    ) -> None:
        self._before: np.ndarray | None = None
        totals = np.array([counts[shards.rows(shard)].sum(dtype=np.int64) for shard in range(len(shards))])
        self.draws, self.lanes = begin + int(totals.sum()), lanes
        self._counts, self._shards, self._key, self.begin = counts, shards, (*key, begin), begin
        drawn = np.flatnonzero(totals)
        self._turns = drawn[self._rng(_OF_EPOCH).permutation(len(drawn))]
        self._bounds = np.append(0, np.cumsum(totals[self._turns]))
        self._mixed: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lane: _Lane | None = None

    def at(self, positions: np.ndarray) -> np.ndarray:
        draw, lane = np.divmod(positions - self.begin, self.lanes)
        out = np.empty(len(positions), np.int64)
        for number in np.unique(lane).tolist():
            mine = np.flatnonzero(lane == number)
            out[mine] = self._lane_of(number).at(draw[mine], self)
        return out

    def add_all(self, counts: np.ndarray) -> None:
        counts += self._counts

    def counts(self, rows: int, stop: int | None = None) -> np.ndarray:
        counts = super().counts(rows, stop)
        return counts if self._before is None else counts + self._before

    def gone_on(self, begin: int, lanes: int) -> ShardedOrder:
        """The order of what is left of the epoch at position `begin`, by another number of processes."""
        made = self.counts(len(self._counts), begin)
        whole = self._counts if self._before is None else self._counts + self._before
        order = ShardedOrder(whole - made, self._shards, lanes, self._key[:2], begin)
        order._before = made
        return order

    def _lane_of(self, number: int) -> _Lane:
        if self._lane is None or self._lane.number != number:
            share, more = divmod(self.draws - self.begin, self.lanes)
            start = number * share + min(number, more)
            self._lane = _Lane(self, number, start, start + share + (number < more))
        return self._lane

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, *what))

    def _of_shard(self, shard: int) -> np.ndarray:
        """A shard's draws in their random order."""
        if shard not in self._mixed:
            rows = self._shards.rows(shard)
            drawn = np.repeat(rows.astype(index_type(len(self._counts))), self._counts[rows])
            self._mixed[shard] = self._rng(_OF_SHARD, shard).permutation(drawn)
            if len(self._mixed) > BUFFER:
                self._mixed.popitem(last=False)
        self._mixed.move_to_end(shard)
        return self._mixed[shard]


class _Lane:
    """The draws of one process: of all draws, shard by shard, those from `start` to below `stop`.

    `order` is what it belongs to, and given to each call: it holds the lane.

    Shard j of its own is drawn from in the steps j - BUFFER + 1 .. j, as far as there are such: an equal part
    of its draws in each.
    """

    def __init__(self, order: ShardedOrder, number: int, start: int, stop: int) -> None:
        self.number, bounds = number, order._bounds
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        last = max(first, int(np.searchsorted(bounds, stop)))
        self._shards = order._turns[first:last]
        # Of the first and the last, other processes may have a part.
        self._low = np.maximum(start - bounds[first:last], 0)
        self._draws = np.minimum(stop, bounds[first + 1 : last + 1]) - bounds[first:last] - self._low
        shards = np.arange(len(self._shards))
        self._steps = max(1, len(shards) - BUFFER + 1)
        self._from = np.maximum(shards - BUFFER + 1, 0)
        self._parts = np.minimum(shards, self._steps - 1) - self._from + 1
        sizes = np.zeros(self._steps, np.int64)
        for offset in range(min(BUFFER, len(shards))):
            begins, ends = self._part(shards[offset : offset + self._steps], shards[: self._steps])
            sizes += ends - begins
        self._starts = np.append(0, np.cumsum(sizes))
        self._kept: tuple[int, np.ndarray] | None = None

    def _part(self, shard: np.ndarray, step: Any) -> tuple[np.ndarray, np.ndarray]:
        """Where in a shard's draws the part of a step begins and ends."""
        part, draws, parts = step - self._from[shard], self._draws[shard], self._parts[shard]
        return self._low[shard] + draws * part // parts, self._low[shard] + draws * (part + 1) // parts

    def at(self, draws: np.ndarray, order: ShardedOrder) -> np.ndarray:
        """Rows (int64) of these of its draws, 0 .. stop - start - 1."""
        steps = np.searchsorted(self._starts, draws, side="right") - 1
        out = np.empty(len(draws), np.int64)
        for step in np.unique(steps).tolist():
            mine = np.flatnonzero(steps == step)
            out[mine] = self._of_step(step, order)[draws[mine] - self._starts[step]]
        return out

    def _of_step(self, step: int, order: ShardedOrder) -> np.ndarray:
        if self._kept is None or self._kept[0] != step:
            shards = np.arange(step, min(step + BUFFER, len(self._shards)))
            begins, ends = self._part(shards, step)
            drawn = [
                order._of_shard(shard)[begin:end]
                for shard, begin, end in zip(self._shards[shards].tolist(), begins, ends, strict=True)
            ]
            rng = order._rng(_OF_STEP, self.number, step)
            self._kept = step, rng.permutation(np.concatenate(drawn))
        return self._kept[1]
