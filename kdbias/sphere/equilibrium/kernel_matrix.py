"""Products with the kernel matrix K_ij = exp(-2t (1 - x_i.x_j)) of n unit vectors, or its mean over a ladder
of bandwidths t (positive semi-definite like each).

The solver asks for K p again and again. Where half of K fits in memory it is kept as upper-triangle tiles;
past that each product computes the tiles anew. Both are the same matrix: float32 tiles, sums in float64.
Recomputed products are dear, so that kernel comes with a cheap stand-in (see `refinement`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Protocol

import numpy as np

from kdbias import progress
from kdbias.device import parse_bytes
from kdbias.sphere.kernels import chains_of_doublings
from kdbias.sphere.tiles import TILE, tile_count
from kdbias.sphere.workers import Workspace, available_threads, each

LADDER = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Bandwidths from the scale of classes to that of near neighbours: their mean kernel needs no choice."""

_SHOWN_FROM = 16_384  # rows of which all pairs take seconds

Bandwidth = float | tuple[float, ...]
"""One t, or several whose kernels are averaged."""


class KernelMatrix(Protocol):
    """A symmetric n x n kernel matrix that is known by its products.

    Attributes:
        n: rows.
        definite: whether it is positive semi-definite for certain, so that optima carry a certificate.
        description: one phrase for people.
    """

    n: int
    definite: bool
    description: str

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """K p for p (n,) or (n, m), float64. ``exact`` spares no precision: for certificates."""
        ...


def kernel_tile(
    a: np.ndarray,
    b: np.ndarray,
    t: Bandwidth,
    diagonal: bool = False,
    out: np.ndarray | None = None,
    scratch: np.ndarray | None = None,
) -> np.ndarray:
    """exp(-2t (1 - a.b)), or its mean over several t, for unit rows a (p, d) and b (q, d), float32.

    Cosines are clamped to [-1, 1]. The result lies in ``out``, or for several t in ``scratch``, both (p, q).
    """
    tile = np.matmul(a, b.T, out=out)
    np.clip(tile, -1, 1, out=tile)
    tile -= 1
    if isinstance(t, tuple):
        tile = _mean_kernel(tile, t, np.empty_like(tile) if scratch is None else scratch)
    else:
        tile *= 2 * t
        np.exp(tile, out=tile)
    if diagonal:
        np.fill_diagonal(tile, 1)
    return tile


def weaken_unlike(tile: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The tile (p, q) times `likeness`, in place."""
    tile *= likeness(a, b)
    return tile


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(p, q) float32 (1 + [a_i = b_j]) / 2: a kernel on a column's codes.

    Products of positive semi-definite kernels are positive semi-definite (Schur).
    """
    return np.where(a[:, None] == b[None, :], np.float32(1), np.float32(0.5))


def _mean_kernel(excess: np.ndarray, ladder: tuple[float, ...], out: np.ndarray) -> np.ndarray:
    """Mean of exp(2t excess) over the ladder, into ``out``; ``excess`` (cosine - 1) is overwritten.

    A doubled bandwidth costs a squaring instead of an exponential.
    """
    chains = chains_of_doublings(ladder)
    for place, chain in enumerate(chains):
        last = place == len(chains) - 1
        kernel = np.multiply(excess, np.float32(2 * ladder[chain[0].bandwidth]), out=excess if last else None)
        np.exp(kernel, out=kernel)
        if place:
            out += kernel
        else:
            np.copyto(out, kernel)
        for _ in chain[1:]:
            np.square(kernel, out=kernel)
            out += kernel
    out /= len(ladder)
    return out


def kernel_matrix(
    x: np.ndarray,
    t: Bandwidth,
    memory: str | int = "4GiB",
    threads: int | None = None,
    tile: int = TILE,
    codes: np.ndarray | None = None,
) -> "TiledKernel":
    """The kernel of unit rows x (n, d), kept within ``memory`` where half of it fits, else recomputed.

    float32 tiles are preferred; float16 tiles (each entry rounded by up to 5e-4 of itself) take half of that
    and serve the iterations; an exact product recomputes the tiles in float32.
    """
    budget = parse_bytes(memory)
    halves = len(x) * (len(x) + tile) / 2
    kept = np.float32 if 4 * halves <= budget else np.float16 if 2 * halves <= budget else None
    return TiledKernel(x, t, kept=kept, threads=threads, tile=tile, memory=budget, codes=codes)


class TiledKernel:
    """Upper-triangle tiles of K, kept (float32 or float16) or recomputed in each product.

    Args:
        x: (n, d) float32 unit rows.
        t: bandwidth, or several whose kernels are averaged.
        kept: dtype to keep the tiles in; None recomputes them.
        threads: worker threads (default: the CPUs this process may use).
        tile: rows of a tile.
        memory: bytes that the stand-in of a recomputed kernel may take.
        codes: (n,) int values of a column that is compared together with the vectors (`weaken_unlike`).

    Attributes:
        seconds: that the last pass over all tiles took.
    """

    seconds = 0.0

    def __init__(
        self,
        x: np.ndarray,
        t: Bandwidth,
        kept: type[np.float32] | type[np.float16] | None = np.float32,
        threads: int | None = None,
        tile: int = TILE,
        memory: int = 1 << 30,
        codes: np.ndarray | None = None,
    ) -> None:
        self.n, self.t, self.kept, self.tile, self.memory = len(x), t, kept, tile, memory
        self.definite = True
        self.description = f"exact kernel, {f'kept as {kept.__name__}' if kept else 'recomputed tiles'}"
        self.x, self.codes = np.ascontiguousarray(x, dtype=np.float32), codes
        self._threads = threads or available_threads()
        self._tiles: dict[tuple[int, int], np.ndarray] = {}
        self._row_sums: np.ndarray | None = None
        # A cheap approximation of this kernel, which `refinement` makes once and leaves here.
        self.stand_in: KernelMatrix | None = None
        if kept:
            self.scan(self._keep)

    @property
    def row_sums(self) -> np.ndarray:
        """(n,) float64, K 1."""
        if self._row_sums is None:
            self.scan(lambda block, values: None)
            assert self._row_sums is not None
        return self._row_sums

    @property
    def largest(self) -> float:
        """A bound on K's eigenvalues: its largest row sum, as no entry is negative."""
        return float(self.row_sums.max())

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `KernelMatrix.apply`; ``exact`` sums in float64, over float32 tiles."""
        # K p = K (p - mean p) + mean p * K 1: with K 1 summed in float64, float32 products only carry the
        # deviation from uniform sampling, and their rounding shrinks with it.
        columns = p[:, None] if p.ndim == 1 else p
        if not np.ptp(columns, axis=0).any():  # uniform: known from the first pass
            return self.row_sums * p[0] if p.ndim == 1 else self.row_sums[:, None] * p[0]
        mean = columns.mean(axis=0)
        dtype = np.float64 if exact else np.float32
        rest = (columns - mean).astype(dtype)

        def product(block: tuple[int, int], total: np.ndarray, workspace: Workspace) -> None:
            i, j = (slice(start, start + self.tile) for start in block)
            values = self._values(block, workspace, exact).astype(dtype, copy=False)
            total[i] += values @ rest[j]
            if block[0] != block[1]:
                total[j] += values.T @ rest[i]

        result = self._over_blocks(product, columns.shape[1]) + self.row_sums[:, None] * mean
        return result[:, 0] if p.ndim == 1 else result

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Rows of K (len(chosen), n), float32."""
        found = kernel_tile(self.x[chosen], self.x, self.t)
        return found if self.codes is None else weaken_unlike(found, self.codes[chosen], self.codes)

    def scan(self, visit: Callable[[tuple[int, int], np.ndarray], None]) -> None:
        """Call ``visit((row, column), values)`` with every tile on and above the diagonal, from all threads.

        The values are overwritten afterwards. The sums of the rows are taken on the way.
        """

        def work(block: tuple[int, int], total: np.ndarray, workspace: Workspace) -> None:
            i, j = (slice(start, start + self.tile) for start in block)
            values = self._values(block, workspace)
            visit(block, values)
            total[i, 0] += values.sum(axis=1, dtype=np.float64)
            if block[0] != block[1]:
                total[j, 0] += values.sum(axis=0, dtype=np.float64)

        self._row_sums = self._over_blocks(work, 1)[:, 0]

    def _keep(self, block: tuple[int, int], values: np.ndarray) -> None:
        self._tiles[block] = values.copy() if self.kept is np.float32 else to_half(values)

    def _values(self, block: tuple[int, int], workspace: Workspace, exact: bool = False) -> np.ndarray:
        """One tile of K, float32; read before the next call with the same workspace."""
        i, j = block
        kept = self._tiles.get(block)
        if kept is not None and kept.dtype == np.float32:
            return kept
        a, b = self.x[i : i + self.tile], self.x[j : j + self.tile]
        scratch = workspace.array("tile", (len(a), len(b)))
        if kept is not None and not exact:
            return from_half(kept, scratch)
        second = workspace.array("ladder", scratch.shape) if isinstance(self.t, tuple) else None
        found = kernel_tile(a, b, self.t, diagonal=i == j, out=scratch, scratch=second)
        if self.codes is None:
            return found
        return weaken_unlike(found, self.codes[i : i + self.tile], self.codes[j : j + self.tile])

    def _over_blocks(
        self, work: Callable[[tuple[int, int], np.ndarray, Workspace], None], columns: int
    ) -> np.ndarray:
        """Run ``work(block, total, workspace)`` over all tiles; totals of workers add up in a fixed order.

        Where that takes long, it shows how far it is.
        """
        totals = [np.zeros((self.n, columns)) for _ in range(self._threads)]
        tiles = tile_count(self.n, self.tile)
        shown = self.n >= _SHOWN_FROM and len(self._tiles) < tiles
        began = time.perf_counter()
        with progress.bar(tiles, "tiles", "kernel of all pairs") if shown else nullcontext() as bar:
            lock = threading.Lock()

            def share(rank: int, workspace: Workspace) -> None:
                for block in islice(self._blocks(), rank, None, self._threads):
                    work(block, totals[rank], workspace)
                    if bar is not None:
                        with lock:
                            bar.update()

            each(range(self._threads), share, self._threads)
        self.seconds = time.perf_counter() - began
        return np.add.reduce(totals)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """(first row, first column) of every tile on and above the diagonal."""
        starts = range(0, self.n, self.tile)
        return ((i, j) for i in starts for j in starts[i // self.tile :])


# float16 loses digits below 6e-5, where most of K may lie; times 2^15 it keeps them down to 2e-9.
_HALF_SCALE = 15


def to_half(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as scaled float16."""
    return (values * np.float32(2.0**_HALF_SCALE)).astype(np.float16)


def from_half(half: np.ndarray, out: np.ndarray) -> np.ndarray:
    """What `to_half` was given, rounded; into ``out`` (float32)."""
    # Numbers >= 0 need no sign moved: half of the time of `kdbias.tables.embedding_parts.widen`.
    np.left_shift(half.view(np.uint16), 13, out=out.view(np.uint32), dtype=np.uint32)
    out *= np.float32(2.0 ** (112 - _HALF_SCALE))  # 127 - 15, the difference of the exponents' biases
    return out


def offset_of(kernel: KernelMatrix) -> float:
    """What the energy of a kernel is the small rest of: a `Matching`'s constant, 0 for any other."""
    return kernel.constant if isinstance(kernel, Matching) else 0.0


class Matching:
    """The kernel of a discrepancy, K - k 1' - 1 k' + c 1 1', with a target's kernel means k and its own, c.

    For distributions p its energy is MMD^2(p, T) = p'Kp - 2 p'k + c (Gretton et al. 2012), convex where K is
    positive semi-definite, with twice the field as its gradient: solvers and certificates of the energy serve
    it unchanged.

    Args:
        inner: K over n samples.
        mean: (n,) float64, k_i = E K(x_i, y) for y of the target.
        constant: c = E K(y, y').
    """

    def __init__(self, inner: KernelMatrix, mean: np.ndarray, constant: float) -> None:
        self.n, self.definite, self.description = inner.n, inner.definite, inner.description
        self.inner, self.mean, self.constant = inner, mean, constant

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """Half the gradient of MMD^2, for p (n,) or (n, m); as of `KernelMatrix.apply`."""
        total = p.sum(axis=0)
        mean = self.mean if p.ndim == 1 else self.mean[:, None]
        return self.inner.apply(p, exact) - mean * total + (self.constant * total - self.mean @ p)
