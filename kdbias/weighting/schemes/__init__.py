"""Weight schemes: from measurements to how often each sample is drawn. A file for each kin of them.

What is common to all (duplicates, temper, clip, mix, ESS floor) is in `hygiene`.
"""

from kdbias.weighting.schemes.classes import ClassBalanced, EffectiveNumber
from kdbias.weighting.schemes.clusters import ClusterBalanced
from kdbias.weighting.schemes.density import Equilibrium, InverseDensity, Natural
from kdbias.weighting.schemes.distance import Hard, KnnDistance
from kdbias.weighting.schemes.matched import Matched
from kdbias.weighting.schemes.scheme import Scheme

SCHEMES: dict[str, type[Scheme]] = {
    kind.name: kind
    for kind in (
        *(Natural, ClassBalanced, EffectiveNumber, InverseDensity),
        *(KnnDistance, Equilibrium, ClusterBalanced, Hard, Matched),
    )
}
"""Word for ``--method`` -> the scheme."""
