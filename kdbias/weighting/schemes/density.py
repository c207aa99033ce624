"""How the data come, one step from there towards even density, and the whole way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbias import progress
from kdbias.display.quantities import write
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.weighting.schemes.scheme import ALIKE, AtBandwidth, InBlocks, Scheme, Solving, Weights
from kdbias.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix
    from kdbias.sphere.equilibrium.solution import Equilibrium as Solution
    from kdbias.sphere.equilibrium.solution import Groups
    from kdbias.tables.density_table import DensityTable
    from kdbias.weighting.samples import Samples

_LINE_EVERY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Natural(Scheme):
    """Weight 1 for all (with duplicates collapsed: for each distinct sample)."""

    name = "natural"
    collapse = "none"

    def weigh(self, samples: Samples) -> Weights:
        """Equal weights (m,)."""
        import numpy as np

        return Weights(np.ones(samples.m))


@dataclass(frozen=True, kw_only=True)
class InverseDensity(InBlocks, AtBandwidth, Scheme):
    """w = 1 / rho, where rho counts the sample itself (so w <= n).

    Of a group of collapsed duplicates one copy counts, for itself and for its neighbours: what shares one
    sample's weight is one sample. So with duplicates, or but for a single bandwidth that the density table
    has, potentials are computed from the embeddings.
    """

    name = "inverse-density"
    assumes = ALIKE
    finest = True  # over the ladder it evens out more than there is to even out (docs/results)

    def is_measured(self, density: DensityTable, alone: bool) -> bool:
        """Whether the density table has what this needs.

        Args:
            alone: as of `Samples`.
        """
        from kdbias.tables.density_table import potential_column

        t = self.bandwidth
        return alone and isinstance(t, float) and potential_column(t) in density.table.column_names

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,): one over the density."""
        import numpy as np

        from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel

        t, density = self.bandwidth, samples.density
        if isinstance(t, float) and self.is_measured(density, samples.alone):
            rho = density.potential(t)
            return Weights(1 / np.maximum(rho, 1 / samples.n), {"potential": "density table"})
        try:
            kernel = samples.in_blocks(t) or TiledKernel(
                samples.vectors, t, kept=None, threads=samples.threads
            )
        except KdbiasError as error:
            measured = ", ".join(write("t", b) for b in density.bandwidths)
            way_out = f"; at a measured bandwidth none is needed (--t {measured})"
            raise KdbiasError(f"{error}{way_out if samples.alone else ''}") from None
        progress.say(
            f"{self.name} of {samples.m:,} distinct samples at t={write('t', t)}, from the embeddings"
        )
        return Weights(1 / (kernel.row_sums / samples.m), {"potential": "computed from the embeddings"})


@dataclass(frozen=True, kw_only=True)
class Searching(InBlocks, Solving, AtBandwidth, Scheme):
    """Of the schemes that search the best sampling under the floor on the ESS and the cap."""

    floor = 0.5
    penalty: str = option(
        "square",
        "what holds the ESS; square: it is exactly the least, and samples may be dropped; entropy: no sample "
        "is dropped",
        choices=("square", "entropy"),
    )
    cap: float | None = option(None, "the clip inside the problem, which stays optimal", above=1)
    max_seconds: float | None = option(None, "stop by then, with the gap that was reached", least=0)

    def check(self) -> None:
        """Refuse units on a GPU: whole products are taken there."""
        super().check()
        blocks = self.block_rows is not None or self.engine_kind != "here"
        if blocks and self.device.startswith("cuda"):
            raise KdbiasError(
                f"--device {self.device} takes whole products, and units run on CPUs: leave out --device, "
                "or --engine and --block-rows"
            )

    @property
    def solver(self) -> Callable[..., Solution]:
        """The solver of the penalty."""
        from kdbias.sphere.equilibrium.entropy import solve_entropy
        from kdbias.sphere.equilibrium.solve import solve

        return solve if self.penalty == "square" else solve_entropy

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader of the certificate should know."""
        return {} if self.penalty == "square" else {"penalty": self.penalty}

    def kernel(self, samples: Samples, codes: np.ndarray | None = None) -> KernelMatrix:
        """Products with the kernel matrix of the distinct samples, kept within ``memory`` on the CPU.

        Args:
            codes: (m,) values of a column that is compared together with the vectors.

        Raises:
            KdbiasError: a device that there is not, or that cannot take them.
        """
        from kdbias.sphere.equilibrium.device_kernel import DeviceKernel, product_device
        from kdbias.sphere.equilibrium.kernel_matrix import kernel_matrix

        t, device = self.bandwidth, product_device(self.device)
        found: KernelMatrix | None = samples.in_blocks(t, codes, self.penalty == "square")
        if found is None and device == "cpu":
            found = kernel_matrix(samples.vectors, t, self.memory, samples.threads, codes=codes)
        elif found is None:
            found = DeviceKernel(samples.vectors, t, device, codes, self.memory)
        at = f"at t={write('t', self.t)}: {found.description}"
        progress.say(f"{self.name} of {counted(samples.m, 'distinct sample')} {at}")
        return found

    def effort(self, samples: Samples) -> dict[str, Any]:
        """The solver's cap, tolerance and time, and how it tells of its progress."""
        began = last = time.monotonic()

        def tell(iteration: int, energy: float, gap: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > _LINE_EVERY_SECONDS:
                last = now
                spent = f"{counted(iteration, 'iteration')} in {now - began:,.0f} s"
                progress.say(f"{self.name}: {spent}, energy {energy:.6g}, at most {gap:.2g} above the best")

        return {
            "cap": _share_of_distinct(self.cap, samples.groups, samples.draws or samples.n),
            "tolerance": self.tolerance,
            "max_seconds": self.max_seconds,
            "progress": tell,
        }

    def solved(
        self, samples: Samples, kernel: KernelMatrix, min_ess: float | None, start: np.ndarray | None = None
    ) -> Solution:
        """The least energy with this floor on the ESS, None for none, from a warm start (n,)."""
        found = self.solver(
            kernel, min_ess=min_ess, duplicates=samples.groups, start=start, **self.effort(samples)
        )
        name = f"{self.name}, {f'ESS >= {min_ess:.1%}' if min_ess else 'no floor'}"
        progress.say(
            f"{name}: {counted(found.iterations, 'iteration')}, {found.seconds:.1f} s, {found.reason}"
        )
        return found


@dataclass(frozen=True, kw_only=True)
class Equilibrium(Searching):
    """The minimiser of p'Kp under the floor on the ESS and the cap."""

    name = "equilibrium"
    assumes = ALIKE

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) of least energy, with the solver's proof."""
        kernel = self.kernel(samples)
        found = self.solved(samples, kernel, samples.min_ess)

        def energy(masses: np.ndarray) -> float:
            return float(masses @ kernel.apply(masses, exact=True))

        facts = {"kernel": kernel.description} | self.facts
        return Weights(samples.groups.collapse(found.p), facts, found, self.cap, energy)


def _share_of_distinct(cap: float | None, groups: Groups, n: int) -> float | None:
    """The cap as a multiple of 1 / distinct: no sample, copies together, is drawn more than ``cap`` times.

    Args:
        n: draws of an epoch.
    """
    if cap is None:
        return None
    if not cap > n / groups.distinct * (1 - 1e-12):
        raise KdbiasError(
            f"cap {cap:g} cannot hold: {counted(groups.distinct, 'distinct sample', 'shares/share')} "
            f"{counted(n, 'draw')}, {n / groups.distinct:.4g} each; choose a cap above that"
        )
    return max(cap * groups.distinct / n, 1.0)
