"""Equal attention to clusters of clusters, instead of to samples.

Inspired by the hierarchical k-means curation of Vo et al. 2024 (arXiv 2405.15613): k-means, then k-means of
the centroids, and so on; the upper levels spread over the support of the data rather than after its density.
The budget then flows from the top down by water-filling: every cluster gets the same, unless it has less.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbias import optional
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.weighting.schemes.scheme import ALIKE, Scheme, Seeded, Weights
from kdbias.wording import counted

if TYPE_CHECKING:
    import numpy as np

    from kdbias.weighting.samples import Samples

_SAMPLES_A_CLUSTER = 20
_BRANCHING = 10
_MOST_CLUSTERS = 10_000
_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class ClusterBalanced(Seeded, Scheme):
    """w = share of a budget of keep * m samples that reaches the sample's cluster / size of the cluster.

    No weight exceeds 1 / keep times the mean: nothing is drawn more than once per budget. A smaller budget is
    flatter, 1 is natural sampling.
    """

    name = "cluster-balanced"
    assumes = ALIKE
    keep: float = option(0.2, "share of the samples that water-filling keeps", above=0, most=1)
    clusters: tuple[int, ...] | None = option(
        None, "clusters of each level, e.g. 1000,100", shown="samples / 20, then a tenth each", least=2
    )

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) that balance a hierarchy of clusters."""
        levels = default_levels(samples.m) if self.clusters is None else list(self.clusters)
        if not levels or any(a <= b for a, b in itertools.pairwise([samples.m, *levels])):
            raise KdbiasError(
                f"clusters {levels} must fall from level to level, below the "
                f"{counted(samples.m, 'distinct sample')}: "
                + ("choose another method" if samples.m < 3 else "give other --clusters")
            )
        assignments = hierarchy(samples.vectors, levels, self.seed, samples.threads)
        return Weights(water_filled(assignments, levels, self.keep), {"keep": self.keep, "clusters": levels})


def default_levels(m: int) -> list[int]:
    """Clusters on each level for m samples, falling."""
    levels = [max(2, min(m // _SAMPLES_A_CLUSTER, _MOST_CLUSTERS))]
    while levels[-1] >= _BRANCHING * _BRANCHING:
        levels.append(levels[-1] // _BRANCHING)
    return levels


def hierarchy(
    x: np.ndarray, levels: Sequence[int], seed: int = 0, threads: int | None = None
) -> list[np.ndarray]:
    """Spherical k-means of unit rows x (m, d), then of its centroids, level by level.

    Returns:
        For each level the cluster of each item of the level below (samples at the bottom), int64.
    """
    import numpy as np

    faiss = optional.faiss()
    if threads:
        faiss.omp_set_num_threads(threads)
    items, assignments = np.ascontiguousarray(x, dtype=np.float32), []
    for k in levels:
        limits = {"niter": _ITERATIONS, "min_points_per_centroid": 1}
        means = faiss.Kmeans(items.shape[1], k, seed=seed + 1, spherical=True, **limits)
        means.train(items)
        _, nearest = means.index.search(items, 1)
        assignments.append(nearest[:, 0].astype(np.int64))
        items = means.centroids
    return assignments


def water_filled(assignments: Sequence[np.ndarray], levels: Sequence[int], keep: float) -> np.ndarray:
    """(m,) share of each sample when keep * m draws flow down the hierarchy, in [0, 1].

    Args:
        assignments: as `hierarchy` gives them.
        levels: number of clusters on each level; any of them may be empty.
        keep: budget as a share of the samples.
    """
    import numpy as np

    sizes: list[np.ndarray] = [np.ones(len(assignments[0]))]
    for cluster, k in zip(assignments, levels, strict=True):
        sizes.append(np.bincount(cluster, weights=sizes[-1], minlength=k))
    budget = fill(sizes[-1], keep * len(assignments[0]))
    for cluster, below in zip(reversed(assignments), reversed(sizes[:-1]), strict=True):
        given = np.zeros(len(below))
        order = np.argsort(cluster, kind="stable")
        bounds = np.searchsorted(cluster[order], np.arange(len(budget) + 1))
        for parent, (start, stop) in enumerate(itertools.pairwise(bounds)):
            members = order[start:stop]
            given[members] = fill(below[members], budget[parent])
        budget = given
    return budget


def fill(sizes: np.ndarray, total: float) -> np.ndarray:
    """min(level, sizes) for the level at which they sum to ``total`` (all of them if that is too much)."""
    import numpy as np

    if total >= sizes.sum():
        return sizes.astype(np.float64)
    ascending = np.sort(sizes)
    # Level with the i smallest full: what they leave, shared by the others.
    spent = np.r_[0.0, np.cumsum(ascending)[:-1]]
    level = (total - spent) / np.arange(len(sizes), 0, -1)
    return np.minimum(sizes, level[np.argmax(level <= ascending)])
