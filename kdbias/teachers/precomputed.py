"""`precomputed:FILE`: embeddings that exist already, joined to the data by id.

* `.parquet`, or a folder of them: a column of ids (`sample_id`, or what --id-column names) and one of vectors
  (`embedding`, else the only list column);
* `.npz`: a 2-D float array, and a 1-D array of as many ids;
* `.npy`, or an `.npz` without ids: rows by position. Taken only where the caller asserts the order
  (`same_order`) and the count equals the data's before any filter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data import Source
from kdbias.errors import KdbiasError, first_line
from kdbias.tables import fingerprints
from kdbias.tables.joins import align, as_strings, require_unique
from kdbias.teachers.parquet_vectors import ParquetVectors


@dataclass(frozen=True)
class Precomputed:
    """Vectors (m, d) and their ids (m,) or None; all but those of an .npz stay on disk."""

    spec: str
    vectors: np.ndarray | ParquetVectors
    ids: pa.Array | None
    fingerprint: str

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def rows_for(self, source: Source, same_order: bool) -> np.ndarray:
        """(n,) int64: which vector belongs to each sample of `source`.

        Raises KdbiasError where ids are missing, or positions were not asserted or cannot hold.
        """
        if self.ids is not None:
            return align(source.ids, self.ids, f"the data {source.origin}", self.spec)
        count = len(self.vectors)
        if not same_order:
            raise KdbiasError(
                f"{self.spec} holds {count:,} vectors without ids; if its rows stand in the order of the "
                f"data ({source.total:,} samples before --where), say so with --same-order"
            )
        if count != source.total:
            raise KdbiasError(
                f"{self.spec} holds {count:,} vectors, the data {source.total:,} samples (before --where); "
                "--same-order needs equal counts"
            )
        return source.positions

    def within_reach(self, rows: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """An array (in memory or mapped) and the rows (m,) of it that hold the vectors of `rows` (m,).

        What has to be laid out for that goes to a temporary file in `folder`.
        """
        if isinstance(self.vectors, np.ndarray):
            return self.vectors, rows
        wanted, places = np.unique(rows, return_inverse=True)
        return self.vectors.lay_out(wanted, folder), places


def open_precomputed(rest: str, id_column: str | None = None) -> Precomputed:
    """Open `precomputed:REST`.

    Raises KdbiasError for a missing or unreadable file, repeated ids, anything but one 2-D float array.
    """
    path = Path(rest)
    if not path.exists():
        raise KdbiasError(f"precomputed:{rest}: no such file")
    suffix = path.suffix.lower()
    vectors: np.ndarray | ParquetVectors
    if path.is_dir() or suffix == ".parquet":
        vectors = ParquetVectors.open(path, id_column)
        ids, files = vectors.ids(), vectors.files
    elif suffix in (".npy", ".npz"):
        (vectors, ids), files = _read_numpy(path), [path]
    else:
        raise KdbiasError(
            f"precomputed:{rest}: should be a .npy, .npz or .parquet file, or a folder of the last"
        )
    if len(vectors.shape) != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise KdbiasError(
            f"precomputed:{rest}: holds {vectors.dtype} {vectors.shape}, should be floats (n, d)"
        )
    if ids is not None:
        ids = as_strings(ids)
        if len(ids) != len(vectors):
            raise KdbiasError(f"precomputed:{rest}: {len(ids):,} ids, but {len(vectors):,} vectors")
        require_unique(ids, f"precomputed:{rest}")
    digests = [fingerprints.of_file(file) for file in files]
    fingerprint = fingerprints.of_json(digests) if path.is_dir() else digests[0]
    return Precomputed(f"precomputed:{rest}", vectors, ids, fingerprint)


def _read_numpy(path: Path) -> tuple[np.ndarray, pa.Array | None]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError) as error:
        reason = first_line(error)
        raise KdbiasError(f"precomputed:{path}: not an array of plain numbers ({reason})") from error
    tables = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind == "f"}
    names = {name: a for name, a in arrays.items() if a.ndim == 1 and a.dtype.kind in "USiu"}
    vectors = _only(tables, ("embedding", "embeddings", "vectors"), f"{path}: 2-D float array", arrays)
    assert vectors is not None
    matching = {name: a for name, a in names.items() if len(a) == len(vectors)}
    ids = _only(matching, ("sample_id", "ids", "id"), f"{path}: 1-D array of ids", arrays, optional=True)
    if ids is None:
        return vectors, None
    return vectors, pa.array(np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids.astype(str))


def _only(
    found: dict[str, np.ndarray],
    preferred: tuple[str, ...],
    what: str,
    arrays: dict[str, np.ndarray],
    optional: bool = False,
) -> np.ndarray | None:
    for name in preferred:
        if name in found:
            return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    if optional and not found:
        return None
    known = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items())
    raise KdbiasError(f"precomputed:{what} not clear; name it {preferred[0]!r} (the file holds {known})")
