"""Sampling that is matched to a target, as far as the target is known and no further."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.targets.settings import SPHERE, Aiming
from kdbias.weighting.schemes.density import Searching
from kdbias.weighting.schemes.scheme import Weights
from kdbias.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix
    from kdbias.sphere.equilibrium.matching import Match
    from kdbias.sphere.equilibrium.solution import Groups
    from kdbias.sphere.equilibrium.target import Target
    from kdbias.sphere.equilibrium.two_sample import TwoSampleTest
    from kdbias.targets.opening import OpenTarget
    from kdbias.weighting.samples import EmbeddingSource, Samples

LEVEL = 0.05
"""Of the two-sample test: at a p-value above it the data do not differ measurably from a reference."""


@dataclass(frozen=True, kw_only=True)
class Matched(Aiming, Searching):
    """The sampling of largest ESS that is as near to the target as the target is known.

    A reference of m samples is itself off by its noise, (1 - mean off-diagonal K) / m in squared discrepancy.
    Data that do not differ measurably from it (two-sample test) stay as they come, each distinct sample
    alike; others are matched down to the noise, or to the least ESS where that comes first.
    """

    name = "matched"
    stop: str = option(
        "noise",
        "how near to come; noise: no nearer than a reference of its size tells; floor: as near as the least "
        "ESS allows",
        choices=("noise", "floor"),
    )

    def check(self) -> None:
        """Refuse to match to nothing."""
        super().check()
        if self.towards is None:
            raise KdbiasError(
                "method matched needs a target; name one with --towards: the embeddings of what the student "
                "will be used on, balanced:COLUMN, or sphere"
            )

    def inputs(self) -> dict[str, str]:
        """Fingerprints of the target's files."""
        from kdbias.targets.opening import inputs_of

        assert self.named is not None
        return inputs_of(self.named)

    def distinct(self, groups: Groups, source: EmbeddingSource) -> Groups:
        """Copies that the column tells apart are no copies."""
        codes = source.target(self).own_codes
        return groups if codes is None else groups.apart(codes)

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) of the nearest sampling, with the solver's proof and what was found of the target."""
        from kdbias.sphere.equilibrium.kernel_matrix import Matching
        from kdbias.sphere.equilibrium.matching import match, unmatched

        opened = samples.target(self)
        kernel, target = self.seen(samples)
        test = opened.test(samples.vectors, self.bandwidth, groups=samples.groups)
        if self.stop == "noise" and test is not None and test.p_value > LEVEL:
            found = unmatched(kernel, target, samples.groups)
        else:
            found = match(
                kernel,
                target,
                min_ess=samples.min_ess or 0.0,
                stop=self.stop == "noise",
                groups=samples.groups,
                solver=self.solver,
                **self.effort(samples),
            )
        matching = Matching(kernel, target.mean, target.constant)

        def discrepancy(masses: np.ndarray) -> float:
            return float(masses @ matching.apply(masses, exact=True))

        facts = {"kernel": kernel.description} | self.facts
        values = samples.groups.collapse(found.p)
        about = self._about(opened, target, found, test, values)
        return Weights(values, facts, found.solution, self.cap, discrepancy, about, opened.notes)

    def seen(self, samples: Samples, plain: KernelMatrix | None = None) -> tuple[KernelMatrix, Target]:
        """The kernel of the distinct samples, with the column's where there is one, and the target.

        Args:
            plain: the kernel without a column, where it is at hand.
        """
        opened, groups = samples.target(self), samples.groups
        codes = None if opened.own_codes is None else opened.own_codes[groups.first]
        kernel = plain if plain is not None and codes is None else self.kernel(samples, codes)
        with progress.bar(samples.m, "samples", "compared with the target") as shown:
            target = opened.of(
                samples.vectors,
                self.bandwidth,
                lambda p: kernel.apply(p, exact=True),
                groups,
                threads=samples.threads,
                progress=shown.update,
                means=samples.means,
            )
        return kernel, target

    def _about(
        self, opened: OpenTarget, target: Target, found: Match, test: TwoSampleTest | None, p: np.ndarray
    ) -> dict[str, Any]:
        """What the manifest keeps of the target, JSON values only."""
        removed = None if found.natural <= 0 else 1 - found.discrepancy / found.natural
        return {
            "towards": self.towards,
            "kind": opened.named.recorded,
            "with": opened.column,
            "cluster_by": opened.clustered,
            "size": opened.size,
            "effective_size": target.size,
            "noise": found.noise,
            "discrepancy_before": found.natural,
            "discrepancy": found.discrepancy,
            "unbiased": target.unbiased_discrepancy(p, found.field),
            "removed": removed,
            "test": None if test is None else asdict(test),
            "bound": found.bound,
            "floor": found.floor,
            "shares": _shares(opened),
            "notes": list(opened.notes),
        }


def _shares(opened: OpenTarget) -> dict[str, list[list[Any]]]:
    """Column of a reference -> pairs of a value (None: none) and its share, by falling share."""
    from kdbias.targets.shares import MOST_VALUES

    if opened.table is None:
        return {}
    found = {name: opened.shares(name) for name in (*opened.table.group_columns, "label")}
    return {
        name: [[value, share] for value, share in sorted(shares.items(), key=lambda pair: -pair[1])]
        for name, shares in found.items()
        if shares is not None and len(shares) <= MOST_VALUES
    }


def told(target: dict[str, Any], solver: dict[str, Any] | None = None) -> list[str]:
    """What a manifest's ``target`` and ``solver`` say, for people."""
    from kdbias.display.quantities import write
    from kdbias.targets.columns import worth_told

    towards, test = target["towards"], target["test"]
    before, after, noise = (
        write("discrepancy", target[k]) for k in ("discrepancy_before", "discrepancy", "noise")
    )
    size = ""
    if target["size"] is not None:
        size = counted(target["size"], "sample") + worth_told(target["size"], target["effective_size"])
    lines = [f"  towards               {towards}{size and f' ({size})'}"]
    natural = target["bound"] == "natural"
    if natural:
        how = "the data are as near to the target as its noise already"
        if test is not None:
            p = f"p = {test['p_value']:.3g}" if test["p_value"] > LEVEL else "within its noise"
            how = f"your data do not differ measurably from the reference ({p}, {size})"
        lines.append(f"  natural sampling      {how}")
    removed = "" if target["removed"] is None else f" ({write('removed', target['removed'])} removed)"
    own = "" if target["kind"] == SPHERE or not target["noise"] else f"; noise of the target {noise}"
    lines.append(f"  discrepancy           {before} -> {after}{removed}{own}")
    return lines if natural else [*lines, f"  held by               {_held_by(target, solver)}"]


def _held_by(target: dict[str, Any], solver: dict[str, Any] | None) -> str:
    """What kept the samples from coming nearer to their target."""
    from kdbias.display.quantities import write

    at = write("ess_share", target["floor"])
    if target["bound"] == "noise":
        return f"the noise: nearer would chase the target's own accidents (ESS {at})"
    if solver and solver["certified"] and solver["ess_distinct"] > 1.01 * (target["floor"] or 0):
        return f"the data: no weights of theirs come nearer, and the floor on the ESS ({at}) takes nothing"
    return f"the floor on the ESS ({at})"
