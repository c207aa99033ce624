"""One step towards the equilibrium: as often as the surroundings are empty."""

import numpy as np

from kdbias.sphere.kernel_matrix import TiledKernel
from kdbias.weighting.case import Case, Scheme


def inverse_density(case: Case) -> Scheme:
    """w = 1 / rho at bandwidth t, where rho counts the sample itself (so w <= n).

    A bandwidth that the density table does not have is computed from the embeddings. Of a group of collapsed
    duplicates one copy counts, so that its density is not charged for copies that share the weight anyway.
    """
    copies = (case.groups.sizes - 1) / case.n
    if case.has_potential:
        rho = case.density.potential(case.t)[case.groups.first] - copies
        return Scheme(1 / np.maximum(rho, 1 / case.n), {"potential": "density table"})
    kernel = TiledKernel(case.vectors, case.t, kept=None, threads=case.threads)
    return Scheme(1 / (kernel.row_sums / case.m), {"potential": "computed from the embeddings"})
