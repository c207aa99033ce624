"""Every option of `weights`, `frontier` and `what_changed`; those of one scheme alone stand with the scheme.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from kdbias import shared_options as shared
from kdbias.errors import KdbiasError
from kdbias.settings import Branching, Settings, option
from kdbias.targets.settings import Aiming
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.schemes.scheme import AtBandwidth, Scheme, Seeded, Solving

if TYPE_CHECKING:
    from kdbias.tables.density_table import DensityTable

NEAR = 0.999
"""The cosine that the density table counts near duplicates at."""
# Recorded of every manifest, null where the scheme has no such option.
_ALWAYS = ("method", "t", "temper", "clip", "mix", "min_ess", "cap", "collapse")
UNAIMED = tuple(name for name in SCHEMES if name != "matched")
_OF_TARGET = ("towards", "with_column", "cluster_by", "stop")
"""Options that ask for method matched."""
_OF_SOLVER = {"memory"} | (
    {d.name for d in SCHEMES["equilibrium"].declared()}
    - {d.name for d in SCHEMES["inverse-density"].declared()}
)
"""Options that ask for method equilibrium where no target is named."""


@dataclass(frozen=True, kw_only=True)
class _Measured(Settings):
    embeddings: str | None = shared.embeddings()
    threads: int | None = shared.threads()


@dataclass(frozen=True, kw_only=True)
class WeightsSettings(Branching, _Measured):
    """A scheme and what is done to the weights of any scheme; `chosen` is the scheme."""

    name = "weights"
    chooser = "method"
    instead = {"cap": "use clip", **dict.fromkeys(_OF_TARGET, "use method matched, or leave it out")}  # noqa: RUF012

    chosen: Scheme
    method: str = option(
        "inverse-density",  # the least worst regret of docs/results
        "weight scheme",
        choices=tuple(SCHEMES),
        shown="with --towards matched, with --cap or the solver's options equilibrium, else inverse-density",
    )
    min_ess: float | None = option(
        None, "least ESS / distinct samples", shown="equilibrium, matched: 0.5, else none", least=0, most=1
    )
    temper: float = option(1.0, "exponent on the weights; 1 leaves them", least=0)
    clip: float | None = option(None, "no weight above this many times the mean", above=1)
    mix: float = option(0.0, "share of natural sampling mixed in", least=0, most=1)
    collapse: str | None = option(
        None, "which copies share one weight", shown="exact; natural: none", choices=("exact", "near", "none")
    )
    near: float | None = option(None, "least cosine of collapse near", shown=f"{NEAR:g}", above=0, most=1)

    exclude: str | None = option(
        None, "leave out these samples: a list as kdbias suspects writes it", path=True, metavar="FILE"
    )
    suspects: str | None = option(
        None,
        "images that look wrong (blank, dark, ...); cap: a weight of 1 at most; exclude: never drawn",
        choices=("cap", "exclude", "keep"),
        shown="cap, but keep where more than a tenth are",
    )

    @classmethod
    def branches(cls) -> Mapping[str, type[Settings]]:
        """The options of each scheme."""
        return SCHEMES

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str | None = None) -> Self:
        """As of `Settings`; where no method is named, a target's options and the solver's say which it is."""
        named = {name for name, value in given.items() if value is not None}
        if "method" not in named and named & {*_OF_TARGET, *_OF_SOLVER}:
            given = {**given, "method": "matched" if named & {*_OF_TARGET} else "equilibrium"}
        return super().of(given, where)

    def check(self) -> None:
        """Refuse options that contradict each other."""
        from kdbias.tables.weight_manifest import LEAST_WEIGHT

        if getattr(self.chosen, "penalty", None) == "entropy" and not self.floor:
            raise KdbiasError(
                "penalty entropy holds the ESS at a least one, and min_ess 0 is none; choose one above 0, or "
                "penalty square"
            )

        if 0 < self.mix < LEAST_WEIGHT:
            raise KdbiasError(
                f"mix {self.mix:g} is not a share that is ever drawn; choose 0, or from {LEAST_WEIGHT:g} to 1"
            )
        collapse = self.collapse or self.chosen.collapse
        if self.near is not None and collapse != "near":
            raise KdbiasError(
                f"near {self.near:g} is for collapse near, not {collapse}; choose that or leave it out"
            )
        object.__setattr__(self, "collapse", collapse)
        object.__setattr__(self, "near", (self.near or NEAR) if collapse == "near" else None)

    def decided(self, density: DensityTable) -> Self:
        """With what the measurements decide where the user did not."""
        return replace(self, chosen=self.chosen.decided(density))

    @property
    def floor(self) -> float | None:
        """Least ESS / distinct samples, None for none."""
        return (self.chosen.floor if self.min_ess is None else self.min_ess) or None

    def record(self) -> dict[str, Any]:
        """What the manifest records: the options that decide the weights."""
        return dict.fromkeys(_ALWAYS) | super().record() | {"min_ess": self.floor}


@dataclass(frozen=True, kw_only=True)
class FrontierSettings(Aiming, Seeded, Solving, AtBandwidth, _Measured):
    """Which schemes to compare, at which bandwidth, and against which target."""

    name = "frontier"

    methods: tuple[str, ...] | None = option(
        None, "schemes, with their default options", shown="all that fit", choices=UNAIMED
    )
    floors: tuple[float, ...] | None = option(
        None, "ESS floors of the equilibrium, 0 = none", shown="eight up to 1", least=0, most=1
    )


@dataclass(frozen=True, kw_only=True)
class ChangesSettings(Settings):
    """How a manifest is compared with natural sampling."""

    name = "changes"

    group_by: tuple[str, ...] | None = option(
        None, "report by this column; repeatable", shown="every group column and the label", metavar="COLUMN"
    )
    top: int = option(10, "samples of each end to list", least=1)
