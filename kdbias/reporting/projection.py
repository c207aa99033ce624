"""Where samples lie on the map: two principal directions where those show enough, else neighbourhoods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdbias.display.quantities import percent
from kdbias.progress import say
from kdbias.wording import counted

ENOUGH = 0.2  # share of the variance from which on two principal directions say something
_NEIGHBOURS = 10
_FEWEST = 30  # samples below which there are no neighbourhoods to keep
_WIDEST = 256  # dimensions that neighbourhoods are looked for in
_ALIKE = 1e-6  # coordinates that differ by less are the same, but for rounding
_PERPLEXITY = 30.0
_ROUNDS = 350


@dataclass(frozen=True)
class Places:
    """Samples on the plane.

    Attributes:
        xy: (n, 2) float64.
        method: "pca" or "tsne".
        variance: share of the variance on the two principal directions together.
        kept: share of each sample's ten nearest that are among its ten nearest here, on average; NaN for
            few samples.
        kept_by_directions: the same of the two principal directions.
    """

    xy: np.ndarray
    method: str
    variance: float
    kept: float
    kept_by_directions: float

    def caption(self) -> str:
        """What this picture shows, and what it cannot show."""
        if self.method == "pca":
            kept = ""
            if np.isfinite(self.kept):
                kept = f" Of each sample's {_NEIGHBOURS} nearest it keeps {percent(self.kept)} nearest."
            return (
                f"The embeddings from the side that shows most of them: two principal directions, "
                f"{percent(self.variance)} of the variance.{kept} What overlaps here may be far apart in the "
                "other directions, and a crowd in the picture need be none on the sphere: the colour says "
                "where the data are crowded, the picture does not."
            )
        return (
            f"Samples stand near those that they are like (t-SNE): of each one's {_NEIGHBOURS} nearest on "
            f"the sphere {percent(self.kept)} are among its {_NEIGHBOURS} nearest here; two principal "
            f"directions, {percent(self.variance)} of the variance, would keep "
            f"{percent(self.kept_by_directions)}. Neighbours mean something in this picture; distances "
            "between groups, their sizes and how tightly dots sit do not: the colour says where the data "
            "are crowded, the picture does not."
        )


def placed(x: np.ndarray, projection: str = "auto") -> Places:
    """Places of some unit vectors.

    Args:
        x: (n, d) float32, d at least 2.
        projection: "pca", "tsne", or "auto": by t-SNE where two principal directions hold less than `ENOUGH`
            of the variance.
    """
    flat, variance = principal(x)
    if len(x) < _FEWEST:
        return Places(flat, "pca", variance, np.nan, np.nan)
    nearest = _nearest(x)
    directions = _kept(nearest, flat)
    if projection == "pca" or (projection == "auto" and variance >= ENOUGH):
        return Places(flat, "pca", variance, directions, directions)
    say(f"placing {counted(len(x), 'sample')} on the map so that neighbours stay together")
    xy = _neighbourly(x, flat)
    return Places(xy, "tsne", variance, _kept(nearest, xy), directions)


def principal(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Places (n, 2) on the two leading principal directions of (n, d), and their share of the variance."""
    from sklearn.decomposition import PCA

    if np.ptp(x, axis=0).max() < _ALIKE:
        return np.zeros((len(x), 2)), 1.0
    model = PCA(2, random_state=0)
    return model.fit_transform(x).astype(np.float64), float(model.explained_variance_ratio_.sum())


def _neighbourly(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Places (n, 2) by t-SNE, from the principal directions on, so that the same data give the same map."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if x.shape[1] > _WIDEST:
        x = PCA(min(_WIDEST, len(x)), random_state=0).fit_transform(x)
    spread = float(start[:, 0].std()) or 1.0
    model = TSNE(
        2,
        init=(start / spread * 1e-4).astype(np.float32),
        perplexity=min(_PERPLEXITY, (len(x) - 1) / 3),
        max_iter=_ROUNDS,
        angle=0.7,
        random_state=0,
    )
    return model.fit_transform(x).astype(np.float64)


def _nearest(x: np.ndarray) -> np.ndarray:
    """(n, 10) the nearest others of each row of (n, d)."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=_NEIGHBOURS, algorithm="brute" if x.shape[1] > 2 else "kd_tree")
    return model.fit(x).kneighbors(return_distance=False)


def _kept(nearest: np.ndarray, xy: np.ndarray) -> float:
    """Share of the nearest of each sample (n, 10) that are among its nearest at (n, 2) places."""
    here = _nearest(xy)
    return float((nearest[:, :, None] == here[:, None, :]).any(2).mean())
