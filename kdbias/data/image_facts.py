"""What an image looks like at a glance, in six numbers, taken while its pixels are there anyway.

They are the columns `kdbias.tables.columns.IMAGE` of an embedding table: width and height (pixels, upright),
mean luma (BT.601), the 1st percentile of the pixels' darkest channels, the 99th of their brightest ones, and
the standard deviation of the channel that varies most (at most 0.5); levels from 0, black, to 1.

At most 4,096 pixels are looked at, on an even grid: shares of them are known to a percent, and a large
photograph costs as little as a small one.
"""

import numpy as np
from xxhash import xxh3_64_intdigest

from kdbias.data.decode import upright_size

_GRID = 64
_TAIL = 0.01
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def digest_of(data: bytes | np.ndarray) -> int:
    """Digest of an image file's bytes, or of pixels and their shape: from 1 to 2^64 - 1."""
    if isinstance(data, bytes):
        return xxh3_64_intdigest(data) or 1
    shape = f"{data.dtype.str}{data.shape};".encode()
    return xxh3_64_intdigest(shape + np.ascontiguousarray(data).tobytes()) or 1


def facts_of(pixels: np.ndarray, data: bytes | np.ndarray | None = None) -> np.ndarray:
    """The facts of an image, (6,) float32 in the order of `columns.IMAGE`.

    Args:
        pixels: uint8 (height, width, 1 or 3).
        data: what they were decoded from, where that may have been at a smaller scale.
    """
    height, width, channels = pixels.shape
    seen = pixels[:: -(-height // _GRID), :: -(-width // _GRID)].reshape(-1, channels).astype(np.float32)
    luma, low, high = seen[:, 0], seen[:, 0], seen[:, 0]
    if channels == 3:
        luma = seen @ _LUMA
        low, high = (end(end(low, seen[:, 1]), seen[:, 2]) for end in (np.minimum, np.maximum))
    rank = int(_TAIL * len(seen))
    darkest, brightest = np.partition(low, rank)[rank], np.partition(high, -1 - rank)[-1 - rank]
    # Products, since `mean` and `std` along rows of three take ten times as long.
    mean = np.full(len(seen), 1 / len(seen), np.float32) @ seen
    away = seen - mean
    contrast = np.sqrt(np.einsum("ij,ij->j", away, away).max() / len(seen))
    if isinstance(data, bytes):
        height, width = upright_size(data, (height, width))
    levels = luma.mean(), darkest, brightest, contrast
    return np.array([width, height, *(min(level / 255, 1.0) for level in levels)], np.float32)
