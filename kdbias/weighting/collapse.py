"""Which samples count as one: exact duplicates by the density table, near ones by their cosine."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.sphere.solution import Groups
from kdbias.tables.density_table import DensityTable
from kdbias.tables.joins import align, as_strings

KINDS = ("exact", "near", "none")
NEAR = 0.999  # the cosine that the density table counts near duplicates at
_BLOCK = 2048


def groups_of(
    density: DensityTable,
    kind: str,
    load_vectors: Callable[[], np.ndarray],
    threshold: float = NEAR,
) -> Groups:
    """Groups of samples that share one sample's weight.

    Args:
        density: with ``duplicate_of`` and ``near_duplicates``.
        kind: "none", "exact", or "near": chains of samples at cosine >= threshold.
        load_vectors: gives (n, d) unit rows; called for "near" alone.
        threshold: least cosine of near duplicates.
    """
    if kind not in KINDS:
        raise KdbiasError(f"unknown kind of collapse {kind!r}; choose {', '.join(KINDS)}")
    if kind == "none":
        return Groups.of(None, density.n)
    first = first_equal(density)
    if kind == "exact":
        return Groups.of(first, density.n)
    if not 0 < threshold <= 1:
        raise KdbiasError(f"a near-duplicate threshold is a cosine in (0, 1], got {threshold:g}")
    # Where the table already knows who has a near duplicate, only those are compared.
    candidates = np.arange(density.n)
    if threshold >= NEAR:
        candidates = np.flatnonzero((density.numbers("near_duplicates") > 0) | (first != candidates))
    return Groups.of(near_chains(load_vectors(), first, candidates, threshold), density.n)


def first_equal(density: DensityTable) -> np.ndarray:
    """(n,) row of the first sample with the same vector, its own where it is the first."""
    rows = np.arange(density.n)
    first = as_strings(density.table.column("duplicate_of"))
    has = np.flatnonzero(pc.is_valid(first).to_numpy(zero_copy_only=False))
    if len(has):
        rows[has] = align(first.take(pa.array(has)), density.ids, "duplicate_of", str(density.path))
    return rows


def near_chains(x: np.ndarray, first: np.ndarray, candidates: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) first row of each sample's chain: samples linked by steps of cosine >= threshold."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = [np.stack([np.arange(len(first)), first])]
    chosen = x[candidates]
    for i in range(0, len(candidates), _BLOCK):
        for j in range(i, len(candidates), _BLOCK):
            a, b = np.nonzero(chosen[i : i + _BLOCK] @ chosen[j : j + _BLOCK].T >= threshold)
            links.append(np.stack([candidates[a + i], candidates[b + j]]))
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(len(first), len(first)))
    _, component = connected_components(graph, directed=False)
    _, first_row = np.unique(component, return_index=True)
    return first_row[component]
