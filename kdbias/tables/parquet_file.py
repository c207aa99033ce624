"""One Parquet file with its provenance, whole or absent."""

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.tables import provenance
from kdbias.tables.files import atomic_path


def write_table(path: str | os.PathLike[str], table: pa.Table, doc: dict[str, Any]) -> None:
    """Write a Parquet file with provenance, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(provenance.attach(table, doc), temporary, compression="ZSTD")


def floats(values: np.ndarray) -> pa.Array:
    """A column of numbers, null where they are not finite."""
    return pa.array(values, mask=~np.isfinite(values))
