"""What a density table remembers of its making: the embeddings and the chosen bandwidth."""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.measurement.files import UNIFORMITY
from kdbias.tables.density_table import DensityTable
from kdbias.tables.documents import read_document
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align

_MEASURED = {"n": int, "d": int, "schemes": [object], "t_chosen?": float}


class EmbeddingSource:
    """The embeddings that a density table was measured on, opened when first needed.

    Args:
        density: the density table.
        given: the embedding table's folder, if the caller knows better than the provenance.

    Raises:
        KdbiasError: a given table is not the one that the density was measured on.
    """

    def __init__(self, density: DensityTable, given: str | os.PathLike[str] | None) -> None:
        self.density, self.given = density, given
        known = (density.provenance.get("inputs") or {}).get("embeddings")
        self.fingerprint: str | None = known
        if given is not None:
            self.fingerprint = self._checked(EmbeddingTable.open(given)).fingerprint
        self.vectors: Callable[[], np.ndarray] = lru_cache(1)(self._vectors)

    @property
    def inputs(self) -> dict[str, str]:
        return {"embeddings": self.fingerprint} if self.fingerprint else {}

    def _vectors(self) -> np.ndarray:
        """(n, d) float32 unit rows in the density table's order."""
        table = self._checked(
            EmbeddingTable.open(self.given if self.given is not None else self._remembered())
        )
        rows = align(self.density.ids, table.ids(), str(self.density.path), f"embedding table {table.path}")
        vectors = table.vectors()
        return vectors if np.array_equal(rows, np.arange(table.n)) else vectors[rows]

    def _remembered(self) -> Path:
        config = self.density.provenance.get("config") or {}
        path = self.density.provenance.get("embeddings") or config.get("embeddings")
        if not path:
            raise KdbiasError(
                f"{self.density.path} does not say where its embeddings are, and this needs them; name the "
                "embedding table with --embeddings"
            )
        if not Path(path).is_dir():
            raise KdbiasError(
                f"the embedding table {path} that {self.density.path} was measured on is gone; name its new "
                "place with --embeddings"
            )
        return Path(path)

    def _checked(self, table: EmbeddingTable) -> EmbeddingTable:
        known = (self.density.provenance.get("inputs") or {}).get("embeddings")
        if known and known != table.fingerprint:
            raise KdbiasError(
                f"{table.path} (fingerprint {table.fingerprint}) is not the embedding table that "
                f"{self.density.path} was measured on ({known}); run kdbias uniformity on it first"
            )
        return table


def chosen_bandwidth(density: DensityTable) -> float:
    """The bandwidth that ``uniformity`` chose (that of ``log_density``)."""
    folder = density.path.parent
    file = folder / UNIFORMITY
    chosen = read_document(file, _MEASURED).get("t_chosen") if file.exists() else None
    chosen = chosen or density.provenance.get("t_chosen")
    if chosen is None and len(density.bandwidths) == 1:
        chosen = density.bandwidths[0]
    if chosen is None:
        measured = ", ".join(f"{b:g}" for b in density.bandwidths) or "none"
        raise KdbiasError(f"{density.path} names no chosen bandwidth; give --t (measured: {measured})")
    return float(chosen)
