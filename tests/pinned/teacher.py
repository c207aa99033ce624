"""A teacher whose sums are of whole numbers, so that every CPU gives the same vectors."""

from typing import Any

import numpy as np


class Blocks:
    """The sums of 16 blocks of 3 x 3 pixels, each less than its expectation."""

    preprocessing: dict[str, Any] = {"size": [12, 12], "color": "L", "mean": [0], "std": [1]}  # noqa: RUF012

    def embed(self, batch: Any) -> np.ndarray:
        pixels = np.asarray(batch, dtype=np.float32).reshape(len(batch), 4, 3, 4, 3)
        return pixels.sum(axis=(2, 4)).reshape(len(batch), 16) - 1150


def factory(device: str) -> Blocks:
    return Blocks()
