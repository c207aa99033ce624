"""How far the data are from a target, and what weights could take of that at which effective sample size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from kdbias.advice.data import Data
from kdbias.advice.settings import AdviseSettings
from kdbias.measurement.comparison import LEVEL, same_target
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, KernelMatrix, kernel_matrix
from kdbias.sphere.equilibrium.matching import Match, match, unmatched
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.equilibrium.target import Target
from kdbias.tables.provenance import options_in
from kdbias.targets.opening import OpenTarget
from kdbias.targets.settings import Aiming

FLOORS = (0.75, 0.5, 0.25)
"""Effective sample sizes, as shares of the distinct samples, at which weights are tried."""
USUAL = 0.5
"""That of the default of `kdbias weights`."""
_EXACT = 1e-6


@dataclass(frozen=True)
class Offer:
    """What matched weights would do.

    Attributes:
        min_ess: the least effective sample size that is asked for, as a share of the distinct samples.
        ess_share: that which they have, as a share of the samples.
        discrepancy: from the target, squared.
        removed: the share of natural sampling's discrepancy that is gone.
        bound: what ends the matching: "natural" (there is nothing to do), "noise" or "floor".
    """

    min_ess: float
    ess_share: float
    discrepancy: float
    removed: float
    bound: Literal["natural", "noise", "floor"]


@dataclass(frozen=True)
class Difference:
    """How the data, as they come, stand to a target.

    Attributes:
        towards, kind: the target, as it was named.
        of: the data that a reference was embedded from, all of them; None where nothing says.
        size: samples of a reference; None for other targets. effective_size: as many independent ones say as
            much, None for a target that is known exactly.
        differs: whether the data differ from it measurably.
        p_value, effect: of the two-sample test; None where there is none (a target that is known exactly).
        discrepancy: squared, noise: what such a reference has by itself; noise_ratio: their quotient, None
            without noise.
        clustered: the reference's column whose samples of one value were counted together; None: each alone.
        natural_enough: whether matching would leave the distinct samples as they come.
        blind: columns whose shares differ though the embedding hardly shows it, where that was measured.
        notes: what is odd about the target, lines for people.
    """

    towards: str
    of: str | None
    kind: str
    size: int | None
    effective_size: float | None
    differs: bool
    p_value: float | None
    effect: float | None
    discrepancy: float
    noise: float
    noise_ratio: float | None
    clustered: str | None
    natural_enough: bool
    blind: tuple[str, ...]
    notes: tuple[str, ...]


class Comparison:
    """The samples that are looked at beside a target.

    Args:
        aim: the target that was named.
    """

    def __init__(self, data: Data, aim: Aiming, settings: AdviseSettings) -> None:
        self.data, self.aim, self.settings = data, aim, settings
        self.opened: OpenTarget = data.target(aim)
        groups = Groups.of(data.first, len(data.first))
        codes = self.opened.codes
        self.groups = groups if codes is None else groups.apart(codes[0])

    @cached_property
    def kernel(self) -> KernelMatrix:
        """The mean kernel of the distinct samples."""
        first, codes = self.groups.first, self.opened.codes
        own = None if codes is None else codes[0][first]
        return kernel_matrix(self.data.x[first], LADDER, "8GiB", self.settings.threads, codes=own)

    @cached_property
    def target(self) -> Target:
        """The target as the distinct samples see it."""
        return self.opened.of(
            self.data.x[self.groups.first],
            LADDER,
            lambda p: self.kernel.apply(p, exact=True),
            self.groups,
            threads=self.settings.threads,
        )

    @cached_property
    def natural(self) -> Match:
        """Natural sampling, and that of the distinct samples alike."""
        return unmatched(self.kernel, self.target, self.groups)

    @cached_property
    def stays(self) -> bool:
        """Whether `kdbias weights --towards` leaves the distinct samples as they come."""
        test = self.opened.test(self.data.x[self.groups.first], LADDER, groups=self.groups)
        if test is not None and test.p_value > LEVEL:
            return True
        return self.natural.discrepancy <= max(self.target.noise, 0.0)

    def difference(self) -> Difference:
        """How the data stand to the target: as it was measured on all of them, where it was."""
        target, opened = self.remembered, self.opened
        if target is not None and self.data.measured is not None:
            natural = self.data.measured["schemes"][0]["discrepancy"]
            test, noise = target["test"], target["noise"]
            differs, value, blind = target["differs"], natural["value"], target["blind"]
        else:
            found = opened.test(self.data.x, LADDER, seed=self.settings.seed)
            test = None if found is None else vars(found)
            value, noise = self.natural.natural, self.target.noise
            differs = found.p_value < LEVEL if found else value > _EXACT * self.target.constant
            blind = []
        return Difference(
            towards=self.aim.towards or "",
            of=None if opened.table is None else _whole_of(opened.table.provenance),
            kind=opened.named.kind,
            size=opened.size,
            effective_size=self.target.size,
            differs=bool(differs),
            p_value=test and test["p_value"],
            effect=test and test["effect"],
            discrepancy=value,
            noise=noise,
            noise_ratio=value / noise if noise > _EXACT else None,
            clustered=opened.clustered,
            natural_enough=self.stays,
            blind=tuple(blind),
            notes=opened.notes,
        )

    def offers(self, floors: Iterable[float]) -> Iterator[tuple[Offer, np.ndarray]]:
        """What weights would do at each floor, and the masses (s,) that do it."""
        before = self.natural.natural
        for floor in floors:
            found = match(
                self.kernel,
                self.target,
                min_ess=floor,
                groups=self.groups,
                max_seconds=120.0,
            )
            removed = 1 - found.discrepancy / before if before > 0 else 0.0
            share = 1 / float(found.p @ found.p) / len(found.p)
            yield Offer(floor, share, found.discrepancy, removed, found.bound), found.p

    def even(self) -> np.ndarray:
        """(s,) masses of the distinct samples alike."""
        return self.natural.p

    def shares(self, column: str) -> dict[str | None, float] | None:
        """Share of each value of a column in the target; None where that is not known."""
        if self.opened.vectors is not None:
            return self.opened.shares(column)
        if self.opened.masses is None or column not in (self.opened.named.what, self.opened.column):
            return None
        values = self.data.column(column)
        found: dict[str | None, float] = {}
        for value, mass in zip(values.to_pylist(), self.opened.masses.tolist(), strict=True):
            found[value] = found.get(value, 0.0) + mass
        return found

    @cached_property
    def remembered(self) -> dict[str, Any] | None:
        """``target`` of the measurement, if it was against this target."""
        target = (self.data.measured or {}).get("target")
        return target if same_target(self.opened, target) else None


def _whole_of(record: dict[str, Any]) -> str | None:
    """The data that a record's table was embedded from, if from all of them."""
    return None if options_in(record).get("where") else record.get("data")


def reference_noise(data: Data, size: int = 300) -> float:
    """Squared discrepancy that a reference of such a size would have by itself, if it were like the data."""
    kernel = kernel_matrix(data.x, LADDER, "8GiB")
    n = len(data.x)
    even = np.full(n, 1 / n)
    mean = float(even @ kernel.apply(even, exact=True))
    distinct = (n * mean - 1) / (n - 1) if n > 1 else 1.0
    return max(1 - distinct, 0.0) / size
