"""Samples that are linked by steps of a high cosine: bursts of frames, copies that were compressed anew."""

import numpy as np

from kdbias.sphere.room import room

_BLOCK = 1024
_ROWS = 65_536
_LINKS = 1 << 20  # that may wait to be merged


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
    return _first_rows(x, chains.labels())


def near_groups(
    x: np.ndarray, first: np.ndarray, ids: np.ndarray, cosines: np.ndarray, threshold: float
) -> np.ndarray:
    """(n,) the same as `near_chains` of all rows, from each row's nearest others.

    A pair at such a cosine is missing only where both of its lists end above it: those rows are compared.

    Args:
        first: (n,) first row with the same vector.
        ids, cosines: (n, k) of the nearest others, descending; ids of missing ones are below 0.
    """
    chains = _Chains(first)
    for start in range(0, len(x), _ROWS):
        rows, places = np.nonzero(
            (cosines[start : start + _ROWS] >= threshold) & (ids[start : start + _ROWS] >= 0)
        )
        chains.join(start + rows, ids[start + rows, places])
    cut = np.flatnonzero(cosines[:, -1] >= threshold)
    return near_chains(x, _first_rows(x, chains.labels()), cut, threshold)


def _first_rows(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) the first row of ``x`` that has each row's label, from 0 to n - 1."""
    first = np.empty(len(x), np.int64)
    for start in reversed(range(0, len(x), _ROWS)):
        some = labels[start : start + _ROWS]
        first[some[::-1]] = np.arange(start + len(some) - 1, start - 1, -1)
    return np.take(first, labels, out=room(x, len(x), np.int64), mode="clip")


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

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Join row one[i] with row other[i] for all i."""
        links = np.stack([self._labels[one], self._labels[other]])
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
