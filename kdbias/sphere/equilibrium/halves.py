"""Kernel values in half of their memory."""

import numpy as np

# float16 loses digits below 6e-5, where most of K may lie; times 2^15 it keeps them down to 2e-9.
_HALF_SCALE = 15


def to_half(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as scaled float16."""
    return (values * np.float32(2.0**_HALF_SCALE)).astype(np.float16)


def from_half(half: np.ndarray, out: np.ndarray) -> np.ndarray:
    """What `to_half` was given, rounded; into ``out`` (float32)."""
    # Numbers >= 0 need no sign moved: half of the time of `kdbias.tables.embedding_parts.widen`.
    np.left_shift(half.view(np.uint16), 13, out=out.view(np.uint32), dtype=np.uint32)
    out *= np.float32(2.0 ** (112 - _HALF_SCALE))  # 127 - 15, the difference of the exponents' biases
    return out
