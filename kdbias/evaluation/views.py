"""Two views of an image, as it is and mirrored, made one vector.

Face recognition does it in two ways, whose numbers differ a little: ``raw`` adds the embeddings as the
network gave them and normalises the sum (insightface's scripts), so that the longer one counts more; ``unit``
normalises each and adds those.
"""

from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.evaluation.task import Embeddings
from kdbias.progress import say


@dataclass(frozen=True)
class Views:
    """How the views of ``model`` are added.

    Attributes:
        fusion: ``raw`` or ``unit``, or None where there is one view alone.
        own: (n,) float64 factors of the unit vectors of the images.
        mirror: (n,) float64 factors of those of their mirrors.
    """

    model: Embeddings
    fusion: str | None
    own: np.ndarray
    mirror: np.ndarray | None

    def lengths(self, rows_at_once: int = 1 << 14) -> np.ndarray:
        """(n,) float64 length of each sum."""
        if self.mirror is None or self.model.flips is None:
            return self.own
        found = np.empty(self.model.n)
        for start in range(0, self.model.n, rows_at_once):
            part = slice(start, start + rows_at_once)
            cosines = np.einsum(
                "ij,ij->i", self.model.vectors[part], self.model.flips[part], dtype=np.float64
            )
            own, mirror = self.own[part], self.mirror[part]
            found[part] = np.sqrt(np.maximum(own**2 + mirror**2 + 2 * own * mirror * cosines, 0))
        return found

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """(m, d) float32 unit sums of some rows; a sum of opposite vectors stays zero."""
        vectors = self.model.vectors[rows]
        if self.mirror is None or self.model.flips is None:
            return vectors
        own, mirror = self.own[rows], self.mirror[rows]
        share = (own / (own + mirror)).astype(np.float32)[:, None]
        vectors = share * vectors + (1 - share) * self.model.flips[rows]
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors

    def details(self) -> dict[str, str | None]:
        """For ``metrics.json``."""
        return {"views": "image" if self.mirror is None else "image + mirror", "flip_fusion": self.fusion}


def views_of(model: Embeddings, fusion: str | None = None, mirrored: bool = True) -> Views:
    """The views of a table's rows, to be added by ``fusion`` (default: raw).

    Args:
        mirrored: False takes the image alone, whatever the table has.

    Raises:
        KdbiasError: ``raw`` is asked for where the table lacks the mirrored norms.
    """
    if model.flips is None or not mirrored:
        return Views(model, None, np.ones(model.n), None)
    if fusion != "unit" and model.flip_norms is None:
        if fusion == "raw":
            raise KdbiasError(
                f"{model.name} has no norm_flip, which raw fusion needs: embed again with --flip, "
                "or use --flip-fusion unit"
            )
        say(f"{model.name} has no norm_flip: both views are added as unit vectors (--flip-fusion unit)")
        fusion = "unit"
    if fusion == "unit" or model.flip_norms is None:
        return Views(model, "unit", np.ones(model.n), np.ones(model.n))
    return Views(model, "raw", model.norms.astype(np.float64), model.flip_norms.astype(np.float64))
