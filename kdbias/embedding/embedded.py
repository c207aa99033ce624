"""What some rows of the data came to: their vectors, and what is known of their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Embedded:
    """What the rows of a part came to: `vectors` (m, d) raw float32 of the source's `rows` (m,).

    flipped   (m, d) of the mirrored images, or None
    failures  (row, reason) of the rows that could not be embedded
    seconds   where the time went
    facts     (m, 6) float32: `columns.IMAGE` of each image; None where none was seen
    digests   (m,) uint64 of the images' content, 0 where it is not known; None likewise
    norms, flip_norms  (m,) where `vectors` and `flipped` are unit vectors already
    """

    rows: np.ndarray
    vectors: np.ndarray
    flipped: np.ndarray | None
    failures: list[tuple[int, str]]
    seconds: dict[str, float]
    facts: np.ndarray | None = None
    digests: np.ndarray | None = None
    norms: np.ndarray | None = None
    flip_norms: np.ndarray | None = None

    def only(self, places: np.ndarray, rows: np.ndarray) -> Embedded:
        """Some of it, at these places (m,), as the rows (m,) of the source."""
        names = ("vectors", "flipped", "facts", "digests", "norms", "flip_norms")
        some: dict[str, Any] = {n: v if (v := getattr(self, n)) is None else v[places] for n in names}
        return Embedded(rows=rows, failures=[], seconds=self.seconds, **some)


def joined(found: list[Embedded]) -> Embedded:
    """Several results as one, by rising row."""
    order = np.argsort(np.concatenate([one.rows for one in found]), kind="stable")

    def together(name: str) -> Any:
        values = [getattr(one, name) for one in found]
        return None if any(value is None for value in values) else np.concatenate(values)[order]

    names = ("rows", "vectors", "flipped", "facts", "digests", "norms", "flip_norms")
    arrays: dict[str, Any] = {name: together(name) for name in names}
    failures = [failure for one in found for failure in one.failures]
    return Embedded(failures=failures, seconds=found[0].seconds, **arrays)
