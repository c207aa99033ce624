"""Potentials, counts and neighbours of all pairs on a torch device: CUDA, and for tests torch on the CPU.

Where the device runs the fused kernels of `triton_tiles` those do it; torch's own tiles do elsewhere.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.kernels import LARGEST_FLOAT32_BANDWIDTH, Kernels
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.reservoirs import EMPTY, require_k, unpack
from kdbias.sphere.tiles import Share, pairs_of, tile_runs

if TYPE_CHECKING:
    import torch

TILE = 4096
PRECISIONS = ("float32", "tf32", "bf16")
COLUMNS = 16
"""Columns of a block, in multiples of its rows: the longer a row, the less its selection costs."""

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
    share: Share | None = None,
) -> tuple[np.ndarray, Best, np.ndarray | None]:
    """What `all_pairs` returns, computed on a torch device: sums without self, (ids, cosines), counts.

    Of a ``share`` the weights are those of its samples, and a neighbour that there is not has the cosine NaN.
    Where the device runs out of memory the tile is halved and the pass begins anew.

    Raises:
        KdbiasError: bad arguments, or memory that does not even hold the smallest tile.
    """
    import torch

    if precision not in PRECISIONS:
        raise KdbiasError(f"precision {precision!r} is unknown; use {', '.join(PRECISIONS)}")
    if k:
        require_k(share.total if share else len(x), k)
    weights = probabilities(len(x), weights) if share is None else weights
    kernels = Kernels(bandwidths) if len(bandwidths) else None
    is_fused = fused(device, precision)
    side = tile or (triton_tiles.TILE if is_fused else TILE)
    reached = progress
    if progress is not None and not is_fused and k and (kernels is not None or near is not None):
        reached = _halved(progress)

    def attempt(side: int) -> tuple[np.ndarray, Best, np.ndarray | None]:
        with torch.inference_mode(), product_precision(torch, "float32"):
            if is_fused:
                return triton_pairs.fused_pairs(x, kernels, weights, k, near, device, side, progress, share)
            return _all(x, kernels, weights, k, near, device, precision, side, reached, share)

    return triton_tiles.or_smaller(attempt, side, device)[0]


def fused(device: str, precision: str) -> bool:
    """Whether the fused kernels do it: they have no other precision than float32's."""
    return precision == "float32" and triton_pairs.trusted(device)


def how(device: str, precision: str) -> str:
    """What computes all pairs on a device, for people."""
    if fused(device, precision):
        return "all pairs by fused kernels"
    why = "" if precision != "float32" else ", without Triton" if not triton_tiles.installed() else ""
    return f"all pairs in torch tiles of {TILE}{why}"


def _all(
    x: np.ndarray,
    kernels: Kernels | None,
    weights: np.ndarray,
    k: int,
    near: float | None,
    device: str,
    precision: str,
    tile: int,
    progress: Callable[[int], object] | None,
    share: Share | None,
) -> tuple[np.ndarray, Best, np.ndarray | None]:
    """One attempt at `torch_pairs` with a given tile."""
    import torch

    y = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    across = share.across if share else 0
    best = torch_neighbors(y, k, tile, progress, across) if k else (None, None)
    seen = _Pass(y, kernels, weights, near, precision, share.total if share else len(x))
    sums, counts = seen.run(tile, progress, across)
    return sums, best, counts


class _Pass:
    """The pass of the potentials and counts; its state lives on the device."""

    def __init__(
        self,
        x: "torch.Tensor",
        kernels: Kernels | None,
        weights: np.ndarray,
        near: float | None,
        precision: str,
        total: int,
    ) -> None:
        import torch

        self.torch = torch
        self.kernels, self.near, self.precision = kernels, near, precision
        self.n, self.total, device = len(x), total, x.device
        self.x, self.low = x, x.bfloat16() if precision == "bf16" else x
        wide = torch.from_numpy(np.ascontiguousarray((weights * total).T)).to(device)
        self.weights = {torch.float32: wide.float(), torch.float64: wide}
        count = len(kernels.bandwidths) if kernels else 0
        self.sums = torch.zeros(len(weights), count, self.n, dtype=torch.float64, device=device)
        self.counts = torch.zeros(self.n, dtype=torch.int64, device=device) if near is not None else None

    def run(
        self, tile: int, progress: Callable[[int], object] | None, across: int = 0
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Sums (m, T, n) float64 and counts (n,) int64 or None, as NumPy arrays."""
        wanted = self.kernels is not None or self.counts is not None
        for rows, columns in tile_runs(self.n, tile, across) if wanted else ():
            self._tile(rows, columns)
            if progress is not None:
                progress(pairs_of(rows, columns))
        if self.kernels is not None:
            self.sums *= self.torch.from_numpy(self.kernels.factors / self.total).to(self.sums.device)[
                :, None
            ]
        return self.sums.cpu().numpy(), None if self.counts is None else self.counts.cpu().numpy()

    def _tile(self, rows: slice, columns: slice) -> None:
        diagonal = rows.start == columns.start
        exact = None
        if self.kernels is not None:
            with product_precision(self.torch, self.precision):
                low = (self.low[rows] @ self.low[columns].T).float().clamp_(-1, 1)
            self._add_potentials(self.kernels, low, rows, columns, diagonal)
            exact = low if self.precision == "float32" else None
        if self.counts is None:
            return
        if exact is None:
            exact = (self.x[rows] @ self.x[columns].T).clamp_(-1, 1)
        if diagonal:
            exact.fill_diagonal_(-3.0)
        reached = exact >= float(np.float32(self.near))
        self.counts[rows] += reached.sum(dim=1)
        if not diagonal:
            self.counts[columns] += reached.sum(dim=0)

    def _add_potentials(
        self, kernels: Kernels, cosines: "torch.Tensor", rows: slice, columns: slice, diagonal: bool
    ) -> None:
        selves = self.torch.arange(len(cosines), device=cosines.device) * (len(cosines) + 1)
        for index, kernel in each_kernel(kernels, cosines, selves if diagonal else None):
            weights = self.weights[kernel.dtype]
            self.sums[:, index, rows] += (kernel @ weights[columns]).T.double()
            if not diagonal:
                self.sums[:, index, columns] += (weights[rows].T @ kernel).double()


def each_kernel(
    kernels: Kernels, cosines: "torch.Tensor", blank: "torch.Tensor | None" = None
) -> "Iterator[tuple[int, torch.Tensor]]":
    """What `Kernels.each` gives, of a tensor of cosines (r, c)."""
    for chain in kernels.chains:
        t = kernels.bandwidths[chain[0].bandwidth]
        if t <= LARGEST_FLOAT32_BANDWIDTH:
            kernel = (cosines * (2 * t / math.log(2))).exp2_()
        else:
            kernel = cosines.double().sub_(1).mul_(2 * t).exp_()
        if blank is not None:
            kernel.view(-1)[blank] = 0.0
        for step in chain:
            yield step.bandwidth, kernel.square_() if step.squares else kernel


def _halved(progress: Callable[[int], object]) -> Callable[[int], object]:
    """Of two passes over all pairs, which together count as one."""
    return lambda pairs: progress(pairs // 2)


@contextmanager
def product_precision(torch: Any, precision: str) -> Iterator[None]:
    """Products of float32 matrices in TF32 only where it was asked for, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def torch_neighbors(
    x: "torch.Tensor",
    k: int,
    tile: int,
    progress: Callable[[int], object] | None = None,
    across: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) int64 positions and (n, k) float32 cosines of the nearest others, nearest first.

    Equal cosines go by the smaller position. A block has ``tile`` x 16 ``tile`` cosines, 1 GiB at a tile of
    4,096; with what selects among them a device needs up to three times that beside the vectors.

    Args:
        x: (n, d) float32 unit rows on the device.
        k: 1 <= k < n.
        progress: called with the number of pairs that were done since the last call.
        across: where not 0, of the first so many rows only neighbours among the others are looked for, and of
            those only among the first; where there are fewer than k, cosines are NaN.
    """
    import torch

    n, width, every = len(x), COLUMNS * tile, torch.arange(len(x), device=x.device)
    best = np.full((n, k), EMPTY, np.int64)
    ends = [(0, across, across, n), (across, n, 0, across)] if across else [(0, n, 0, n)]
    places = [(s, min(s + tile, e), low, high) for b, e, low, high in ends for s in range(b, e, tile)]
    for start, stop, low, high in places:
        rows, found = x[start:stop], []
        for first in range(low, high, width):
            columns = slice(first, min(first + width, high))
            cosines = (rows @ x[columns].T).clamp_(-1, 1)
            if not across:
                cosines.diagonal(start - first).fill_(-3.0)  # a sample is no neighbour of its own
            found.append(nearest_keys(cosines, every[columns], k))
            if progress is not None:
                progress(cosines.numel())
            del cosines  # else the next block would be made beside it
        keys = torch.cat(found, dim=1)
        some = min(k, keys.shape[1])
        best[start:stop, :some] = keys.topk(some, dim=1).values.cpu().numpy()
    values, ids = unpack(best)
    return ids, values


def nearest_keys(cosines: "torch.Tensor", ids: "torch.Tensor", k: int) -> "torch.Tensor":
    """(r, k) keys of the k largest cosines (r, c) of each row, as of `reservoirs.pack`; columns are samples
    ids (c,). `EMPTY` where a cosine is below -2, which says that there is none.

    Selecting float32 is several times faster than selecting keys, but leaves open which of equal cosines are
    taken for the last places: rows where that matters, few but for copies, are selected by key.
    """
    k = min(k, cosines.shape[1])
    values, places = cosines.topk(k, dim=1)
    keys = _keys(values, ids[places])
    reached = (cosines >= values[:, -1:]).sum(dim=1)
    tied = (reached > k).nonzero().flatten()
    for part in tied.split(max(1, len(cosines) // 8)) if len(tied) else ():
        keys[part] = _keys(cosines[part], ids).topk(k, dim=1).values
    return keys


def _keys(cosines: "torch.Tensor", ids: "torch.Tensor") -> "torch.Tensor":
    """Keys of cosines (r, c) of samples with these positions; `EMPTY` where a cosine says there is none."""
    return triton_pairs.keys_of(cosines, ids).masked_fill_(cosines < -2, EMPTY)
