"""What our own study found in cases like the user's: `evidence.toml`, which comes with kdbias."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

MATCHED, LABELS, EVENED = "matched", "labels", "inverse-density"
"""What was tried: matched to 300 unlabelled images, balanced by label, evened out without a target."""


@dataclass(frozen=True)
class Gain:
    """Share of natural sampling's error that a way of drawing removed, with its 95 % interval over seeds."""

    value: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes 0: better, worse; else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def text(self) -> str:
        """``+2.2 % [+2.1, +2.3]``."""
        low, high = (f"{100 * end:+.1f}" for end in (self.low, self.high))
        return f"{100 * self.value:+.1f} % [{low}, {high}]"


@dataclass(frozen=True)
class Case:
    """One case of the study.

    Attributes:
        name, what: as the study calls it, and in words.
        differs: whether the two-sample test told its data from the target.
        discrepancy: squared discrepancy of its data from the target.
        removed: the share of it that matched weights took away, at ``ess_share``.
        metric: by which its students were judged.
        gains: by what was tried.
    """

    name: str
    what: str
    differs: bool
    discrepancy: float
    removed: float
    ess_share: float
    samples: int
    steps: int
    metric: str
    gains: Mapping[str, Gain]

    def unlike(self, discrepancy: float, removed: float) -> float:
        """How far data of such a discrepancy, and share removed at ESS 50 %, are from this case.

        Factors of ten of the discrepancy, and quarters of it removed, count alike.
        """
        times = abs(math.log10(max(discrepancy, 1e-12) / self.discrepancy))
        return times + 4 * abs(removed - self.removed)


@lru_cache(1)
def _document() -> dict[str, Any]:
    text = (files("kdbias.advice") / "evidence.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def file() -> str:
    """The file, in the repository, that the numbers are cited from."""
    return _document()["file"]


@lru_cache(1)
def cases() -> tuple[Case, ...]:
    """All cases."""
    return tuple(
        Case(**{**case, "gains": {name: Gain(**gain) for name, gain in case["gains"].items()}})
        for case in _document()["cases"]
    )


def nearest(known: Iterable[Case], discrepancy: float, removed: float) -> list[Case]:
    """Those of the cases whose data differed from the target, the most alike first.

    Args:
        discrepancy: squared, of natural sampling from the target.
        removed: the share of it that matched weights take away at ESS 50 %.
    """
    return sorted(
        (case for case in known if case.differs), key=lambda case: case.unlike(discrepancy, removed)
    )
