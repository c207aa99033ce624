"""Exact nearest neighbours on a torch device: stripes of rows against blocks of columns."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kdbias.sphere.reservoirs import EMPTY, unpack

if TYPE_CHECKING:
    import torch

COLUMNS = 16
"""Columns of a block, in multiples of its rows: the longer a row, the less its selection costs."""


def torch_neighbors(
    x: "torch.Tensor", k: int, tile: int, progress: Callable[[int], object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) int64 positions and (n, k) float32 cosines of the nearest others, nearest first.

    Equal cosines go by the smaller position. A block has ``tile`` x 16 ``tile`` cosines, 1 GiB at a tile of
    4,096; with what selects among them a device needs up to three times that beside the vectors.

    Args:
        x: (n, d) float32 unit rows on the device.
        k: 1 <= k < n.
        progress: called with the number of pairs that were done since the last call.
    """
    import torch

    n, width = len(x), COLUMNS * tile
    best = np.empty((n, k), np.int64)
    for start in range(0, n, tile):
        rows, found = x[start : start + tile], []
        for first in range(0, n, width):
            cosines = (rows @ x[first : first + width].T).clamp_(-1, 1)
            cosines.diagonal(start - first).fill_(-3.0)  # a sample is no neighbour of its own
            found.append(_nearest(cosines, first, k))
            if progress is not None:
                progress(cosines.numel())
            del cosines  # else the next block would be made beside it
        keys = torch.cat(found, dim=1).topk(k, dim=1).values
        best[start : start + tile] = keys.cpu().numpy()
    values, ids = unpack(best)
    return ids, values


def _nearest(cosines: "torch.Tensor", first: int, k: int) -> "torch.Tensor":
    """Keys of the k largest of each row, as in `reservoirs.pack`; columns are samples from ``first`` on.

    Selecting float32 is several times faster than selecting keys, but leaves open which of equal cosines are
    taken for the last places: rows where that matters, few but for copies, are selected by key.
    """
    import torch

    columns = cosines.shape[1]
    k = min(k, columns)
    values, places = cosines.topk(k, dim=1)
    keys = _keys(values, places + first)
    reached = (cosines >= values[:, -1:]).sum(dim=1)
    tied = (reached > k).nonzero().flatten()
    if len(tied):
        ids = torch.arange(first, first + columns, device=cosines.device)
        for part in tied.split(max(1, len(cosines) // 8)):
            keys[part] = _keys(cosines[part], ids).topk(k, dim=1).values
    return keys


def _keys(cosines: "torch.Tensor", ids: "torch.Tensor") -> "torch.Tensor":
    import torch

    bits = cosines.contiguous().view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    keys += 0xFFFFFFFF - ids
    return keys.masked_fill_(cosines < -2, EMPTY)
