"""What was found about some data and their target, and the choice that follows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from kdbias.advice import evidence
from kdbias.advice.data import Counts, Data
from kdbias.advice.matching import FLOORS, USUAL, Comparison, Difference, Offer
from kdbias.advice.written import Written
from kdbias.targets.settings import SPHERE

Choice = Literal["matched", "compare", "copies", "natural", "unknown"]
_FAINT = 2.0  # times its noise: a smaller difference from a reference is half of that reference's accidents


@dataclass(frozen=True)
class Finding:
    """Data beside a target.

    Attributes:
        data: what is looked at; counts: of odd samples.
        against: the target; None without one.
        written: the advised weights, where they lie in a file.
    """

    data: Data
    counts: Counts
    against: Comparison | None
    written: Written | None = None

    @cached_property
    def difference(self) -> Difference | None:
        """How the data stand to the target; None without one."""
        return None if self.against is None else self.against.difference()

    @cached_property
    def _tried(self) -> list[tuple[Offer, np.ndarray]]:
        """Offers, with the masses (s,) of those that are looked at, by falling floor; none where none are."""
        own = None if self.written is None else self.written.offer
        if self.against is None or (self.against.stays if own is None else own.bound == "natural"):
            return []
        floors = {*FLOORS, self._floor} - ({own.min_ess} if own is not None else set())
        found = list(self.against.offers(floors))
        if own is not None and self.written is not None:
            found.append((own, self.written.masses))
        return sorted(found, key=lambda tried: -tried[0].min_ess)

    @property
    def _floor(self) -> float:
        return USUAL if self.written is None else self.written.offer.min_ess

    @property
    def offers(self) -> tuple[Offer, ...]:
        """What matched weights do, and would do, at several effective sample sizes; none where nothing."""
        return tuple(offer for offer, _ in self._tried)

    @property
    def advised(self) -> Offer | None:
        """The offer of the weights that are made, or of `kdbias weights --towards`."""
        return next((offer for offer in self.offers if offer.min_ess == self._floor), None)

    @property
    def tried(self) -> str:
        """What of our study speaks of such a target."""
        if self.difference is None or self.difference.kind == SPHERE:
            return evidence.EVENED
        if self.against is not None and self.against.opened.column is not None:
            return evidence.WITH
        return evidence.LABELS if self.difference.kind == "balanced" else evidence.MATCHED

    @cached_property
    def cases(self) -> list[evidence.Case]:
        """The cases that speak of these data, the most alike first; none where none is like them."""
        known = [case for case in evidence.cases() if self.tried in case.gains]
        target, offer = self.difference, self.advised
        if target is None or offer is None or self.tried == evidence.EVENED:
            return known
        if self.counts.blind or self.faint:
            return []
        repeated, clustered = self.counts.near / self.counts.samples, target.clustered is not None
        own = (target.discrepancy, offer.removed, offer.ess_share, repeated, clustered)
        return evidence.comparable(known, evidence.Situation(*own))

    @property
    def faint(self) -> bool:
        """Whether a reference's own noise is most of the difference from it."""
        target = self.difference
        return target is not None and bool(target.size) and (target.noise_ratio or _FAINT) < _FAINT

    @property
    def choice(self) -> Choice:
        """What to do."""
        if self.difference is None or self.difference.kind == SPHERE:
            return "unknown"
        if not self.difference.differs:
            return "natural"
        if self.advised is None:
            return "copies" if self.counts.copies else "natural"
        signs = {case.gains[self.tried].sign for case in self.cases}
        return "matched" if 1 in signs and -1 not in signs else "compare"

    @property
    def masses(self) -> np.ndarray | None:
        """Probabilities of the advised draws, one a value of `column`; None where no weights are advised."""
        if self.choice not in ("matched", "compare", "copies"):
            return None
        if self.written is not None:
            return self.written.masses
        if self.choice == "copies" and self.against is not None:
            return self.against.even()
        return next(p for offer, p in self._tried if offer is self.advised)

    def column(self, name: str) -> pa.Array:
        """The values of a column: of all samples where weights are written, else of those looked at."""
        whole = self.masses is not None and self.written is not None
        return self.data.table.column(name).take(pa.array(self.data.order if whole else self.data.rows))

    @property
    def drawn_from(self) -> int:
        """How many samples the advised draws are of; 0 where none are advised."""
        return 0 if self.masses is None else len(self.masses)

    @property
    def never(self) -> int:
        """Samples of `column` that the advised draws leave out; 0 where none are advised."""
        return 0 if self.masses is None else int((self.masses == 0).sum())
