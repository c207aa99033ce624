"""The order of one epoch as a pure function of (weights, draws, mode, seed, epoch).

Two steps. *Ticks* say how often each row is drawn: an ascending array with one entry a draw. A keyed
*permutation* of 0 .. draws-1 then says which tick stands at which position. The permutation is computed for
the positions that are asked for, so a rank computes its own slice, a resumed run starts in the middle, and
the first batch of an epoch does not wait for the last. Everything works in blocks that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.kinds import number_of
from kdbias.sampler.machine_memory import Held, in_own_memory
from kdbias.sampler.permutation import Permutation

MODES = ("systematic", "iid")
_BLOCK = 1 << 14
_IID_BLOCK = _MIXED = 1 << 12
# Weights that are mixed at once; of more, each pass over them mixes a stretch at a time.
_KEPT, _STRETCH = 1 << 24, 1 << 16
# Epochs of this many draws repay loading compiled loops, where numba is installed.
_COMPILED_FROM = 1 << 21
# An expected count this little below a whole number is that number: what lacks is rounding error.
_SNAP = 1e-9


class Order:
    """Which row is drawn at each position of one epoch.

    draws   positions there are; those below `begin` belong to another order
    lanes   position p belongs to process p % lanes; 1 where any number of them may share the order
    """

    draws: int
    begin = 0
    lanes = 1

    def __len__(self) -> int:
        return self.draws

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Rows (int64) drawn at `positions` (int64, each in 0 .. draws-1, any order)."""
        raise NotImplementedError

    def blocks(
        self, start: int = 0, stop: int | None = None, step: int = 1, size: int = _BLOCK
    ) -> Iterator[np.ndarray]:
        """The rows at positions start, start + step, ... below stop, in arrays of at most `size`."""
        stop = self.draws if stop is None else stop
        for begin in range(start, stop, size * step):
            yield self.at(np.arange(begin, min(begin + size * step, stop), step))

    def counts(self, rows: int, stop: int | None = None) -> np.ndarray:
        """(rows,) uint32: how often each row occurs at the positions below `stop` (default: all)."""
        counts = np.zeros(rows, np.uint32)
        stop = self.draws if stop is None else min(stop, self.draws)
        if 2 * (stop - self.begin) < self.draws - self.begin:
            self._add(counts, 1, self.begin, stop)
            return counts
        self.add_all(counts)  # then the draws not made are taken off
        self._add(counts, -1, stop, self.draws)
        return counts

    def add_all(self, counts: np.ndarray) -> None:
        """Add to `counts` (rows,) how often each row occurs in all."""
        raise NotImplementedError

    def _add(self, counts: np.ndarray, sign: int, start: int, stop: int) -> None:
        """Add, or take off, the draws at these positions."""
        add = np.add if sign > 0 else np.subtract
        for lane in range(self.lanes):
            for block in self.blocks(start + lane, stop, self.lanes):
                add.at(counts, block, np.uint32(1))


class EpochOrder(Order):
    """Which row is drawn at each position of one epoch, by any number of processes.

    `weights` (n,) float64 are >= 0 and not all zero; the expected number of draws of row i is
    draws * weights[i] / sum(weights). With mode "systematic" (systematic resampling of mixed rows, against
    the float64 cumulative sum) the count of every row is that expectation rounded down or up, so equal
    weights with draws = n give one shuffled pass; "iid" draws with replacement. Memory: one integer a draw,
    which `held` gives (`machine_memory`; default: this process's own).
    """

    def __init__(
        self,
        weights: np.ndarray,
        draws: int,
        *,
        mode: str = "systematic",
        seed: int = 0,
        epoch: int = 0,
        held: Held = in_own_memory,
    ) -> None:
        check_mode(mode)
        self.draws = draws
        index = np.dtype(index_type(len(weights)))
        behind = 8 * Permutation.size(draws)

        def fill(memory: np.ndarray) -> None:
            ticks, rng = memory[behind:].view(index), np.random.default_rng((seed, epoch))
            if mode == "systematic":
                scatter = Scatter(len(weights), rng)
                systematic_ticks(Mixed(weights, scatter), ticks, rng)
                scatter.restore(ticks)
            else:
                iid_ticks(weights, ticks, rng)
            Permutation(draws, memory[:behind].view(np.int64), rng)

        memory = held(behind + index.itemsize * draws, fill)
        self._ticks = memory[behind:].view(index)
        self._permute = Permutation(draws, memory[:behind].view(np.int64))

    def at(self, positions: np.ndarray) -> np.ndarray:
        out = np.empty(len(positions), np.int64)
        if (compiled := _compiled(self.draws)) is not None:
            compiled.gather(self._ticks, positions, *self._permute.tables, out)
            return out
        for start in range(0, len(positions), _BLOCK):
            part = slice(start, start + _BLOCK)
            out[part] = self._ticks[self._permute(positions[part])]
        return out

    def add_all(self, counts: np.ndarray) -> None:
        # Ticks are grouped by row, so that each stretch touches few rows.
        for start in range(0, self.draws, _BLOCK):
            ticks = self._ticks[start : start + _BLOCK]
            first, last = int(ticks.min()), int(ticks.max())
            counts[first : last + 1] += np.bincount(ticks - first).astype(np.uint32)


def check_counts(least: int, **given: int | None) -> None:
    """Refuse what is no whole number of at least so much; None leaves it open."""
    for name, value in given.items():
        try:
            if value is not None and number_of(int, value) < least:
                raise ValueError(f"is {value}, should be at least {least}")
        except ValueError as error:
            raise KdbiasError(f"{name} {error}") from None


def check_mode(mode: str) -> None:
    """Refuse a way of drawing that is none of `MODES`."""
    if mode not in MODES:
        raise KdbiasError(f"unknown sampling mode {mode!r}; known: {', '.join(MODES)}")


class Scatter:
    """A random order of n rows, in which neighbours are strangers; other for each generator.

    Systematic resampling takes every so-many-th unit of the cumulative weights, so rows that lie next to each
    other are never drawn together, and a file in which cameras, flips or labels alternate gives one-sided
    epochs. Mixing the rows first removes that: each block of rows is put in the order of one random table,
    turned by a random amount of its own. Blocks stay where they are, so that everything happens in cache.
    Memory: O(n / 4096).
    """

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n = n
        table = rng.permutation(_MIXED)
        self._table = np.concatenate([table, table])
        self._turns = rng.integers(_MIXED, size=n // _MIXED)
        self._rest = rng.permutation(n % _MIXED)

    def _block(self, number: int) -> np.ndarray:
        if number == len(self._turns):
            return self._rest
        turn = self._turns[number]
        return self._table[turn : turn + _MIXED]

    def take(self, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        """The values (of all n rows) at places start .. stop - 1 of their mixed order, as a new array."""
        first = start - start % _MIXED
        mixed = np.empty(min(-(-stop // _MIXED) * _MIXED, self._n) - first, values.dtype)
        for at in range(0, len(mixed), _MIXED):
            block = values[first + at : first + at + _MIXED]
            np.take(block, self._block((first + at) // _MIXED), out=mixed[at : at + _MIXED], mode="clip")
        return mixed[start - first : stop - first]

    def restore(self, places: np.ndarray) -> None:
        """Replace ascending places in the mixed order by the rows that stand there."""
        starts = np.arange(0, self._n, _MIXED)
        bounds = np.append(starts[1:], self._n).astype(places.dtype)  # else all places would be cast
        ends = np.searchsorted(places, bounds)
        begin = 0
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            places[begin:end] = start + self._block(number)[places[begin:end] - start]
            begin = end


class Mixed:
    """Weights (n,) float64 in a mixed order (default: their own); of many, a stretch at a time is held."""

    def __init__(self, weights: np.ndarray, scatter: Scatter | None = None) -> None:
        if scatter is not None and len(weights) <= _KEPT:
            weights, scatter = scatter.take(weights, 0, len(weights)), None
        self._weights, self._scatter = weights, scatter

    def __len__(self) -> int:
        return len(self._weights)

    def stretches(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first place, weights) of `size` places after another."""
        for start in range(0, len(self), size):
            yield start, self._take(start, min(start + size, len(self)))

    def sum(self) -> float:
        """What NumPy's sum of the whole array gives, to the bit: halves are summed apart, and so on."""
        return self._sum(0, len(self))

    def _sum(self, start: int, stop: int) -> float:
        n = stop - start
        if n <= _STRETCH:
            return self._take(start, stop).sum()
        half = n // 2 - n // 2 % 8
        return self._sum(start, start + half) + self._sum(start + half, stop)

    def _take(self, start: int, stop: int) -> np.ndarray:
        if self._scatter is None:
            return self._weights[start:stop]
        return self._scatter.take(self._weights, start, stop)


def systematic_ticks(weights: Mixed, ticks: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `ticks` with ascending places; each occurs floor or ceil of its expectation times.

    The whole part of an expectation is given as it is, only the fractions compete: ticks U, U + 1, ... on
    their cumulative sum, one uniform U an epoch. So rounding of a long sum can never move a row past floor
    or ceil.
    """
    offset, draws = rng.random(), len(ticks)
    scale = draws / weights.sum()
    compiled = _compiled(max(draws, len(weights)))
    if compiled is None:
        end, last_fractional = _fill_ticks(weights, scale, ticks, offset)
    else:
        stretches = (part for _, part in weights.stretches(_STRETCH))
        contested = draws - sum(compiled.whole_draws(part, scale, _SNAP) for part in stretches)
        reach, before, end, last_fractional = 0.0, 0.0, 0, -1
        for start, part in weights.stretches(_STRETCH):
            reach, before, end, last_fractional = compiled.fill_ticks(
                part, scale, _SNAP, offset, contested, ticks, start, reach, before, end, last_fractional
            )
    if end < draws:
        # The sum of the fractions fell short of a whole number by rounding, below the last tick.
        at = int(np.searchsorted(ticks[:end], last_fractional))
        ticks[at + 1 : end + 1] = ticks[at:end].copy()
        ticks[at] = last_fractional


def _fill_ticks(weights: Mixed, scale: float, ticks: np.ndarray, offset: float) -> tuple[int, int]:
    """(how many ticks are filled, last place with a fraction)."""
    contested = len(ticks) - int(sum(whole.sum() for _, whole, _ in _expectations(weights, scale)))
    carry, reached, end, last_fractional = 0.0, 0.0, 0, -1
    for start, whole, fraction in _expectations(weights, scale):
        if fraction[-1] > 0:
            last_fractional = start + len(fraction) - 1
        elif (positive := np.flatnonzero(fraction)).size:
            last_fractional = start + int(positive[-1])
        fraction[0] += carry
        np.cumsum(fraction, out=fraction)
        carry = fraction[-1]
        fraction -= offset
        np.ceil(fraction, out=fraction)
        np.minimum(fraction, contested, out=fraction)
        whole += fraction
        whole[1:] -= fraction[:-1]
        whole[0] -= reached
        reached = fraction[-1]
        counts = whole.astype(np.int64)
        begin, end = end, end + int(counts.sum())
        ticks[begin:end] = np.repeat(np.arange(start, start + len(counts), dtype=ticks.dtype), counts)
    return end, last_fractional


def _expectations(weights: Mixed, scale: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first place, whole part, fraction) of the expected counts, both float64, block by block."""
    whole_buffer, fraction_buffer = np.empty(_BLOCK), np.empty(_BLOCK)
    for start, block in weights.stretches(_BLOCK):
        whole, fraction = whole_buffer[: len(block)], fraction_buffer[: len(block)]
        np.multiply(block, scale, out=fraction)
        np.add(fraction, _SNAP, out=whole)
        np.floor(whole, out=whole)
        fraction -= whole
        yield start, whole, np.maximum(fraction, 0.0, out=fraction)


def iid_ticks(weights: np.ndarray, ticks: np.ndarray, rng: np.random.Generator) -> None:
    """Fill `ticks` with rows drawn independently, with replacement, grouped by block of rows.

    First how many draws fall into each block of rows (multinomial), then the draws within it: every search
    runs in a cumulative sum that fits the cache. `side="right"` gives a row of weight zero no place at all.
    """
    sums = np.add.reduceat(weights, np.arange(0, len(weights), _IID_BLOCK))
    end = 0
    for block, count in enumerate(rng.multinomial(len(ticks), sums / sums.sum())):
        if not count:
            continue
        start = block * _IID_BLOCK
        cumulative = np.cumsum(weights[start : start + _IID_BLOCK])
        points = rng.random(count)
        points *= cumulative[-1]
        # A product rounded up to the total would fall behind the last row that has any weight.
        np.minimum(points, np.nextafter(cumulative[-1], 0.0), out=points)
        begin, end = end, end + int(count)
        ticks[begin:end] = cumulative.searchsorted(points, side="right") + start


def _compiled(size: int) -> ModuleType | None:
    """The compiled loops, where they pay and numba works: it wants a NumPy that it knows and, at the first
    use, a folder to keep what it compiled."""
    if size < _COMPILED_FROM:
        return None
    try:
        from kdbias.sampler import compiled
    except (ImportError, RuntimeError):
        return None
    return compiled


def index_type(rows: int) -> type[np.signedinteger]:
    """The smallest integer type that holds every row of so many."""
    return np.int32 if rows <= np.iinfo(np.int32).max else np.int64
