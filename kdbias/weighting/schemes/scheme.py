"""What every weight scheme is: a class whose fields are its options, and what it hands back.

Imports nothing heavy, nor does a scheme's file but within its functions: `kdbias weights --help` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from kdbias import shared_options as shared
from kdbias.engine.settings import Engines
from kdbias.measurement.settings import parse_bandwidths
from kdbias.settings import Settings, option

if TYPE_CHECKING:
    import numpy as np

    from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth
    from kdbias.sphere.equilibrium.solution import Equilibrium as Solution
    from kdbias.sphere.equilibrium.solution import Groups
    from kdbias.tables.density_table import DensityTable
    from kdbias.weighting.samples import EmbeddingSource, Samples


CHOSEN = "chosen"
"""The word for the bandwidth that ``uniformity`` chose."""


ALIKE = "the student will meet every region of the teacher's space alike"


@dataclass(frozen=True)
class Weights:
    """What a scheme hands back.

    Attributes:
        values: (m,) float64 relative weights of the distinct samples, >= 0.
        facts: what a reader of the manifest should know, JSON values only.
        solution: the solver's result, of the schemes that solve under the floor on the ESS and the cap.
        cap: the constraint that they solved under, as a multiple of the mean weight.
        energy: what the solver minimised, of masses (m,).
        target: what was found of the target that the samples were matched to, JSON values only.
        notes: what is odd about it, lines for people.
    """

    values: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)
    solution: Solution | None = None
    cap: float | None = None
    energy: Callable[[np.ndarray], float] | None = None
    target: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scheme(Settings):
    """A way to weigh samples. Its fields are the options that it has beside those of all schemes.

    Attributes:
        name: the word for ``--method``.
        collapse: which samples count as one by default.
        floor: least ESS / distinct samples by default, None for none.
        assumes: what it takes the student to be used on, where no target says that.
    """

    collapse: ClassVar[str] = "exact"
    floor: ClassVar[float | None] = None
    assumes: ClassVar[str | None] = None

    @classmethod
    def sharing(cls, settings: Settings) -> Self:
        """The scheme with the options that other settings have, too."""
        return cls(
            **{d.name: v for d in cls.declared() if (v := getattr(settings, d.name, None)) is not None}
        )

    def decided(self, density: DensityTable) -> Self:
        """The scheme with what the measurements decide where the user did not."""
        return self

    def inputs(self) -> dict[str, str]:
        """Fingerprint of what else the scheme reads, by role; the manifest keeps them."""
        return {}

    def distinct(self, groups: Groups, source: EmbeddingSource) -> Groups:
        """Which samples count as one, of those that have one vector."""
        return groups

    def weigh(self, samples: Samples) -> Weights:
        """Weights of the distinct samples.

        Raises:
            KdbiasError: the samples lack what the scheme needs.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class AtBandwidth(Settings):
    """Of what looks at the data through a kernel."""

    t: str | tuple[float, ...] | None = option(
        None,
        "bandwidth; of several the kernels are averaged; chosen: the one that uniformity chose",
        parse=lambda t: parse_bandwidths(t, CHOSEN),
        metavar="T,T,...|chosen",
        accepts="str | float | Sequence[float]",
        shown="0.5,1,2,4,8; inverse-density: chosen",
    )
    finest: ClassVar[bool] = False
    """Whether the chosen bandwidth is the usual one, in place of the ladder."""

    def decided(self, density: DensityTable) -> Self:
        """With the ladder where no bandwidth was given, and the chosen one where that was asked for."""
        from kdbias.sphere.equilibrium.kernel_matrix import LADDER
        from kdbias.weighting.samples import chosen_bandwidth

        t = self.t or (CHOSEN if self.finest else LADDER)
        return replace(self, t=tuple(sorted(t)) if isinstance(t, tuple) else (chosen_bandwidth(density),))

    @property
    def bandwidth(self) -> Bandwidth:
        """t, once it is decided: a number, or several whose kernels are averaged."""
        assert isinstance(self.t, tuple)
        return self.t[0] if len(self.t) == 1 else self.t

    def record(self) -> dict[str, Any]:
        """What a run records: of one bandwidth the number, of several a list."""
        found = super().record()
        return found | {"t": found["t"][0] if isinstance(self.t, tuple) and len(self.t) == 1 else found["t"]}


@dataclass(frozen=True, kw_only=True)
class Remembering(Settings):
    """Of what keeps to an amount of memory."""

    memory: int = shared.memory()


@dataclass(frozen=True, kw_only=True)
class InBlocks(Engines, Remembering):
    """Of what sees all pairs, and sees them a pair of blocks at a time where the vectors do not fit."""

    block_rows: int | None = shared.block_rows(
        "one block where the vectors fit --memory, else as many as that and 8 units a slot allow"
    )

    def check(self) -> None:
        """Refuse blocks that are off the grid of tiles."""
        super().check()
        shared.refuse_off_grid(self.block_rows)


@dataclass(frozen=True, kw_only=True)
class Solving(Remembering):
    """Of what searches the best sampling."""

    tolerance: float = option(1e-3, "relative gap to stop at", above=0)
    device: str = shared.device(
        "where products with the kernel are taken; auto: on a GPU where there is one with Triton", "cpu"
    )


@dataclass(frozen=True, kw_only=True)
class Seeded(Settings):
    """Of what clusters."""

    seed: int = option(0, "seed of the clusters", least=0, most=2**31 - 2)
