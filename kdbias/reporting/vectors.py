"""The embeddings of those samples of a density table that the page looks at closely, read in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kdbias.reporting.outputs import Density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of some rows of a density table.

    Attributes:
        rows: (m,) ascending row numbers of the table.
        x: (m, d) float32.
    """

    rows: np.ndarray
    x: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(k, d) of (k,) rows that are among these."""
        return self.x[np.searchsorted(self.rows, rows)]

    @classmethod
    def read(cls, density: Density, embeddings: EmbeddingTable, wanted: Iterable[np.ndarray]) -> Vectors:
        """Those of all wanted rows of a density table, by id from the table that it was made from.

        Raises:
            KdbiasError: the tables hold other samples.
        """
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *wanted]))
        places = align(density.table.ids, embeddings.ids(), str(density.path), str(embeddings.path))[rows]
        order = np.argsort(places, kind="stable")
        x = np.empty((len(rows), embeddings.d), np.float32)
        x[order] = embeddings.vectors(positions=places[order])
        return cls(rows, x)
