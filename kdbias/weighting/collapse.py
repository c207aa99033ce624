"""Which samples count as one: exact duplicates by the density table, near ones by their cosine."""

from collections.abc import Callable

import numpy as np

from kdbias.sphere.equilibrium.solution import Groups
from kdbias.tables.density_table import DensityTable
from kdbias.weighting.settings import NEAR

_BLOCK = 1024
_LINKS = 1 << 20  # that may wait to be merged


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


def near_chains(x: np.ndarray, first: np.ndarray, candidates: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) first row of each sample's chain: samples linked by steps of cosine >= threshold.

    Memory grows with n, not with the number of near pairs (a burst of m frames has about m^2 / 2).
    """
    chains = _Chains(first)
    chosen = x[candidates]
    for i in range(0, len(candidates), _BLOCK):
        for j in range(i, len(candidates), _BLOCK):
            reached = chosen[i : i + _BLOCK] @ chosen[j : j + _BLOCK].T >= threshold
            if reached.any():
                chains.link(candidates[i : i + _BLOCK], candidates[j : j + _BLOCK], reached)
    _, first_row, chain = np.unique(chains.labels(), return_index=True, return_inverse=True)
    return first_row[chain]


class _Chains:
    """Connected components that grow block by block; links wait until there are many, then are merged."""

    def __init__(self, first: np.ndarray) -> None:
        self._labels = first
        self._waiting: list[np.ndarray] = []
        self._count, self._limit = 0, max(len(first), _LINKS)

    def link(self, rows: np.ndarray, columns: np.ndarray, reached: np.ndarray) -> None:
        """Join rows[a] with columns[b] wherever reached[a, b]."""
        sides = np.concatenate([self._labels[rows], self._labels[columns]])
        names, places = np.unique(sides, return_inverse=True)
        a, b = np.nonzero(reached)
        component = _components(places[a], places[len(rows) + b], len(names))
        # One link to the first of its component says as much about a label as all of its pairs.
        _, heads = np.unique(component, return_index=True)
        links = np.stack([names, names[heads[component]]])
        links = links[:, links[0] != links[1]]
        self._waiting.append(links)
        self._count += links.shape[1]
        if self._count > self._limit:
            self.labels()

    def labels(self) -> np.ndarray:
        """(n,) component of each sample, with all links merged."""
        if self._waiting:
            one, other = np.concatenate(self._waiting, axis=1)
            self._labels = _components(one, other, len(self._labels))[self._labels]
            self._waiting, self._count = [], 0
        return self._labels


def _components(one: np.ndarray, other: np.ndarray, n: int) -> np.ndarray:
    """(n,) component of each of n nodes that the pairs connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(n, n))
    return connected_components(graph, directed=False)[1]
