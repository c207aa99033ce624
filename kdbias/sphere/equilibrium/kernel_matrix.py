"""Products with the kernel matrix K_ij = exp(-2t (1 - x_i.x_j)) of n unit vectors, or its mean over a ladder
of bandwidths t (positive semi-definite like each).

The solver asks for K p again and again. Where half of K fits in memory it is kept as upper-triangle tiles;
past that each product computes the tiles anew. Both are the same matrix: float32 tiles, sums in float64.
Recomputed products are dear, so that kernel comes with a cheap stand-in (see `refinement`).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kdbias import progress
from kdbias.device import parse_bytes
from kdbias.sphere.equilibrium.halves import from_half, to_half
from kdbias.sphere.kernels import chains_of_doublings
from kdbias.sphere.tiles import TILE, tile_count
from kdbias.sphere.workers import InTurn, Workspace, available_threads, each

if TYPE_CHECKING:
    from kdbias.sphere.equilibrium.near_kernel import FarPart, Pairs

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


_Sums = tuple[np.ndarray, np.ndarray | None]
"""What a tile adds to the sums of its rows, and of its columns: (p, m) and (q, m)."""


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
        across: where not 0, the first ``across`` rows, a multiple of ``tile``, and the others are two runs:
            only pairs between the two count, as in `tiles.tile_runs`.

    Attributes:
        seconds: that the last pass over all tiles took.
        dear: whether products are, so that few of them should be made.
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
        across: int = 0,
    ) -> None:
        self.n, self.t, self.kept, self.tile, self.memory = len(x), t, kept, tile, memory
        self.definite, self.dear, self._across = True, kept is None, across
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
        result = self.product(columns - mean, exact) + self.row_sums[:, None] * mean
        return result[:, 0] if p.ndim == 1 else result

    def product(self, columns: np.ndarray, exact: bool = False) -> np.ndarray:
        """K times columns (n, m), which may be negative, as `apply` takes and gives them."""
        dtype = np.dtype(np.float64 if exact else np.float32)
        along = columns.astype(dtype)

        def towards(block: tuple[int, int], workspace: Workspace) -> _Sums:
            i, j = (slice(start, start + self.tile) for start in block)
            values = self._values(block, workspace, exact).astype(dtype, copy=False)
            return values @ along[j], None if block[0] == block[1] else values.T @ along[i]

        return self._over_blocks(towards, columns.shape[1])

    def between(self, rows: np.ndarray | slice, columns: np.ndarray | slice) -> np.ndarray:
        """(r, c) float32 kernel of some rows with others."""
        found = kernel_tile(self.x[rows], self.x[columns], self.t)
        return found if self.codes is None else weaken_unlike(found, self.codes[rows], self.codes[columns])

    def lay(
        self, name: str, shape: tuple[int, ...], chunks: Iterable[tuple[slice, np.ndarray]]
    ) -> np.ndarray:
        """A float32 array made of chunks of its rows, where the vectors are, too: here in memory."""
        laid = np.empty(shape, dtype=np.float32)
        for rows, values in chunks:
            laid[rows] = values
        return laid

    def remember(self, name: str, find: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What ``find`` gives: here nothing lasts beyond this process."""
        return find()

    def near_pairs(self, far: "FarPart", reduced: np.ndarray) -> "Pairs":
        """The pairs at or above a radius and what they have beyond the quadratic; see `near_kernel.Dear`."""
        found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

        def near(block: tuple[int, int], values: np.ndarray) -> None:
            mask = values >= far.radius
            if block[0] == block[1]:
                mask = np.triu(mask, 1)
            flat = np.flatnonzero(mask)
            i, j = (part.astype(np.int32) for part in np.divmod(flat, values.shape[1]))
            found[block] = (i + np.int32(block[0]), j + np.int32(block[1]), values.reshape(-1)[flat])

        self.scan(near)
        ordered = [found[block] for block in sorted(found)]  # the same whatever thread came first
        i, j, values = (np.concatenate(parts) for parts in zip(*ordered, strict=True))
        return i, j, far.beyond(self.x, reduced, i, j, values)

    def scan(self, visit: Callable[[tuple[int, int], np.ndarray], None]) -> None:
        """Call ``visit((row, column), values)`` with every tile on and above the diagonal, from all threads.

        The values are overwritten afterwards. The sums of the rows are taken on the way.
        """

        def towards(block: tuple[int, int], workspace: Workspace) -> _Sums:
            values = self._values(block, workspace)
            visit(block, values)
            along, down = (values.sum(axis=axis, dtype=np.float64, keepdims=True) for axis in (1, 0))
            return along, None if block[0] == block[1] else down.T

        self._row_sums = self._over_blocks(towards, 1)[:, 0]

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
        self, towards: Callable[[tuple[int, int], Workspace], _Sums], columns: int
    ) -> np.ndarray:
        """(n, columns) float64 sums of what ``towards`` gives of all tiles, whatever the number of threads.

        Where that takes long, it shows how far it is.
        """
        total, in_turn = np.zeros((self.n, columns)), InTurn()
        tiles = tile_count(self.n, self.tile)
        shown = self.n >= _SHOWN_FROM and len(self._tiles) < tiles
        began = time.perf_counter()
        with progress.bar(tiles, "tiles", "kernel of all pairs") if shown else nullcontext() as bar:

            def work(place: tuple[int, tuple[int, int]], workspace: Workspace) -> None:
                turn, block = place
                along, down = towards(block, workspace)

                def add() -> None:
                    total[block[0] : block[0] + self.tile] += along
                    if down is not None:
                        total[block[1] : block[1] + self.tile] += down
                    if bar is not None:
                        bar.update()

                in_turn.do(turn, add)

            each(enumerate(self._blocks()), work, self._threads)
        self.seconds = time.perf_counter() - began
        return total

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """(first row, first column) of every tile on and above the diagonal, or between the two runs."""
        rows = range(0, self._across or self.n, self.tile)
        return ((i, j) for i in rows for j in range(self._across or i, self.n, self.tile))


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
