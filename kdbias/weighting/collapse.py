"""Which samples count as one: exact duplicates by the density table, near ones by their cosine."""

from collections.abc import Callable

import numpy as np

from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.near_chains import near_chains
from kdbias.tables.density_table import DensityTable
from kdbias.weighting.settings import NEAR


def groups_of(
    density: DensityTable, kind: str, load_vectors: Callable[[], np.ndarray], threshold: float = NEAR
) -> Groups:
    """Groups of samples that share one sample's weight.

    Args:
        density: with ``duplicate_of`` and ``near_duplicates``.
        kind: "none", "exact", or "near": chains of samples at cosine >= threshold.
        load_vectors: gives (n, d) unit rows; called for "near" alone.
        threshold: least cosine of near duplicates, in (0, 1].
    """
    if kind == "none":
        return Groups.of(None, density.n)
    first = density.first_equal
    if kind == "exact":
        return Groups.of(first, density.n)
    # Where the table already knows who has a near duplicate, only those are compared.
    candidates = np.arange(density.n)
    if threshold >= NEAR:
        candidates = np.flatnonzero((density.numbers("near_duplicates") > 0) | (first != candidates))
    return Groups.of(near_chains(load_vectors(), first, candidates, threshold), density.n)
