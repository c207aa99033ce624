"""Products with the kernel matrix on a GPU, by the fused kernels of `triton_tiles`."""

import time

import numpy as np

from kdbias.device import resolve_device
from kdbias.errors import KdbiasError
from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth
from kdbias.sphere.half_terms import HalfTerms
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.tiles import tile_order

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


class DeviceKernel:
    """The kernel matrix of unit rows, or its mean over several t, whose products a CUDA device computes anew.

    It is `TiledKernel`'s matrix, to float32's rounding of the cosines, and kept nowhere. An ``exact`` product
    is summed in float64 throughout; any other one in float32 within blocks of 128 and float64 beyond. The
    same product gives the same bits.

    Args:
        x: (n, d) float32 unit rows.
        t: bandwidth, or several whose kernels are averaged.
        device: a torch device that runs the fused kernels, as of `product_device`.
        codes: (n,) int values of a column that is compared together with the vectors
            (`kernel_matrix.weaken_unlike`).
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
        tile: int = triton_tiles.TILE,
    ) -> None:
        import torch

        self.n, self.t, self.device, self.tile = len(x), t, device, tile
        self.definite = True
        self.description = f"exact kernel, recomputed on {device}"
        self._kernels = Kernels(t if isinstance(t, tuple) else (t,))
        self._terms = triton_tiles.or_smaller(
            lambda _: HalfTerms.of(x, device), triton_tiles.SMALLEST_TILE, device
        )[0]
        self._codes = None if codes is None else torch.from_numpy(np.asarray(codes, np.int64)).to(device)
        self._row_sums: np.ndarray | None = None

    @property
    def row_sums(self) -> np.ndarray:
        """(n,) float64, K 1."""
        if self._row_sums is None:
            self._row_sums = self._product(np.ones((self.n, 1)), True)[:, 0]
        return self._row_sums

    def apply(self, p: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `KernelMatrix.apply`."""
        # As in `TiledKernel.apply`: rounding acts on the deviation from uniform sampling alone.
        columns = p[:, None] if p.ndim == 1 else p
        mean = columns.mean(axis=0)
        rest = columns - mean
        result = self.row_sums[:, None] * mean
        if rest.any():
            result += self._product(rest * self.n, exact) / self.n
        return result[:, 0] if p.ndim == 1 else result

    def _product(self, columns: np.ndarray, exact: bool) -> np.ndarray:
        """K times columns (n, m), whose numbers are of order one."""
        found, self.tile = triton_tiles.or_smaller(
            lambda tile: self._in_tiles(columns, exact, tile), self.tile, self.device
        )
        return found + columns  # the samples themselves, at a kernel of 1

    def _in_tiles(self, columns: np.ndarray, exact: bool, tile: int) -> np.ndarray:
        """(n, m) float64, the sums over others."""
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
