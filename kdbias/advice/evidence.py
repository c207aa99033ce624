"""What our own study found in cases like the user's: `evidence.toml`, which comes with kdbias."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

MATCHED, WITH, LABELS, EVENED = "matched", "matched with", "labels", "inverse-density"
"""What was tried: matched to 300 unlabelled images, with a column as well, balanced by label, evened out
without a target."""
TIMES = 3.0
"""Factor of the discrepancy up to which a case is cited for other data."""
REMOVED, ESS, REPEATED = 0.2, 0.3, 0.25
"""The same of shares: that which weights remove, ESS/n at it, samples that are near duplicates."""


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
class Situation:
    """What decides whether a case speaks of some data. Of what kind the images are is not known.

    Attributes:
        discrepancy: squared, of natural sampling from the target.
        removed: the share of it that matched weights take away, at ``ess_share``.
        repeated: share of the samples that are near duplicates of others.
        clustered: whether samples of the target count together, as images of one person do.
    """

    discrepancy: float
    removed: float
    ess_share: float
    repeated: float
    clustered: bool


@dataclass(frozen=True)
class Case(Situation):
    """One case of the study.

    Attributes:
        name, what: as the study calls it, and in words.
        differs: whether the two-sample test told its data from the target.
        metric: by which its students were judged.
        gains: by what was tried.
    """

    name: str
    what: str
    differs: bool
    samples: int
    steps: int
    metric: str
    gains: Mapping[str, Gain]

    def like(self, data: Situation) -> bool:
        """Whether it may be cited for data: near in everything that is known of both."""
        times = max(data.discrepancy, 1e-12) / self.discrepancy
        shares = (
            (abs(data.removed - self.removed), REMOVED),
            (abs(data.ess_share - self.ess_share), ESS),
            (abs(data.repeated - self.repeated), REPEATED),
        )
        return (
            self.differs
            and data.clustered == self.clustered
            and 1 / TIMES <= times <= TIMES
            and all(by <= most for by, most in shares)
        )

    def unlike(self, data: Situation) -> float:
        """How far data are from it: a factor of ten of the discrepancy counts as a quarter of it removed."""
        times = abs(math.log10(max(data.discrepancy, 1e-12) / self.discrepancy))
        return times + 4 * abs(data.removed - self.removed)


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


def comparable(known: Iterable[Case], data: Situation) -> list[Case]:
    """Those of the cases that are like some data, the most alike first; none where none is."""
    return sorted((case for case in known if case.like(data)), key=lambda case: case.unlike(data))
