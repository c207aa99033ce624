"""Products with the kernel matrix on a GPU, by the fused kernels of `triton_tiles`."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kdbias.device import parse_bytes, resolve_device
from kdbias.errors import KdbiasError
from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import FarPart, Pairs
from kdbias.sphere.half_terms import HalfTerms
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.tiles import tile_order
from kdbias.sphere.torch_pairs import each_kernel, product_precision

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
DEAR_FROM = 2_000_000
"""Rows from which a product is held to cost more than the stand-in's on the host, by their operations."""
_NEAR_TILE = 4096
_TIMED = 8192  # rows of the small product


def product_device(name: str) -> str:
    """The device of ``auto | cpu | cuda | cuda:N``; auto takes a GPU only if it runs the fused kernels.

    Raises:
        KdbiasError: no such device, or one that was asked for and cannot take the products.
    """
    device = resolve_device(name)
    if device == "cpu" or takes_products(device):
        return device
    if name == "auto":
        return "cpu"
    raise KdbiasError(
        f"{device} cannot take products with the kernel: that needs Triton, and a CUDA device of compute "
        "capability 8.0 or later on which its kernels give what float64 gives; use --device cpu"
    )


def takes_products(device: str) -> bool:
    """Whether a device, of `resolve_device`, takes products by itself."""
    return device != "cpu" and triton_pairs.trusted(device)


def product_seconds(n: int, d: int, device: str) -> float:
    """How long a product with the kernel of n vectors should take, from a small one that is timed."""
    side = min(n, _TIMED)
    x = np.random.default_rng(0).normal(size=(side, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    kernel, spent = DeviceKernel(x, 2.0, device), 0.0
    for _ in range(2):  # the first one compiles
        started = time.perf_counter()
        kernel.apply(np.eye(1, side)[0])
        spent = time.perf_counter() - started
    return spent * (n / side) ** 2


class DeviceKernel(TiledKernel):
    """`TiledKernel` whose products a CUDA device computes anew, kept nowhere.

    It is the same matrix to float32's rounding of the cosines. An ``exact`` product is summed in float64
    throughout; any other one in float32 within blocks of 128 and float64 beyond. The same product gives the
    same bits.

    Args:
        x: (n, d) float32 unit rows.
        t: bandwidth, or several whose kernels are averaged.
        device: a torch device that runs the fused kernels, as of `product_device`.
        codes: (n,) int values of a column that is compared together with the vectors
            (`kernel_matrix.weaken_unlike`).
        memory: bytes on the host that its stand-in may take.
        tile: rows of a tile; halved where the device has no memory left.

    Raises:
        KdbiasError: the device has too little memory for the vectors.
    """

    def __init__(
        self,
        x: np.ndarray,
        t: Bandwidth,
        device: str,
        codes: np.ndarray | None = None,
        memory: str | int = 1 << 30,
        tile: int = triton_tiles.TILE,
    ) -> None:
        import torch

        super().__init__(x, t, kept=None, tile=tile, memory=parse_bytes(memory), codes=codes)
        self.device, self.dear = device, self.n >= DEAR_FROM
        self.description = f"exact kernel, recomputed on {device}"
        self._kernels = Kernels(t if isinstance(t, tuple) else (t,))
        self._terms = triton_tiles.or_smaller(
            lambda _: HalfTerms.of(x, device), triton_tiles.SMALLEST_TILE, device
        )[0]
        self._codes = None if codes is None else torch.from_numpy(np.asarray(codes, np.int64)).to(device)

    @property
    def row_sums(self) -> np.ndarray:
        """(n,) float64, K 1."""
        if self._row_sums is None:
            self._row_sums = self.product(np.full((self.n, 1), 1 / self.n), True)[:, 0] * self.n
        return self._row_sums

    def product(self, columns: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `TiledKernel.product`."""
        began, scaled = time.perf_counter(), columns * self.n  # of order one
        found = self._in_tiles(lambda tile: self._others(scaled, exact, tile))
        self.seconds = time.perf_counter() - began
        return (found + scaled) / self.n  # the samples themselves, at a kernel of 1

    def near_pairs(self, far: FarPart, reduced: np.ndarray) -> Pairs:
        """As of `TiledKernel.near_pairs`."""
        return self._in_tiles(lambda tile: self._near_pairs(far, reduced, min(tile, _NEAR_TILE)))

    def _in_tiles(self, work: Callable[[int], Result]) -> Result:
        found, self.tile = triton_tiles.or_smaller(work, self.tile, self.device)
        return found

    def _others(self, columns: np.ndarray, exact: bool, tile: int) -> np.ndarray:
        """(n, m) float64, the sums over others, of columns whose numbers are of order one."""
        import torch

        along = torch.from_numpy(np.ascontiguousarray(columns.T)).to(self.device)
        fused = triton_tiles.FusedTiles(
            self._terms, self._kernels, along if exact else along.float(), mean=True, codes=self._codes
        )
        sums = torch.zeros(along.shape, dtype=torch.float64, device=self.device)
        for i, j in tile_order(self.n, tile):
            rows, others = (slice(b * tile, min(self.n, (b + 1) * tile)) for b in (i, j))
            parts = fused.tile(fused.every[rows], others, i == j)
            sums[:, rows] += parts.row_sums[0]
            sums[:, others] += parts.column_sums[0]
        return np.ascontiguousarray(sums.cpu().numpy().T)

    def _near_pairs(self, far: FarPart, reduced: np.ndarray, tile: int) -> Pairs:
        import torch

        leading = None if reduced is self.x else torch.from_numpy(np.asarray(reduced)).to(self.device)
        constant, linear, square = far.quadratic
        every = torch.arange(self.n, device=self.device).split(tile)
        found: list[list[np.ndarray]] = [[], [], []]
        with torch.inference_mode(), product_precision(torch, "float32"):
            for rows, others in ((a, b) for place, a in enumerate(every) for b in every[place:]):
                cosines = self._terms.cosines(rows, others)
                kernel = self._mean(cosines, rows, others)
                near = kernel >= far.radius
                i, j = (near.triu_(1) if rows is others else near).nonzero(as_tuple=True)
                cosine = cosines[i, j].double()
                along = cosine if leading is None else (leading[rows] @ leading[others].T)[i, j].double()
                beyond = kernel[i, j].double() - (constant + linear * cosine + square * along * along)
                for parts, part in zip(found, (rows[i].int(), others[j].int(), beyond), strict=True):
                    parts.append(part.cpu().numpy())
        first, second, rest = map(np.concatenate, found)
        return first, second, rest

    def _mean(self, cosines: "torch.Tensor", rows: "torch.Tensor", others: "torch.Tensor") -> "torch.Tensor":
        """(r, c) the kernel of samples (r,) and (c,) at these cosines."""
        found, factors = 0.0 * cosines, self._kernels.factors / len(self._kernels.factors)
        for index, kernel in each_kernel(self._kernels, cosines):
            found += kernel * factors[index]
        if self._codes is not None:
            found[self._codes[rows, None] != self._codes[others]] *= 0.5
        return found
