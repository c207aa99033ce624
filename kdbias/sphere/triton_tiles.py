"""Tiles of cosines on a GPU: one launch of `triton_kernel` each, and what it leaves, added up.

Blocks leave their sums in buffers of partial sums; these are added up in float64, in an order that is always
the same, so a run gives the same bits again.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.sphere.half_terms import HalfTerms, step_of
from kdbias.sphere.kernels import LARGEST_FLOAT32_BANDWIDTH, Kernels

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
TILE = 16_384
SMALLEST_TILE = 256
SHAPES = {False: (128, 8, 3), True: (64, 4, 3)}
"""Rows and columns of a program's block, warps and stages; True: with two terms a number."""
_LEAST_CAPABILITY = (8, 0)  # shared memory for three stages of a block's operands


def installed() -> bool:
    """Whether Triton is there; it comes with PyTorch on Linux."""
    return find_spec("triton") is not None


def available(device: str) -> bool:
    """Whether a device runs the fused kernels: CUDA, compute capability 8.0 or later, where Triton is."""
    import torch

    if not device.startswith("cuda") or torch.version.cuda is None or not installed():
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def or_smaller(attempt: Callable[[int], Result], tile: int, device: str) -> tuple[Result, int]:
    """What ``attempt(tile)`` returns, and that tile: halved, and said so, where the device had no memory.

    Raises:
        KdbiasError: there is not even memory for the smallest tile.
    """
    import torch

    while True:
        try:
            return attempt(tile), tile
        except torch.cuda.OutOfMemoryError:
            if tile <= SMALLEST_TILE:
                raise KdbiasError(
                    f"{device} has too little free memory for these vectors; use --device cpu"
                ) from None
        finally:
            # Nothing refers to the attempt any more; its memory is for the next one, or for FAISS, which
            # cannot take from torch's cache.
            torch.cuda.empty_cache()
        tile //= 2
        say(f"{device} is out of memory: starting over with tile {tile}")


class _Steps:
    """Kernels in the order that costs the least, as the fused kernel takes them.

    Attributes:
        places: of each step, its bandwidth's index.
        squared, wide: a bit a step, as in `triton_kernel.block_kernel`.
        factors: (2, S) float64.
    """

    def __init__(self, kernels: Kernels | None) -> None:
        steps = [step for chain in kernels.chains for step in chain] if kernels else []
        self.places = [step.bandwidth for step in steps]
        self.factors = np.zeros((2, len(steps)))
        self.squared = self.wide = 0
        for s, step in enumerate(steps):
            assert kernels is not None
            t = kernels.bandwidths[step.bandwidth]
            wide = t > LARGEST_FLOAT32_BANDWIDTH
            self.squared |= step.squares << s
            self.wide |= wide << s
            self.factors[0, s] = 2 * t if wide else 2 * t / math.log(2)
            self.factors[1, s] = kernels.factors[step.bandwidth] / len(steps)


@dataclass
class Candidates:
    """Room for a tile's candidates: keys (samples, capacity) int64, and how many there were (samples,)."""

    keys: "torch.Tensor"
    filled: "torch.Tensor"


@dataclass
class Parts:
    """What a tile adds to its rows and to its columns: sums (S, M, samples) float64, counts (samples,) int64.

    Where sums are not wanted S is 0, where counts are not they are 0.
    """

    row_sums: "torch.Tensor"
    column_sums: "torch.Tensor"
    row_counts: "torch.Tensor"
    column_counts: "torch.Tensor"


class FusedTiles:
    """Tiles of the cosines of terms, and what is wanted of each.

    Args:
        terms: of n rows.
        kernels: bandwidths; None for no sums.
        weights: (M, n), float32 or float64 on the device: of the sums, which are taken in its dtype within a
            block. float64 where a bandwidth is beyond float32.
        near: cosine to count others at; None for no counts.
        mean: sum up the mean of the kernels, instead of each.
        codes: (n,) int64 on the device, with ``mean``: what samples of different codes have in common is
            halved.
    """

    def __init__(
        self,
        terms: HalfTerms,
        kernels: Kernels | None,
        weights: "torch.Tensor",
        near: float | None = None,
        mean: bool = False,
        codes: "torch.Tensor | None" = None,
    ) -> None:
        import torch

        self.torch, self.terms, self.n, self.near, self.codes = torch, terms, len(terms), near, codes
        self.device = terms.high.device
        self.steps = _Steps(kernels)
        self.factors = torch.from_numpy(self.steps.factors).to(self.device)
        self.weights = weights.double() if self.steps.wide else weights
        self.every = torch.arange(self.n, device=self.device)
        self.empty = self.every[:0]
        self.block, warps, stages = SHAPES[terms.low is not None]
        count = len(self.steps.places)
        self.options: dict[str, Any] = {
            "B": self.block,
            "STEP": step_of(terms.d),
            "SPLIT": terms.low is not None,
            "S": count,
            "SQUARED": self.steps.squared,
            "WIDE": self.steps.wide,
            "MEAN": mean,
            "CODES": codes is not None,
            "COUNT": near is not None,
            "num_warps": warps,
            "num_stages": stages,
        }
        self.sums = (1 if mean else count) if kernels else 0

    def tile(
        self,
        rows: "torch.Tensor",
        columns: slice,
        diagonal: bool,
        candidates: tuple[Candidates, Candidates] | None = None,
        bars: "torch.Tensor | None" = None,
        again: bool = False,
    ) -> Parts:
        """One launch.

        Args:
            rows: (r,) int64 positions of samples.
            columns: a run of samples.
            diagonal: rows and columns are the same run; both orders of its pairs are in the parts' sum.
            candidates: of the rows and of the columns; None for none.
            bars: (n,) int64, keys that candidates exceed.
            again: the tile was seen before: only the rows' candidates are wanted.
        """
        import torch

        from kdbias.sphere.triton_kernel import block_kernel

        block = self.block
        width = columns.stop - columns.start
        high, wide = -(-len(rows) // block), -(-width // block)
        m = len(self.weights)
        make = torch.zeros if diagonal else torch.empty  # blocks below the diagonal write nothing

        def buffer(lines: int, across: int, along: int, dtype: Any) -> "torch.Tensor":
            return make((lines, across, along * block), dtype=dtype, device=self.device)

        options = self.options | ({"S": 0, "MEAN": False, "COUNT": False} if again else {})
        kind, lines, counted = self.weights.dtype, 0 if again else self.sums * m, int(options["COUNT"])
        row_sums, row_counts = buffer(lines, wide, high, kind), buffer(counted, wide, high, torch.int32)
        column_sums, column_counts = buffer(lines, high, wide, kind), buffer(counted, high, wide, torch.int32)
        row_found, column_found = candidates or (Candidates(self.empty, self.empty),) * 2
        low = self.terms.high if self.terms.low is None else self.terms.low
        on = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with on:
            block_kernel[(high, wide)](
                *(self.terms.high, low, self.terms.scales, self.terms.high.shape[1]),
                *(rows, len(rows), columns.start, width),
                *(self.factors, self.weights, self.n, m, self.empty if self.codes is None else self.codes),
                *(row_sums, column_sums),
                *(-3.0 if self.near is None else float(np.float32(self.near)), row_counts, column_counts),
                *(self.empty if bars is None else bars, row_found.keys, row_found.filled),
                *(column_found.keys, column_found.filled, row_found.keys.shape[-1]),
                DIAGONAL=diagonal,
                MIRRORED=not again,
                EMIT=candidates is not None,
                **options,
            )

        def added(parts: "torch.Tensor", length: int) -> "torch.Tensor":
            return parts.sum(dim=1, dtype=torch.float64)[:, :length].reshape(-1, m, length)

        def counted_up(parts: "torch.Tensor", length: int) -> "torch.Tensor":
            return parts.sum(dim=(0, 1))[:length]

        return Parts(
            added(row_sums, len(rows)),
            added(column_sums, width),
            counted_up(row_counts, len(rows)),
            counted_up(column_counts, width),
        )
