"""Which samples a reference shares with the data: by id and by vector, as file names may be anybody's."""

import numpy as np
import pyarrow as pa

from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align

_SAME = 0.999  # cosine of two embeddings of one image, stored with half precision


def same_samples(table: EmbeddingTable, data: EmbeddingTable, common: pa.Array) -> pa.Array:
    """Those of the ids that both tables have (c,) whose vectors are the same."""
    if not len(common):
        return common
    rows = [align(common, of.ids(), "common ids", str(of.path)) for of in (table, data)]
    order = [np.argsort(own, kind="stable") for own in rows]
    vectors = [of.vectors(positions=own[at]) for of, own, at in zip((table, data), rows, order, strict=True)]
    cosines = np.empty(len(common))
    place = np.empty(len(common), np.int64)
    place[order[1]] = np.arange(len(common))
    cosines[order[0]] = np.einsum("ij,ij->i", vectors[0], vectors[1][place[order[0]]])
    return common.filter(pa.array(cosines > _SAME))
