"""One step towards the equilibrium: as often as the surroundings are empty."""

import numpy as np

from kdbias.sphere.kernel_matrix import TiledKernel
from kdbias.weighting.case import Case, Scheme


def inverse_density(case: Case) -> Scheme:
    """w = 1 / rho at bandwidth t, where rho counts the sample itself (so w <= n).

    Of a group of collapsed duplicates one copy counts, for itself and for its neighbours: what shares one
    sample's weight is one sample. So with duplicates, or at a bandwidth that the density table does not have,
    potentials are computed from the embeddings.
    """
    if case.has_potential and case.m == case.n:
        rho = case.density.potential(case.t)
        return Scheme(1 / np.maximum(rho, 1 / case.n), {"potential": "density table"})
    kernel = TiledKernel(case.vectors, case.t, kept=None, threads=case.threads)
    return Scheme(1 / (kernel.row_sums / case.m), {"potential": "computed from the embeddings"})
