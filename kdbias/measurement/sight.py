"""What is seen of a table's vectors: samplings in a pass over pairs, and how far they are from a target."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.measurement import best
from kdbias.measurement.comparison import Comparison, Fields, product_fields
from kdbias.measurement.density import Bandwidths
from kdbias.measurement.distribution import Sampling
from kdbias.measurement.passes import PassPlan, PassResult, fill_in
from kdbias.measurement.shares import compare_columns
from kdbias.sphere.equilibrium.kernel_matrix import LADDER
from kdbias.sphere.room import room
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.targets.opening import OpenTarget


class Sight:
    """A table's vectors, whose pairs a pass sees; a target, if there is one, is compared by the same pass.

    With a column beside the vectors it takes all pairs once more, through the product of both kernels.

    Args:
        x: (n, d) float32 unit rows of the table.
        plan: how pairs are seen.
        aim: the target; None for none.
    """

    def __init__(self, table: EmbeddingTable, x: np.ndarray, plan: PassPlan, aim: OpenTarget | None) -> None:
        self.x, self._table, self._plan, self._aim = x, table, plan, aim
        self._masses = [] if aim is None or aim.own_masses is None else [aim.own_masses]
        self._codes = None if aim is None else aim.own_codes
        self._ladder = LADDER if aim is not None and self._codes is None else ()
        self._fields: Fields | None = None  # of the samplings seen, then of the target's own masses

    def measure(
        self,
        samplings: Sequence[Sampling],
        bandwidths: Bandwidths,
        k: int = 0,
        near: float | None = None,
        stored: Sequence[Sampling] = (),
    ) -> PassResult | None:
        """One pass; fills in what it says of each sampling.

        Args:
            k, near: as of `PassPlan.run`.
            stored: samplings that are compared with the target alone.

        Returns:
            What the pass says of ``samplings``; None where there are none.
        """
        several = [*(s.p for s in (*samplings, *stored)), *self._masses]
        p = np.stack(several, out=room(self.x, (len(several), len(self.x))))
        result, swept = None, bandwidths.values if samplings else []
        if self._ladder:
            seen = self._plan.run(self.x, sorted({*swept, *self._ladder}), p, k, near, spare=1)
            self._fields = seen.mean_kernel(self._ladder)
            result = seen.only(swept, len(samplings))
        elif samplings:
            result = self._plan.run(self.x, swept, p[: len(samplings)], k, near)
        if result is not None and samplings:
            fill_in(samplings, result, bandwidths, self.x)
        if self._aim is not None and self._codes is not None:
            progress.say(f"comparing {self._aim.column} together with the vectors: all pairs once more")
            self._fields = product_fields(self.x, self._codes, p, self._plan), None
        return result if samplings else None

    def compare(
        self,
        samplings: Sequence[Sampling],
        natural: Sampling,
        first: np.ndarray,
        known: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Compare the samplings that were seen, in their order, with the target.

        Args:
            first: (n,) row of the first sample with the same vector.
            known: the target's entry from before.

        Returns:
            The target's entry; ``known`` without a target.
        """
        if self._aim is None or self._fields is None:
            return known
        settings, threads, (values, errors) = self._plan.settings, self._plan.threads, self._fields
        own = values[-1] if self._masses else None
        comparison = Comparison(self.x, self._aim, own, settings.seed, threads, self._plan.means(self.x))
        comparison.measure(samplings, values[: len(samplings)], errors)
        if known is None:
            columns = compare_columns(self._table, self.x, self._aim, comparison.target, settings.seed)
            closest = best.no_nearest()
            if best.wants_nearest(settings.rectification, self._table.n):
                closest = best.nearest(self.x, comparison.target, self._aim, first, self._plan.resources)
            known = comparison.entry(natural, columns, closest)
        comparison.judge(samplings, natural, known)
        return known
