"""Unit vectors on a torch device, as cells are made of them there."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from kdbias.sphere import triton_tiles
from kdbias.sphere.cells.cells import Rows, Seen
from kdbias.sphere.half_terms import HalfTerms
from kdbias.sphere.torch_pairs import product_precision

Result = TypeVar("Result")
_ROWS = 8192  # that are added up in float32


class DeviceRows(Rows):
    """`Rows` on a torch device, where they lie as `HalfTerms`.

    A sample moves among all centroids: on a GPU to choose some would cost more. Sums are products with which
    rows are in which cell, so that they come out the same again.

    Args:
        x: (n, d) float32 unit rows.
        device: of torch.

    Raises:
        KdbiasError: the device has too little memory for the vectors.
    """

    candidates = 1 << 62

    def __init__(self, x: np.ndarray, device: str) -> None:
        super().__init__(x)
        self.device = device
        self.terms = in_memory(lambda tile: HalfTerms.of(x, device), triton_tiles.SMALLEST_TILE, device)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """An array's copy on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def vectors(self, rows: np.ndarray) -> torch.Tensor:
        """(r, d) float32."""
        return self.terms.rows(self.put(rows))[:, : self.terms.d]

    def nearest(self, rows: np.ndarray, centroids: np.ndarray, seen: Seen) -> np.ndarray:
        """As of `Rows.nearest`."""
        member = np.empty(len(rows), dtype=np.int64)

        def work(tile: int) -> None:
            step, across = max(1, tile**2 // max(centroids.shape)), self.put(centroids).T
            for start in range(0, len(rows), step):
                some = slice(start, start + step)
                member[some] = (self.vectors(rows[some]) @ across).argmax(dim=1).cpu().numpy()

        in_memory(work, triton_tiles.TILE, self.device)
        seen(len(rows) * len(centroids))
        return member

    def moved(self, cell: np.ndarray, centroids: np.ndarray, seen: Seen) -> np.ndarray:
        """(n,) the nearest of all centroids."""
        return self.nearest(np.arange(len(cell)), centroids, seen)

    def sums(
        self,
        codes: np.ndarray,
        count: int,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """As of `Rows.sums`, in float32 within 8,192 rows and float64 beyond."""
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] >= 0]
        positions, found = order if rows is None else rows[order], np.zeros((count, self.x.shape[1]))
        with torch.inference_mode(), product_precision(torch, "float32"):
            for start in range(0, len(order), _ROWS):
                own, some = codes[order[start : start + _ROWS]], positions[start : start + _ROWS]
                inside = self.put(own)[:, None] == torch.arange(own[0], own[-1] + 1, device=self.device)
                shares = inside.float()
                if weights is not None:
                    shares *= self.put(weights[some])[:, None]
                found[own[0] : own[-1] + 1] += (shares.T @ self.vectors(some)).cpu().numpy()
        return found

    def moment(self) -> np.ndarray:
        """As of `Rows.moment`."""
        d = self.x.shape[1]
        found = torch.zeros((d, d), dtype=torch.float64, device=self.device)
        with torch.inference_mode(), product_precision(torch, "float32"):
            for start in range(0, len(self.x), _ROWS):
                some = self.terms.rows(slice(start, start + _ROWS))[:, :d]
                found += (some.T @ some).double()
        return found.cpu().numpy()


def in_memory(work: Callable[[int], Result], tile: int, device: str) -> Result:
    """What ``work(tile)`` gives, with float32's products and by smaller tiles where a device has no memory.

    Raises:
        KdbiasError: there is not even memory for the smallest tile.
    """

    def attempt(tile: int) -> Result:
        with torch.inference_mode(), product_precision(torch, "float32"):
            return work(tile)

    return triton_tiles.or_smaller(attempt, tile, device)[0]
