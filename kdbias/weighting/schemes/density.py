"""How the data come, one step from there towards even density, and the whole way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbias import progress
from kdbias.display.quantities import write
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.weighting.schemes.scheme import AtBandwidth, Scheme, Solving, Weights

if TYPE_CHECKING:
    import numpy as np

    from kdbias.sphere.equilibrium.kernel_matrix import KernelMatrix
    from kdbias.sphere.equilibrium.solution import Equilibrium as Solution
    from kdbias.sphere.equilibrium.solution import Groups
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
class InverseDensity(AtBandwidth, Scheme):
    """w = 1 / rho, where rho counts the sample itself (so w <= n).

    Of a group of collapsed duplicates one copy counts, for itself and for its neighbours: what shares one
    sample's weight is one sample. So with duplicates, or but for a single bandwidth that the density table
    has, potentials are computed from the embeddings.
    """

    name = "inverse-density"

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,): one over the density."""
        import numpy as np

        from kdbias.sphere.equilibrium.kernel_matrix import TiledKernel
        from kdbias.tables.density_table import potential_column

        t, density = self.bandwidth, samples.density
        if isinstance(t, float) and potential_column(t) in density.table.column_names and samples.alone:
            rho = density.potential(t)
            return Weights(1 / np.maximum(rho, 1 / samples.n), {"potential": "density table"})
        try:
            vectors = samples.vectors
        except KdbiasError as error:
            measured = ", ".join(write("t", b) for b in density.bandwidths)
            way_out = f"; at a measured bandwidth none is needed (--t {measured})"
            raise KdbiasError(f"{error}{way_out if samples.alone else ''}") from None
        progress.say(
            f"{self.name} of {samples.m:,} distinct samples at t={write('t', t)}, from the embeddings"
        )
        kernel = TiledKernel(vectors, t, kept=None, threads=samples.threads)
        return Weights(1 / (kernel.row_sums / samples.m), {"potential": "computed from the embeddings"})


@dataclass(frozen=True, kw_only=True)
class Equilibrium(Solving, AtBandwidth, Scheme):
    """The minimiser of p'Kp under the floor on the ESS and the cap."""

    name = "equilibrium"
    floor = 0.5
    cap: float | None = option(None, "the clip inside the problem, which stays optimal", above=1)
    max_seconds: float | None = option(None, "stop by then, with the gap that was reached", least=0)

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) of least energy, with the solver's proof."""
        kernel = self.kernel(samples)
        progress.say(
            f"{self.name} of {samples.m:,} distinct samples at t={write('t', self.t)}: {kernel.description}"
        )
        found = self.solved(samples, kernel, samples.min_ess)

        def energy(masses: np.ndarray) -> float:
            return float(masses @ kernel.apply(masses, exact=True))

        facts = {"kernel": kernel.description}
        return Weights(samples.groups.collapse(found.p), facts, found, self.cap, energy)

    def kernel(self, samples: Samples) -> KernelMatrix:
        """Products with the kernel matrix of the distinct samples at t, kept within ``memory``."""
        from kdbias.sphere.equilibrium.kernel_matrix import kernel_matrix

        return kernel_matrix(samples.vectors, self.bandwidth, self.memory, samples.threads)

    def solved(
        self, samples: Samples, kernel: KernelMatrix, min_ess: float | None, start: np.ndarray | None = None
    ) -> Solution:
        """The least energy with this floor on the ESS, None for none, from a warm start (n,)."""
        from kdbias.sphere.equilibrium.solve import solve

        name = f"{self.name}, {f'ESS >= {min_ess:.1%}' if min_ess else 'no floor'}"
        began = last = time.monotonic()

        def tell(iteration: int, energy: float, gap: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > _LINE_EVERY_SECONDS:
                last = now
                spent = f"{iteration:,} iterations in {now - began:,.0f} s"
                progress.say(f"{name}: {spent}, energy {energy:.6g}, at most {gap:.2g} above the best")

        found = solve(
            kernel,
            min_ess=min_ess,
            cap=_share_of_distinct(self.cap, samples.groups),
            duplicates=samples.groups,
            tolerance=self.tolerance,
            max_seconds=self.max_seconds,
            start=start,
            progress=tell,
        )
        progress.say(f"{name}: {found.iterations:,} iterations, {found.seconds:.1f} s, {found.reason}")
        return found


def _share_of_distinct(cap: float | None, groups: Groups) -> float | None:
    """The cap as a multiple of 1 / distinct: no sample, copies together, is drawn more than ``cap`` times."""
    if cap is None:
        return None
    n = len(groups.group)
    if not cap > n / groups.distinct * (1 - 1e-12):
        raise KdbiasError(
            f"cap {cap:g} cannot hold: {groups.distinct:,} distinct samples share {n:,} draws, "
            f"{n / groups.distinct:.4g} each; choose a cap above that"
        )
    return max(cap * groups.distinct / n, 1.0)
