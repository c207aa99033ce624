"""Joins by sample id; stages never rely on the order of rows.

Ids of large tables are not held whole: `Ids` gives them a part at a time. Repeats show among sorted hashes,
and `align` makes its hash tables of one bucket after another: of ids whose hashes agree in some bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.wording import counted

_SHOWN = 3
_PIECE = 131_072  # rows of an array in memory that are looked at together
BUCKET_ROWS = 1 << 22
"""Ids that one hash table is to hold; of very many ids there are `_MOST_BUCKETS`, whatever that makes."""
_MOST_BUCKETS = 16
_HASHED = 16_384  # texts that are hashed together
_SORTED = 1 << 24  # hashes that are sorted together
_BASE = np.uint64(0x9E3779B97F4A7C15)  # of a polynomial modulo 2^64
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))


def as_strings(values: pa.Array | pa.ChunkedArray | Ids | Sequence[object]) -> pa.Array:
    """One contiguous large_string array, of Arrow columns or of any sequence (list, NumPy, pandas)."""
    if isinstance(values, Ids):
        return values.array()
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values if hasattr(values, "dtype") else list(values))
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(
            [chunk.cast(pa.large_string()) for chunk in values.chunks] or [pa.array([], pa.large_string())]
        )
    return values if pa.types.is_large_string(values.type) else values.cast(pa.large_string())


@dataclass(frozen=True)
class ColumnParts:
    """A column of a table in its order, read a part at a time.

    Attributes:
        lengths: rows of each part.
        read: gives the values of a part.
    """

    lengths: tuple[int, ...]
    read: Callable[[int], pa.Array]

    @classmethod
    def made(cls, lengths: tuple[int, ...], make: Callable[[int, int], pa.Array]) -> ColumnParts:
        """One whose values ``make`` gives of the rows from one on, up to another (exclusive)."""
        ends = [0, *np.cumsum(lengths).tolist()]
        return ColumnParts(lengths, lambda part: make(ends[part], ends[part + 1]))

    def __len__(self) -> int:
        return sum(self.lengths)

    def __iter__(self) -> Iterator[pa.Array]:
        return map(self.read, range(len(self.lengths)))

    def slice(self, start: int, length: int) -> pa.Array:
        """(length,) values from a row on."""
        ends = np.cumsum(self.lengths)
        first, last = np.searchsorted(ends, [start, start + length - 1], side="right")
        found = [self.read(part) for part in range(first, min(last + 1, len(ends)))]
        offset = start - (int(ends[first - 1]) if first else 0)
        return (found[0] if len(found) == 1 else pa.concat_arrays(found)).slice(offset, length)


@dataclass(frozen=True)
class Ids(ColumnParts):
    """The ids of a table, large_string.

    Attributes:
        digests: of each part (`digest_of_ids`), where they are known.
        unique: whether they are known to be, as where kdbias wrote the table.
    """

    digests: tuple[str, ...] | None = None
    unique: bool = False

    @classmethod
    def of(cls, values: Any) -> Ids:
        """Of an array or sequence in memory; of such an object itself."""
        if isinstance(values, Ids):
            return values
        array = as_strings(values)
        starts = range(0, len(array), _PIECE)
        lengths = tuple(min(_PIECE, len(array) - start) for start in starts)
        return cls(lengths, lambda part: array.slice(part * _PIECE, _PIECE))

    def array(self) -> pa.Array:
        """All of them, (n,) large_string."""
        return pa.concat_arrays([pa.array([], pa.large_string()), *self])

    def take(self, rows: np.ndarray | pa.Array) -> pa.Array:
        """(m,) large_string of rows in any order; no part is read twice."""
        ends, wanted = np.cumsum(self.lengths), np.asarray(rows)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        found = [pa.array([], pa.large_string())]
        for part in np.unique(np.searchsorted(ends, ascending, side="right")).tolist():
            begin = int(ends[part]) - self.lengths[part]
            first, last = np.searchsorted(ascending, [begin, int(ends[part])])
            found.append(self.read(part).take(pa.array(ascending[first:last] - begin)))
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        return pa.concat_arrays(found).take(pa.array(places))

    def others(self, rows: np.ndarray) -> ColumnParts:
        """(n,) large_string: the id of the row (n,) that stands for each, null where it stands for itself."""
        copies = np.flatnonzero(rows != np.arange(len(rows)))
        known = self.take(rows[copies])

        def of(start: int, stop: int) -> pa.Array:
            places, (first, last) = np.full(stop - start, -1), np.searchsorted(copies, [start, stop])
            places[copies[first:last] - start] = np.arange(first, last)
            return known.take(pa.array(places, mask=places < 0))

        return self.made(self.lengths, of)

    def same(self, other: Ids) -> bool:
        """Whether the other ones are the same in the same order; parts of equal digests are not read."""
        if len(self) != len(other):
            return False
        if self.lengths == other.lengths and None not in (self.digests, other.digests):
            return self.digests == other.digests
        theirs, rest = iter(other), pa.array([], pa.large_string())
        for mine in self:
            while len(mine):
                rest = rest if len(rest) else next(theirs)
                both = min(len(mine), len(rest))
                if not mine.slice(0, both).equals(rest.slice(0, both)):
                    return False
                mine, rest = mine.slice(both), rest.slice(both)
        return True

    def pieces(self, rows: int) -> Iterator[tuple[int, pa.Array]]:
        """First row and ids of runs of parts that have so many rows or more, but for the last."""
        start, held, done = 0, [pa.array([], pa.large_string())], 0
        for part in self:
            held.append(part)
            done += len(part)
            if done - start >= rows:
                yield start, pa.concat_arrays(held)
                start, held = done, held[:1]
        if done > start:
            yield start, pa.concat_arrays(held)

    def bucketed(self, buckets: int) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """For each bucket the rows (m,) int64, ascending, of the ids (m,) that are in it."""
        if buckets <= 1:
            yield np.arange(len(self)), self.array()
            return
        known: list[np.ndarray] = []
        for bucket in range(buckets):
            rows, ids, start = [np.empty(0, np.int64)], [pa.array([], pa.large_string())], 0
            for part, texts in enumerate(self):
                if not bucket:
                    known.append(buckets_of(texts, buckets))
                inside = np.flatnonzero(known[part] == bucket)
                rows.append(inside + start)
                ids.append(texts.take(pa.array(inside)))
                start += len(texts)
            yield np.concatenate(rows), pa.concat_arrays(ids)


def digest_of_ids(ids: pa.Array | pa.ChunkedArray) -> str:
    """Digest of ids (n,) in their order, whatever type of text they are kept in."""
    return fingerprints.of_arrays(as_strings(ids))


def buckets_of(texts: pa.Array, buckets: int) -> np.ndarray:
    """(n,) uint8: which of so many buckets each text (n,) large_string is in, by a hash; null is in some."""
    return ((hashes_of(texts) >> np.uint64(32)) % np.uint64(buckets)).astype(np.uint8)


def hashes_of(texts: pa.Array) -> np.ndarray:
    """(n,) uint64: a hash of each text (n,) large_string, the same wherever it stands."""
    starts = range(0, len(texts), _HASHED)
    found = [_polynomials(texts.slice(start, _HASHED)) for start in starts]
    return np.concatenate([np.empty(0, np.uint64), *found])


def _polynomials(texts: pa.Array) -> np.ndarray:
    """(n,) uint64: a polynomial of each text's bytes, stirred."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)
    ends, data = offsets - offsets[0], texts.buffers()[2]
    size = int(ends[-1])
    letters = np.frombuffer(data, np.uint8, size, int(offsets[0])) if size else np.empty(0, np.uint8)
    # Sums over all bytes before; what lies between two of them is a text's, moved to its own beginning.
    sums = np.zeros(size + 1, np.uint64)
    bits = size.bit_length()
    np.cumsum((letters + np.uint64(1)) * _powers(_BASE, bits)[:size], out=sums[1:])
    hashes = (sums[ends[1:]] - sums[ends[:-1]]) * _powers(_INVERSE, bits)[ends[:-1]]
    hashes ^= hashes >> np.uint64(31)
    return hashes * _BASE


@lru_cache(2)
def _powers(base: np.uint64, bits: int) -> np.ndarray:
    """(2^bits,) uint64: base^0, base^1, ... modulo 2^64."""
    factors = np.full(1 << bits, base)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _bucket_count(n: int) -> int:
    """Into how many buckets n ids go."""
    return min(_MOST_BUCKETS, -(-n // BUCKET_ROWS))


def require_unique(ids: pa.Array | pa.ChunkedArray | Ids, where: str) -> None:
    """Refuse null or repeated ids, naming some of them."""
    ids = Ids.of(ids)
    if ids.unique:
        return
    if nulls := sum(part.null_count for part in ids):
        raise _nameless(nulls, where)
    some = _repeated(ids)
    if len(some):
        raise KdbiasError(
            f"{where}: {counted(len(some), 'sample_id value', 'occurs/occur')} more than once "
            f"({shown(some)}); ids must be unique: choose another --id-column or drop the repeated rows"
        )


def _repeated(ids: Ids) -> pa.Array:
    """The texts that occur more than once, each once; sorted hashes of all take a tenth of a hash table."""
    runs = min(_MOST_BUCKETS, max(1, -(-len(ids) // _SORTED)))
    twice = []
    for run in range(runs):
        hashes = np.concatenate([np.empty(0, np.uint64), *(_of_run(hashes_of(p), run, runs) for p in ids)])
        hashes.sort()
        twice.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    suspect = np.concatenate(twice)
    if not len(suspect):
        return pa.array([], pa.large_string())
    texts = [part.filter(pa.array(np.isin(hashes_of(part), suspect))) for part in ids]
    counts = pc.value_counts(pa.concat_arrays(texts))
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def _of_run(hashes: np.ndarray, run: int, runs: int) -> np.ndarray:
    return hashes if runs == 1 else hashes[hashes % np.uint64(runs) == run]


def _nameless(count: int, where: str) -> KdbiasError:
    """The refusal of rows without an id."""
    return KdbiasError(f"{where}: {counted(count, 'row', 'has/have')} no sample_id; every row needs one")


def align(
    ids_wanted: pa.Array | pa.ChunkedArray | Ids,
    ids_have: pa.Array | pa.ChunkedArray | Ids,
    what: str,
    where: str,
    allow_missing: bool = False,
) -> np.ndarray:
    """Row of each wanted id.

    Args:
        ids_wanted: (m,) strings.
        ids_have: (n,) unique strings.
        what: what the wanted ids belong to, for the message ("weights").
        where: what is searched ("embedding table /data/emb").
        allow_missing: give -1 for a missing id instead of raising.

    Returns:
        (m,) int64 positions in ``ids_have``.

    Raises:
        KdbiasError: ids are missing; the message has both counts and a few of them.
    """
    wanted, have = Ids.of(ids_wanted), Ids.of(ids_have)
    require_unique(have, where)
    if wanted.same(have):
        return np.arange(len(have))
    rows = _found_among_few(wanted.array(), have, what) if len(wanted) <= BUCKET_ROWS else None
    rows = _found_in_buckets(wanted, have, what) if rows is None else rows
    missing = np.flatnonzero(rows < 0)
    if len(missing) and not allow_missing:
        raise KdbiasError(
            f"{len(missing):,} of the {len(wanted):,} ids of {what} are not among the "
            f"{counted(len(have), 'id')} of {where} ({shown(wanted.take(missing[: _SHOWN + 1]))}); are they "
            "from the same data?"
        )
    return rows


def _found_among_few(wanted: pa.Array, have: Ids, what: str) -> np.ndarray:
    """Row (m,) int64 in ``have`` of each id (m,), -1 for none; a hash table of the wanted ones alone."""
    if wanted.null_count:
        raise _nameless(wanted.null_count, what)
    coded = wanted.dictionary_encode()
    places = np.full(len(coded.dictionary), -1)
    for start, texts in have.pieces(max(_PIECE, len(wanted))):
        found = pc.index_in(texts, value_set=coded.dictionary)
        rows = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        places[found.take(pa.array(rows)).to_numpy()] = rows + start
    return places[coded.indices.to_numpy()]


def _found_in_buckets(wanted: Ids, have: Ids, what: str) -> np.ndarray:
    """The same of many ids, a bucket at a time."""
    rows, nulls = np.full(len(wanted), -1), 0
    buckets = _bucket_count(max(len(wanted), len(have)))
    for (places, texts), (known, others) in zip(
        wanted.bucketed(buckets), have.bucketed(buckets), strict=True
    ):
        nulls += texts.null_count
        found = pc.index_in(texts, value_set=others).fill_null(-1).to_numpy()
        rows[places] = np.where(found < 0, -1, known[found]) if len(known) else -1
    if nulls:
        raise _nameless(nulls, what)
    return rows


def encode(values: pa.Array, names: pa.Array | None = None) -> tuple[np.ndarray, pa.Array]:
    """Integer codes of strings by sorted value, -1 for null (or for a value not among ``names``)."""
    values = as_strings(values)
    if names is None:
        names = pc.unique(values.drop_null())
        names = names.take(pc.sort_indices(names))
    codes = pc.index_in(values, value_set=names, skip_nulls=True)
    codes = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, names


def encode_all(values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Integer codes of strings (n,), and the values as they first occur, null among them."""
    found = pc.dictionary_encode(as_strings(values), null_encoding="encode")
    return found.indices.to_numpy(zero_copy_only=False), found.dictionary


def shown(values: pa.Array | Ids, rows: np.ndarray | None = None) -> str:
    """A few values for a message, those of the rows (m,) where they are given."""
    values = values if rows is None else values.take(pa.array(rows[: _SHOWN + 1]))
    few = ", ".join(repr(v) for v in values.slice(0, _SHOWN).to_pylist())
    return few + (", ..." if len(values) > _SHOWN else "")
