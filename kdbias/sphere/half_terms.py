"""Unit rows as float16 terms on a torch device: what tensor cores multiply at full speed, without a loss.

A product of two float16 numbers is exact in float32, so rows that were stored as float16 are multiplied as
they were stored and scaled afterwards. Others are the sum of two terms, which costs three products.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LOW_SHIFT = 2048.0
"""The second term is kept times this: what float16 drops of a number is mostly too small for float16."""
_ROWS = 1 << 14
_CLOSE = 2.0**-22  # of a number: a few roundings of float32


@dataclass(frozen=True)
class HalfTerms:
    """Rows x_i of n vectors: ``high_i * scale_i``, or ``high_i + low_i / 2048`` with scales of 1.

    Attributes:
        high: (n, width) float16, zeros beyond the d dimensions.
        low: the same for the second term; None where one is enough.
        scales: (n,) float32.
        d: dimensions.
    """

    high: "torch.Tensor"
    low: "torch.Tensor | None"
    scales: "torch.Tensor"
    d: int

    @classmethod
    def of(cls, x: np.ndarray, device: str) -> "HalfTerms":
        """Terms of unit rows x (n, d) float32.

        One term where x is what float16 rows gave when they were scaled (to float32's rounding), as those of
        an embedding table with ``--store float16`` are. Else two: each number is then off by at most 2^-22 of
        itself, and the product of the second terms is left out, so a cosine by at most 3 x 2^-22 = 7e-7, and
        by some 1e-8 where signs are mixed.
        """
        try:
            return cls._filled(x, device, False)
        except _NotHalvesError:
            return cls._filled(x, device, True)

    @classmethod
    def _filled(cls, x: np.ndarray, device: str, split: bool) -> "HalfTerms":
        import torch

        n, d = x.shape
        step = step_of(d)
        shape = (n, -(-d // step) * step)
        terms = cls(
            torch.zeros(shape, dtype=torch.float16, device=device),
            torch.zeros(shape, dtype=torch.float16, device=device) if split else None,
            torch.ones(n, device=device),
            d,
        )
        for start in range(0, n, _ROWS):
            some = slice(start, start + _ROWS)
            rows = torch.from_numpy(np.ascontiguousarray(x[some])).to(device)
            if terms.low is None:
                terms.high[some, :d], terms.scales[some] = _halves(rows)
            else:
                high = rows.half()
                terms.high[some, :d] = high
                terms.low[some, :d] = (rows - high.float()).mul_(LOW_SHIFT).half()
        return terms

    def __len__(self) -> int:
        return len(self.high)

    def rows(self, some: "slice | torch.Tensor") -> "torch.Tensor":
        """(rows, width) float32, to float32's rounding."""
        if self.low is None:
            return self.high[some].float() * self.scales[some, None]
        return self.high[some].float() + self.low[some].float() / LOW_SHIFT

    def cosines(self, rows: "torch.Tensor", others: "torch.Tensor") -> "torch.Tensor":
        """(r, c) float32 in [-1, 1], to float32's rounding, of samples at positions (r,) and (c,).

        Products are to be as precise as float32 is, see `torch_pairs.product_precision`.
        """
        left, right = self.high[rows], self.high[others]
        found = _product(left, right)
        if self.low is None:
            found *= self.scales[rows, None]
            found *= self.scales[others]
        else:
            low = _product(left, self.low[others])
            low += _product(self.low[rows], right)
            found += low.div_(LOW_SHIFT)
        return found.clamp_(-1, 1)


def _product(a: "torch.Tensor", b: "torch.Tensor") -> "torch.Tensor":
    """a (r, d) times the transpose of b (c, d), both float16: float32, summed in float32."""
    import torch

    if a.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):  # on tensor cores; since PyTorch 2.8
        return torch.mm(a, b.T, out_dtype=torch.float32)
    return a.float() @ b.float().T


class _NotHalvesError(Exception):
    """Rows that float16 rows do not give."""


def step_of(d: int) -> int:
    """Dimensions that a kernel multiplies at a time."""
    return 64 if d > 32 else 32 if d > 16 else 16


def _halves(x: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """float16 rows (r, d) and float32 scales (r,) whose products are the rows x (r, d).

    Scaling moved a row's largest number by at most what float16 rounds by, so it came from the float16 number
    nearest to it or from one beside; each of the three gives the scale, and with it all other numbers.

    Raises:
        _NotHalvesError: there are none.
    """
    import torch

    largest = x.abs().amax(dim=1)
    nearest = largest.half().view(torch.int16)
    halves, scales = torch.empty_like(x, dtype=torch.float16), torch.empty_like(largest)
    open_rows = torch.ones_like(largest, dtype=torch.bool)
    for beside in (0, -1, 1):
        ratio = (nearest + beside).view(torch.float16).float() / largest
        tried = (x * ratio[:, None]).half()
        wide = tried.double()
        scale = ((wide * x).sum(dim=1) / (wide * wide).sum(dim=1)).float()
        fits = ((tried.float() * scale[:, None] - x).abs() <= _CLOSE * x.abs()).all(dim=1) & open_rows
        halves[fits], scales[fits] = tried[fits], scale[fits]
        open_rows &= ~fits
    if open_rows.any():
        raise _NotHalvesError
    return halves, scales
