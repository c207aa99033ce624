"""The one kernel of all pairs on a GPU: a block of cosines from float16 terms, and all that is wanted of it.

The block never leaves the registers: a program computes B x B cosines, their kernels, the weighted sums of
these along both sides, counts, and the candidates for neighbours. Sums are written to places of their own,
so no order of programs changes them; only the places of candidates in their buffers come from a counter, and
nothing depends on those. Importing this needs Triton.
"""

# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _product(a, b, rows, columns, width, B: tl.constexpr, STEP: tl.constexpr):
    """(B, B) float32, the rows of a times the rows of b at these places."""
    inner = tl.arange(0, STEP)
    left = a + rows[:, None] * width + inner[None, :]
    right = b + columns[:, None] * width + inner[None, :]
    total = tl.zeros((B, B), dtype=tl.float32)
    for start in range(0, width, STEP):
        total = tl.dot(tl.load(left + start), tl.trans(tl.load(right + start)), total)
    return total


@triton.jit
def _store_sums(values, out, at, block, of, mask, axis: tl.constexpr, B: tl.constexpr):
    """Sums of values (B, B) along an axis, to row ``at`` of the buffer out (..., blocks ``of`` x B)."""
    place = (at.to(tl.int64) * of + block) * B + tl.arange(0, B)
    tl.store(out + place, tl.sum(values, axis=axis), mask=mask)


@triton.jit
def _weighted_sums(
    values, along, n, rows, columns, row_mask, column_mask, mirrored_mask,
    i, j, at, row_sums, column_sums, M, MIRRORED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Sums of values (B, B) under M weightings along (M, n), to rows ``at``, ``at`` + 1, ... of a buffer."""
    high, wide = tl.num_programs(0), tl.num_programs(1)
    for m in range(M):
        weight = tl.load(along + columns, mask=column_mask, other=0.0)
        _store_sums(values * weight[None, :], row_sums, (at + m) * wide + j, i, high, row_mask, 1, B)
        if MIRRORED:
            weight = tl.load(along + rows, mask=row_mask, other=0.0)
            place = (at + m) * high + i
            _store_sums(values * weight[:, None], column_sums, place, j, wide, mirrored_mask, 0, B)
        along += n


@triton.jit
def _counts(
    reached, row_mask, column_mask, mirrored_mask, i, j, row_counts, column_counts,
    MIRRORED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """How many of a block (B, B) are reached, along either side."""
    seen = (reached & column_mask[None, :]).to(tl.int32)
    _store_sums(seen, row_counts, j, i, tl.num_programs(0), row_mask, 1, B)
    if MIRRORED:
        seen = (reached & row_mask[:, None]).to(tl.int32)
        _store_sums(seen, column_counts, i, j, tl.num_programs(1), mirrored_mask, 0, B)


@triton.jit
def _ordered(bits):
    """Bits of float32 as int32 that are ordered as the numbers are, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _emit(cosines, pairs, bars, places, ids, found, filled, capacity, axis: tl.constexpr):
    """Append the keys (`reservoirs.pack`) of cosines (B, B) that exceed their sample's, while there is room.

    Bars (keys) and places (whose buffer) are (B,), of the samples across the axis; ids are the candidates.
    """
    bars = tl.expand_dims(bars, axis)
    least = _ordered((bars >> 32).to(tl.int32)).to(tl.float32, bitcast=True)
    reached = pairs & (cosines >= least)
    if tl.sum(tl.sum(reached.to(tl.int32), axis=1), axis=0) > 0:
        ordered = _ordered(cosines.to(tl.int32, bitcast=True))
        keys = (ordered.to(tl.int64) << 32) + (0xFFFFFFFF - tl.expand_dims(ids, 1 - axis))
        hits = reached & (keys > bars)
        counts = tl.sum(hits.to(tl.int32), axis=axis)
        begin = tl.atomic_add(filled + places, counts, mask=counts > 0)
        slots = tl.expand_dims(begin, axis) + tl.cumsum(hits.to(tl.int32), axis=axis) - 1
        place = found + tl.expand_dims(places, axis).to(tl.int64) * capacity + slots
        tl.store(place, keys, mask=hits & (slots < capacity))


@triton.jit
def block_kernel(  # noqa: C901
    high, low, scales, width,
    row_ids, row_count, first, column_count,
    factors, along, n, M, codes, row_sums, column_sums,
    near, row_counts, column_counts,
    bars, row_found, row_filled, column_found, column_filled, capacity,
    B: tl.constexpr, STEP: tl.constexpr, SPLIT: tl.constexpr, DIAGONAL: tl.constexpr, MIRRORED: tl.constexpr,
    S: tl.constexpr, SQUARED: tl.constexpr, WIDE: tl.constexpr, MEAN: tl.constexpr, CODES: tl.constexpr,
    COUNT: tl.constexpr, EMIT: tl.constexpr,
):  # fmt: skip
    """One block of rows times one block of columns; self-pairs are left out of everything.

    Args:
        high, low, scales, width: as of `half_terms.HalfTerms`; low is read where SPLIT is set.
        row_ids: (row_count,) int64 samples; the columns are ``first`` and the column_count - 1 after it.
        factors: (2, S) float64: of the exponents, and of the kernels in their mean.
        along: (M, n) weights; where they are float64, so are the sums.
        codes: (n,) int64, read where CODES is set: what samples of different codes have in common is halved.
        row_sums, column_sums: (S M, column blocks, row blocks B) and (S M, row blocks, column blocks B); with
            MEAN, (M, ...).
        near, row_counts, column_counts: where COUNT is set, of cosines from ``near`` on; int32, as the sums.
        bars: (n,) int64 keys; with EMIT, keys above their sample's are appended to row_found and column_found
            (samples, capacity), of which row_filled and column_filled (int32) then say how many there were.
        DIAGONAL: rows and columns are the same samples: blocks below the diagonal have nothing to do.
        MIRRORED: a block off the diagonal stands for its mirror image, too.
        S: kernels, each the square of the one before where its bit of SQUARED is set, else exp2(cosine times
            factor), or exp((cosine - 1) times factor) in float64 where its bit of WIDE is set.
        MEAN: sum up the weighted mean of the kernels instead of each by itself.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    if DIAGONAL:  # noqa: SIM102 - known when this is compiled
        if j < i:
            return
    local_rows, local_columns = i * B + tl.arange(0, B), j * B + tl.arange(0, B)
    row_mask, column_mask = local_rows < row_count, local_columns < column_count
    mirrored_mask = column_mask & (j > i) if DIAGONAL else column_mask
    rows = tl.load(row_ids + tl.minimum(local_rows, row_count - 1))
    columns = first + tl.minimum(local_columns, column_count - 1).to(tl.int64)
    if SPLIT:
        # Both cross products are whole before they are added, so that (i, j) and (j, i) agree to the bit.
        cross = _product(high, low, rows, columns, width, B, STEP)
        cross = (cross + _product(low, high, rows, columns, width, B, STEP)) / 2048
        total = _product(high, high, rows, columns, width, B, STEP) + cross
    else:
        total = _product(high, high, rows, columns, width, B, STEP)
    scale = tl.load(scales + rows)[:, None] * tl.load(scales + columns)[None, :]
    cosines = tl.minimum(tl.maximum(total * scale, -1.0), 1.0)
    # Beyond the last row and column weights are zero, so that sums need no other mask.
    others = rows.to(tl.int32)[:, None] != columns.to(tl.int32)[None, :]

    if MEAN:
        mean = tl.zeros((B, B), dtype=tl.float32)
    for s in tl.static_range(S):
        if (SQUARED >> s) & 1:
            kernel = kernel * kernel  # noqa: F821 - from the step before
        elif (WIDE >> s) & 1:
            kernel = tl.exp((cosines.to(tl.float64) - 1.0) * tl.load(factors + s))
            kernel = tl.where(others, kernel, 0.0)
        else:
            kernel = tl.exp2(cosines * tl.load(factors + s).to(tl.float32))
            kernel = tl.where(others, kernel, 0.0)
        if MEAN:
            mean += kernel.to(tl.float32) * tl.load(factors + S + s).to(tl.float32)
        else:
            _weighted_sums(
                kernel, along, n, rows, columns, row_mask, column_mask, mirrored_mask,
                i, j, s * M, row_sums, column_sums, M, MIRRORED, B,
            )  # fmt: skip
    if MEAN:
        if CODES:
            alike = tl.load(codes + rows)[:, None] == tl.load(codes + columns)[None, :]
            mean = tl.where(alike, mean, mean * 0.5)
        _weighted_sums(
            mean, along, n, rows, columns, row_mask, column_mask, mirrored_mask,
            i, j, 0, row_sums, column_sums, M, MIRRORED, B,
        )  # fmt: skip
    if COUNT:
        reached = others & (cosines >= near)
        _counts(reached, row_mask, column_mask, mirrored_mask, i, j, row_counts, column_counts, MIRRORED, B)
    if EMIT:
        bar = tl.load(bars + rows)
        pairs = others & row_mask[:, None] & column_mask[None, :]
        _emit(cosines, pairs, bar, local_rows, columns, row_found, row_filled, capacity, 1)
        if MIRRORED:
            bar = tl.load(bars + columns)
            pairs &= mirrored_mask[None, :]
            _emit(cosines, pairs, bar, local_columns, rows, column_found, column_filled, capacity, 0)
