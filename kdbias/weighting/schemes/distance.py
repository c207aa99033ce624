"""Weights from distances: to the nearest neighbours, or to the sample's own class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdbias import progress
from kdbias.errors import KdbiasError
from kdbias.settings import option
from kdbias.weighting.schemes.scheme import ALIKE, Scheme, Weights

if TYPE_CHECKING:
    import numpy as np

    from kdbias.weighting.samples import Samples

LIMIT = 10.0
DEFAULT_K = 64


@dataclass(frozen=True, kw_only=True)
class _Power(Scheme):
    exponent: float = option(1.0, "power of the distance", least=0)


@dataclass(frozen=True, kw_only=True)
class KnnDistance(_Power):
    """w = (distance / median distance)^exponent, kept within [1/10, 10] of the median.

    The distance is the mean over the k nearest neighbours: those that ``uniformity --keep-neighbors`` kept
    (fewer where an approximate search missed some; a sample without any counts as the median), else found
    anew from the embeddings. The limits matter: the exact inverse density is the power of the
    intrinsic dimension, and unlimited it spends the epoch on a few outliers.
    """

    name = "knn-distance"
    assumes = ALIKE

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,): a power of the mean distance to the neighbours."""
        import numpy as np

        from kdbias.sphere.vectors import distances

        cosines, source = neighbour_cosines(samples)
        found = cosines >= -1
        total, count = distances(cosines).sum(axis=1, where=found), found.sum(axis=1)
        distance = np.divide(total, count, out=np.full(samples.m, np.nan), where=count > 0)
        values, limited = relative_power(distance, self.exponent, str(samples.where), "neighbours")
        return Weights(values, {"k": cosines.shape[1], "neighbors": source, "limited": limited})


@dataclass(frozen=True, kw_only=True)
class Hard(_Power):
    """w = (hardness / median hardness)^exponent, kept within [1/10, 10].

    Hardness is 1 - cosine to the mean of the other samples of the label.

    A sample without a label, or alone in its class, counts as of median hardness.
    """

    name = "hard"

    def weigh(self, samples: Samples) -> Weights:
        """Weights (m,) that grow with the hardness of the sample."""
        import numpy as np

        from kdbias.measurement.density import hardness

        codes, _ = samples.labels(self.name)
        values = hardness(samples.vectors, codes)
        unknown = int(np.isnan(values).sum())
        if unknown == samples.m:
            where = f"each label in {samples.where} is on one sample"
            raise KdbiasError(f"method hard needs a class of two samples or more; {where}")
        weights, limited = relative_power(values, self.exponent, str(samples.where), "hardness")
        return Weights(weights, {**self.record(), "limited": limited, "without_hardness": unknown})


def neighbour_cosines(samples: Samples) -> tuple[np.ndarray, str]:
    """Cosines (m, k) of each distinct sample to its k nearest others, -2 if missing, and their source."""
    from kdbias.measurement.files import NEIGHBORS, read_neighbors
    from kdbias.sphere.neighbors import Neighbors
    from kdbias.sphere.tiles import traverse
    from kdbias.tables.joins import align
    from kdbias.tables.listing import located
    from kdbias.tables.parted_table import read_ids
    from kdbias.tables.provenance import options_in

    m, where, density = samples.m, samples.where, samples.density
    if m < 2:
        raise KdbiasError(f"{where} has one distinct sample, which has no neighbours; use method natural")
    kept = located(where.parent / NEIGHBORS)
    if kept.exists() and samples.alone:
        rows = align(density.id_parts, read_ids(kept), str(where), str(kept))
        return read_neighbors(where.parent)[2][rows], "kept"
    found = Neighbors(m, min(options_in(density.provenance).get("k") or DEFAULT_K, m - 1))
    with progress.bar(m**2 / 1e6, "Mpairs", "neighbours") as bar:
        traverse(
            samples.vectors, [found], threads=samples.threads, progress=lambda pairs: bar.update(pairs / 1e6)
        )
    return found.cosines, "found anew"


def relative_power(values: np.ndarray, exponent: float, where: str, what: str) -> tuple[np.ndarray, int]:
    """(values / median)^exponent within [1/LIMIT, LIMIT], and how many met a limit; NaN counts as the median.

    Args:
        values: (m,) float64 >= 0, NaN where unknown.
        exponent: >= 0.
        where, what: for the message, whose values they are.

    Returns:
        (m,) float64 and the number of those that met a limit.

    Raises:
        KdbiasError: no finite value.
    """
    import numpy as np

    known = np.isfinite(values)
    if not known.any():
        raise KdbiasError(f"{where} has no {what} (n = {len(values):,}); choose another method")
    positive = values[known & (values > 0)]
    middle = float(np.median(values[known])) or (float(np.median(positive)) if len(positive) else 1.0)
    ratio = np.where(known, values, middle) / middle
    powered = np.zeros_like(ratio)
    np.power(ratio, exponent, out=powered, where=ratio > 0)
    if exponent == 0:
        powered[:] = 1
    return np.clip(powered, 1 / LIMIT, LIMIT), int(((powered < 1 / LIMIT) | (powered > LIMIT)).sum())
