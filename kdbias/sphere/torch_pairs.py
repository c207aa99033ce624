"""The pass over all pairs in torch tiles, for CUDA devices (and, for tests, torch on the CPU)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias import progress as progress_lines
from kdbias.errors import KdbiasError
from kdbias.sphere.kernels import LARGEST_FLOAT32_BANDWIDTH, Kernels
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.reservoirs import EMPTY, require_k, unpack
from kdbias.sphere.tiles import tile_order

if TYPE_CHECKING:
    import torch

TILE = 4096
SMALLEST_TILE = 256
PRECISIONS = ("float32", "tf32", "bf16")

Best = tuple[np.ndarray | None, np.ndarray | None]


def torch_pairs(
    x: np.ndarray,
    bandwidths: Sequence[float],
    weights: np.ndarray,
    k: int,
    near: float | None,
    device: str,
    precision: str = "float32",
    tile: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[np.ndarray, Best, np.ndarray | None]:
    """What `all_pairs` returns, computed on a torch device: sums without self, (ids, cosines), counts.

    Where the device runs out of memory the tile is halved and the pass begins anew.

    Raises:
        KdbiasError: bad arguments, or memory that does not even hold the smallest tile.
    """
    import torch

    if precision not in PRECISIONS:
        raise KdbiasError(f"precision {precision!r} is unknown; use {', '.join(PRECISIONS)}")
    if k:
        require_k(len(x), k)
    weights = probabilities(len(x), weights)
    kernels = Kernels(bandwidths) if len(bandwidths) else None
    side = tile or TILE
    while True:
        try:
            with torch.inference_mode(), _product_precision(torch, "float32"):
                return _Pass(x, kernels, weights, k, near, device, precision).run(side, progress)
        except torch.cuda.OutOfMemoryError:
            if side <= SMALLEST_TILE:
                raise KdbiasError(
                    f"{device} has too little free memory for {len(x):,} x {x.shape[1]} vectors; use "
                    "--device cpu"
                ) from None
        finally:
            # Nothing refers to the pass any more; its memory is for the next attempt, or for FAISS, which
            # cannot take from torch's cache.
            torch.cuda.empty_cache()
        side //= 2
        progress_lines.say(f"{device} is out of memory: starting over with tile {side}")


class _Pass:
    """One pass; its state lives on the device."""

    def __init__(
        self,
        x: np.ndarray,
        kernels: Kernels | None,
        weights: np.ndarray,
        k: int,
        near: float | None,
        device: str,
        precision: str,
    ) -> None:
        import torch

        self.torch = torch
        self.kernels, self.k, self.near, self.precision = kernels, k, near, precision
        self.n = len(x)
        self.x = torch.from_numpy(np.ascontiguousarray(x)).to(device)
        self.low = self.x.bfloat16() if precision == "bf16" else self.x
        wide = torch.from_numpy(np.ascontiguousarray((weights * self.n).T)).to(device)
        self.weights = {torch.float32: wide.float(), torch.float64: wide}
        count = len(kernels.bandwidths) if kernels else 0
        self.sums = torch.zeros(len(weights), count, self.n, dtype=torch.float64, device=device)
        self.ids = torch.arange(self.n, device=device)
        self.best = torch.full((self.n, k), EMPTY, dtype=torch.int64, device=device) if k else None
        self.threshold = torch.full((self.n,), -2.0, device=device)
        self.counts = torch.zeros(self.n, dtype=torch.int64, device=device) if near is not None else None

    def run(
        self, tile: int, progress: Callable[[int], object] | None
    ) -> tuple[np.ndarray, Best, np.ndarray | None]:
        for i, j in tile_order(self.n, tile):
            rows, columns = (slice(b * tile, min(self.n, (b + 1) * tile)) for b in (i, j))
            self._tile(rows, columns)
            if progress is not None:
                size = (rows.stop - rows.start) * (columns.stop - columns.start)
                progress(size if i == j else 2 * size)
        if self.kernels is not None:
            self.sums *= self.torch.from_numpy(self.kernels.factors / self.n).to(self.sums.device)[:, None]
        best: Best = (None, None)
        if self.best is not None:
            cosines, ids = unpack(self.best.cpu().numpy())
            best = ids, cosines
        return self.sums.cpu().numpy(), best, None if self.counts is None else self.counts.cpu().numpy()

    def _tile(self, rows: slice, columns: slice) -> None:
        diagonal = rows.start == columns.start
        exact = None
        if self.kernels is not None:
            with _product_precision(self.torch, self.precision):
                low = (self.low[rows] @ self.low[columns].T).float().clamp_(-1, 1)
            self._add_potentials(self.kernels, low, rows, columns, diagonal)
            exact = low if self.precision == "float32" else None
        if self.best is None and self.counts is None:
            return
        if exact is None:
            exact = (self.x[rows] @ self.x[columns].T).clamp_(-1, 1)
        if diagonal:
            exact.fill_diagonal_(-3.0)
        self._count(exact, rows, columns, diagonal)
        self._select(exact, rows, columns, diagonal)

    def _add_potentials(
        self, kernels: Kernels, cosines: "torch.Tensor", rows: slice, columns: slice, diagonal: bool
    ) -> None:
        for chain in kernels.chains:
            kernel = self._exponential(cosines, kernels.bandwidths[chain[0].bandwidth])
            if diagonal:
                kernel.fill_diagonal_(0.0)
            weights = self.weights[kernel.dtype]
            for step in chain:
                if step.squares:
                    kernel.square_()
                self.sums[:, step.bandwidth, rows] += (kernel @ weights[columns]).T.double()
                if not diagonal:
                    self.sums[:, step.bandwidth, columns] += (weights[rows].T @ kernel).double()

    def _exponential(self, cosines: "torch.Tensor", t: float) -> "torch.Tensor":
        """The kernel up to its factor, as in `Kernels`."""
        if t <= LARGEST_FLOAT32_BANDWIDTH:
            return self.torch.mul(cosines, 2 * t / math.log(2)).exp2_()
        return cosines.double().sub_(1).mul_(2 * t).exp_()

    def _count(self, cosines: "torch.Tensor", rows: slice, columns: slice, diagonal: bool) -> None:
        if self.counts is None:
            return
        reached = cosines >= float(np.float32(self.near))
        self.counts[rows] += reached.sum(dim=1)
        if not diagonal:
            self.counts[columns] += reached.sum(dim=0)

    def _select(self, cosines: "torch.Tensor", rows: slice, columns: slice, diagonal: bool) -> None:
        """Offer a tile's entries to its rows and, off the diagonal, to its columns.

        This is where the host waits for the device, once a tile: most tiles soon have nothing to offer, and
        sorting them all the same would cost more.
        """
        if self.best is None:
            return
        offers = [(cosines, rows, columns)] + ([] if diagonal else [(cosines.T, columns, rows)])
        reached = [entries >= self.threshold[of, None] for entries, of, _ in offers]
        most = self.torch.stack([mask.sum(dim=1).max() for mask in reached]).tolist()
        for (entries, of, among), mask, count in zip(offers, reached, most, strict=True):
            if count:
                self._merge(entries, mask, count, of, among)

    def _merge(
        self, cosines: "torch.Tensor", reached: "torch.Tensor", most: int, of: slice, among: slice
    ) -> None:
        """Take what was reached, at most ``most`` a row, into the k best; keys as in `reservoirs.pack`."""
        torch = self.torch
        assert self.best is not None
        bits = cosines.contiguous().view(torch.int32)
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
        keys += 0xFFFFFFFF - self.ids[among]
        keys.masked_fill_(~reached | (cosines < -2), EMPTY)
        top = keys.topk(min(most, self.k, keys.shape[1]), dim=1).values
        merged = torch.cat([self.best[of], top], dim=1).topk(self.k, dim=1).values
        self.best[of] = merged
        worst = (merged[:, -1] >> 32).int()
        threshold = (worst ^ ((worst >> 31) & 0x7FFFFFFF)).view(torch.float32)
        self.threshold[of] = torch.where(merged[:, -1] == EMPTY, -2.0, threshold)


@contextmanager
def _product_precision(torch: Any, precision: str) -> Iterator[None]:
    """Products of float32 matrices in TF32 only where it was asked for, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
