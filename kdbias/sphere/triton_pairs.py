"""Potentials, counts and neighbours of all pairs by fused kernels on CUDA; for tests in Triton's interpreter.

One traversal of the upper triangle of `triton_tiles` gives everything. Memory: the float16 rows (twice where
they are two terms), 8 n (T m + k) bytes of results, and a tile's buffers, 16 T m + 2 k MiB.
"""

from collections import deque
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kdbias.progress import say
from kdbias.sphere.half_terms import HalfTerms
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.reservoirs import EMPTY, pack, unpack
from kdbias.sphere.tiles import Share, pairs_of, tile_runs
from kdbias.sphere.triton_tiles import TILE, Candidates, FusedTiles, Parts, available

if TYPE_CHECKING:
    import torch

_SAMPLED = 4096  # columns from which a row's first bar is taken
_SLACK = 1e-6  # what rounding may lift such a bar above the kernel's own cosines; more only costs time
_ROOM = 8  # candidates a tile has room for, in multiples of k; random columns give four at first
_AGAIN_BYTES = 256 << 20
_AHEAD = 4  # tiles
_NO_ID = 0xFFFFFFFF
LOWEST = int(pack(np.array([-2.0], np.float32), np.array([_NO_ID]))[0])
"""A key below those of all cosines."""


def trusted(device: str) -> bool:
    """Whether a device runs the fused kernels, and gave what float64 gives on a small set of rows."""
    return available(device) and gives_float64(device)


@cache
def gives_float64(device: str) -> bool:
    """Whether the kernels give on ``device`` what float64 gives, on 300 rows; said where they do not.

    They are compiled for each kind of GPU, by the Triton that is installed: some seconds at the first use,
    against a wrong number from a compiler or a driver that nobody has tried.
    """
    rng, bandwidths = np.random.default_rng(0), (2.0, 5.0, 8.0)
    x = rng.normal(size=(300, 48)).astype(np.float32)
    x[150:200] = x[:50] + 0.1 * x[150:200]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    weights = rng.dirichlet(np.ones(300), size=2)
    cosines = x.astype(np.float64) @ x.T.astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    expected = np.stack([np.exp(2 * t * (cosines - 1)) @ weights.T for t in bandwidths])  # (T, n, m)
    try:
        sums, (_, nearest), counts = fused_pairs(x, Kernels(bandwidths), weights, 8, 0.9, device, 128)
        assert nearest is not None
        assert counts is not None
        right = np.allclose(sums, expected.transpose(2, 0, 1), rtol=1e-5, atol=0)
        right &= np.allclose(nearest, -np.sort(-cosines, axis=1)[:, :8], rtol=0, atol=1e-6)
        right &= np.array_equal(counts, (cosines >= 0.9).sum(axis=1))
        why = "their sums, neighbours or counts are not those of float64"
    except Exception as error:  # whatever a compiler raises
        right, why = (
            False,
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'}",
        )
    if not right:
        say(f"the fused kernels do not work on {device} ({why}); slower ways are taken")
    return right


def fused_pairs(
    x: np.ndarray,
    kernels: Kernels | None,
    weights: np.ndarray,
    k: int,
    near: float | None,
    device: str,
    tile: int | None = None,
    progress: Callable[[int], object] | None = None,
    share: Share | None = None,
) -> tuple[np.ndarray, tuple[np.ndarray | None, np.ndarray | None], np.ndarray | None]:
    """What `torch_pairs.torch_pairs` returns, in one pass: sums without self, (ids, cosines), counts.

    Cosines are those of float32 to its rounding (see `half_terms`), sums within a block of 128 float32 and
    float64 beyond: relative error about 2t x 1e-7, as on the CPU.

    Args:
        x: (n, d) float32 unit rows.
        weights: (m, n) float64 probabilities.
        k: neighbours a sample, 0 for none; near: cosine to count others at.
        tile: rows of a tile.
        share: that these are some of all, as for `torch_pairs.torch_pairs`.
    """
    import torch

    total, across = (share.total, share.across) if share else (len(x), 0)
    scaled = torch.from_numpy(weights * total).to(device)  # of order one
    fused = FusedTiles(HalfTerms.of(x, device), kernels, scaled.float(), near)
    fused.weights = scaled if fused.steps.wide else fused.weights
    side = tile or TILE
    nearest = _Nearest(fused, k, side, share if across else None) if k else None
    sums, counts = _added_up(fused, nearest, side, across, progress)
    without_self = np.empty((len(weights), len(sums), len(x)))
    for step, place in enumerate(fused.steps.places):
        assert kernels is not None
        without_self[:, place] = (sums[step] * (kernels.factors[place] / total)).cpu().numpy()
    best = (None, None) if nearest is None else nearest.best()
    return without_self, best, None if near is None else counts.cpu().numpy()


def _added_up(
    fused: FusedTiles,
    nearest: "_Nearest | None",
    side: int,
    across: int,
    progress: Callable[[int], object] | None,
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Sums (T, m, n) float64 and counts (n,) int64 of all tiles, which ``nearest`` sees on the way."""
    torch = fused.torch
    steps = len(fused.steps.places)
    sums = torch.zeros(steps, len(fused.weights), fused.n, dtype=torch.float64, device=fused.device)
    counts = torch.zeros(fused.n, dtype=torch.int64, device=fused.device)
    if nearest is None and not steps and fused.near is None:
        return sums, counts
    reached = _Reached(fused.device, progress)
    for rows, columns in tile_runs(fused.n, side, across):
        if nearest is not None:
            parts = nearest.tile(rows, columns)
        else:
            parts = fused.tile(fused.every[rows], columns, rows == columns)
        sums[..., rows] += parts.row_sums
        sums[..., columns] += parts.column_sums
        counts[rows] += parts.row_counts
        counts[columns] += parts.column_counts
        reached.after(pairs_of(rows, columns))
    reached.finish()
    return sums, counts


class _Reached:
    """Tells of tiles when the device has done them; the host is a few launches ahead of it, no more."""

    def __init__(self, device: "torch.device", progress: Callable[[int], object] | None) -> None:
        self.device, self.progress = device, progress
        self.ahead: deque[tuple[torch.cuda.Event | None, int]] = deque()

    def after(self, pairs: int) -> None:
        """All launches up to now have seen so many more pairs."""
        if self.progress is None:
            return
        event = None
        if self.device.type == "cuda":
            import torch

            with torch.cuda.device(self.device):
                event = torch.cuda.Event()
                event.record()
        self.ahead.append((event, pairs))
        self.finish(_AHEAD)

    def finish(self, ahead: int = 0) -> None:
        """Wait until at most ``ahead`` tiles are left."""
        while len(self.ahead) > ahead and self.progress is not None:
            event, pairs = self.ahead.popleft()
            if event is not None:
                event.synchronize()
            self.progress(pairs)


class _Nearest:
    """The k nearest others of each sample, out of the candidates that tiles emit.

    A sample's bar is a key that its k-th best is sure to reach: first a sampled cosine, then the k-th best so
    far. What exceeds it is emitted into a bounded buffer; a sample whose buffer overflowed sees the tile
    again, with room for all of it. The k largest keys do not depend on the order they came in.
    """

    def __init__(self, fused: FusedTiles, k: int, tile: int, share: Share | None = None) -> None:
        self.torch, self.fused, self.k, self.side, n = fused.torch, fused, k, tile, fused.n
        self.given = share is not None  # bars that others may have set: then few candidates are no fault
        self.kept = self.torch.full((n, k), EMPTY, dtype=self.torch.int64, device=fused.device)
        runs = (slice(s, s + _SAMPLED) for s in range(0, n, _SAMPLED))
        self.bars = self._bars_of(share) if share else self.torch.cat(list(map(self._first_bars, runs)))
        self.lines = min(tile, n)
        self.room = [self._room(self.lines, min(self.lines, _ROOM * k)) for _ in range(2)]

    def _room(self, samples: int, capacity: int) -> Candidates:
        torch, device = self.torch, self.fused.device
        keys = torch.empty((samples, capacity), dtype=torch.int64, device=device)
        return Candidates(keys, torch.zeros(samples, dtype=torch.int32, device=device))

    def _first_bars(self, run: slice) -> "torch.Tensor":
        """Keys below those of the k-th best among a run of samples; itself a sample is one of k + 1."""
        rows = self.fused.terms.rows(run)
        if len(rows) <= self.k:
            return self.torch.full((len(rows),), LOWEST, device=rows.device)
        bounds = (rows @ rows.T).clamp_(-1, 1).topk(self.k + 1, dim=1).values[:, -1] - _SLACK
        return keys_of(bounds, self.torch.full_like(bounds, _NO_ID, dtype=self.torch.int64))

    def _bars_of(self, share: Share) -> "torch.Tensor":
        """Keys below those of all that reach the bars of a share."""
        bars = self.torch.from_numpy(np.maximum(share.bars - _SLACK, -2, dtype=np.float32))
        keys = keys_of(bars, self.torch.full((len(bars),), _NO_ID, dtype=self.torch.int64))
        return keys.to(self.fused.device)

    def tile(self, rows: slice, columns: slice) -> Parts:
        """One tile: takes its candidates in, and returns the rest of what it gives."""
        diagonal = rows == columns
        room = (self.room[0], self.room[0] if diagonal else self.room[1])
        for buffer in room:
            buffer.keys.fill_(EMPTY)
            buffer.filled.zero_()
        every = self.fused.every
        parts = self.fused.tile(every[rows], columns, diagonal, room, self.bars)
        self._take(room[0], every[rows], columns)
        if not diagonal:
            self._take(room[1], every[columns], rows)
        return parts

    def _take(self, room: Candidates, samples: "torch.Tensor", others: slice) -> None:
        """Merge the candidates of samples, a run; those with more than there was room for see all again."""
        filled = room.filled[: len(samples)]
        over = filled > room.keys.shape[1]
        room.keys[: len(samples)][over] = EMPTY  # which of them fitted in is a matter of chance
        most = int(filled.max())
        if most:
            self._merge(samples, room.keys[: len(samples), :most])
        if over.any():
            self._again(samples[over], others)

    def _merge(self, samples: "torch.Tensor", keys: "torch.Tensor") -> None:
        best = self.torch.cat([self.kept[samples], keys], dim=1).topk(self.k, dim=1).values
        self.kept[samples] = best
        self.bars[samples] = self.torch.maximum(self.bars[samples], best[:, -1])

    def _again(self, samples: "torch.Tensor", others: slice) -> None:
        """All candidates of samples among a run of others."""
        width = others.stop - others.start
        for some in samples.split(max(1, _AGAIN_BYTES // (8 * width))):
            room = self._room(len(some), width)
            room.keys.fill_(EMPTY)
            self.fused.tile(some, others, False, (room, room), self.bars, again=True)
            self._merge(some, room.keys)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, k) int64 ids and (n, k) float32 cosines, nearest first."""
        # A first bar may have been too high by more than its slack: whoever has too few starts over.
        short = (self.kept[:, -1] == EMPTY).nonzero().flatten()[: 0 if self.given else None]
        self.bars[short], self.kept[short] = LOWEST, EMPTY
        for start in range(0, self.fused.n if len(short) else 0, self.side):
            self._again(short, slice(start, min(self.fused.n, start + self.side)))
        values, ids = unpack(self.kept.cpu().numpy())
        return ids, values


def keys_of(cosines: "torch.Tensor", ids: "torch.Tensor") -> "torch.Tensor":
    """Keys of float32 cosines of samples ids, as `reservoirs.pack` makes them: int64, of their shape."""
    import torch

    bits = cosines.contiguous().view(torch.int32)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) + (_NO_ID - ids)
