"""Weight schemes: from measurements to how often each sample is drawn. One file a scheme (or a kin of them).

A scheme is a function ``(case, **its own options) -> Scheme`` over distinct samples; what is common to all
(duplicates, temper, clip, mix, ESS floor) is in `hygiene`.
"""

from collections.abc import Callable

from kdbias.weighting.case import Case, Scheme
from kdbias.weighting.schemes.class_balanced import class_balanced, effective_number
from kdbias.weighting.schemes.cluster_balanced import cluster_balanced
from kdbias.weighting.schemes.equilibrium import equilibrium
from kdbias.weighting.schemes.hard import hard
from kdbias.weighting.schemes.inverse_density import inverse_density
from kdbias.weighting.schemes.knn_distance import knn_distance
from kdbias.weighting.schemes.natural import natural

METHODS: dict[str, Callable[..., Scheme]] = {
    "natural": natural,
    "class-balanced": class_balanced,
    "effective-number": effective_number,
    "inverse-density": inverse_density,
    "knn-distance": knn_distance,
    "equilibrium": equilibrium,
    "cluster-balanced": cluster_balanced,
    "hard": hard,
}

__all__ = ["METHODS", "Case", "Scheme"]
