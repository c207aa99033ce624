"""`precomputed:FILE`: embeddings that exist already, joined to the data by id.

* `.parquet`, or a folder of them: a column of ids (`sample_id`, or what --id-column names) and one of vectors
  (`embedding`, else the only list column);
* `.npz`: a 2-D float array, and a 1-D array of as many ids;
* `.npy`, or an `.npz` without ids: rows by position. Taken only where the caller asserts the order
  (`same_order`) and the count equals the data's before any filter.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kdbias.data import Source
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.joins import align, as_strings, require_unique

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class Precomputed:
    """Vectors (m, d), memory-mapped where the format allows, and their ids (m,) or None."""

    spec: str
    vectors: np.ndarray
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


def open_precomputed(rest: str, id_column: str | None = None) -> Precomputed:
    """Open `precomputed:REST`.

    Raises KdbiasError for a missing or unreadable file, repeated ids, anything but one 2-D float array.
    """
    path = Path(rest)
    if not path.exists():
        raise KdbiasError(f"precomputed:{rest}: no such file")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix == ".parquet":
        vectors, ids = _read_parquet(path, id_column)
    elif suffix in (".npy", ".npz"):
        vectors, ids = _read_numpy(path)
    else:
        raise KdbiasError(
            f"precomputed:{rest}: should be a .npy, .npz or .parquet file, or a folder of the last"
        )
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise KdbiasError(
            f"precomputed:{rest}: holds {vectors.dtype} {vectors.shape}, should be floats (n, d)"
        )
    if ids is not None:
        ids = as_strings(ids)
        if len(ids) != len(vectors):
            raise KdbiasError(f"precomputed:{rest}: {len(ids):,} ids, but {len(vectors):,} vectors")
        require_unique(ids, f"precomputed:{rest}")
    return Precomputed(f"precomputed:{rest}", vectors, ids, _fingerprint(path))


def _fingerprint(path: Path) -> str:
    if path.is_dir():
        return fingerprints.of_json([fingerprints.of_file(p) for p in sorted(path.glob("*.parquet"))])
    return fingerprints.of_file(path)


def _read_numpy(path: Path) -> tuple[np.ndarray, pa.Array | None]:
    try:
        loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
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


def _read_parquet(path: Path, id_column: str | None) -> tuple[np.ndarray, pa.Array]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    files = [f for f in files if f.name != "failures.parquet"]
    if not files:
        raise KdbiasError(f"precomputed:{path}: the folder holds no .parquet file")
    try:
        schema = pq.read_schema(files[0])
        lists = [f.name for f in schema if any(is_list(f.type) for is_list in _LISTS)]
        column = "embedding" if "embedding" in lists else lists[0] if len(lists) == 1 else None
        if column is None:
            raise KdbiasError(
                f"precomputed:{path}: no column 'embedding' of vectors among {', '.join(schema.names)}"
            )
        id_name = next((c for c in (id_column, "sample_id") if c is not None and c in schema.names), None)
        if id_name is None:
            wanted = id_column or "sample_id"
            raise KdbiasError(f"precomputed:{path}: no id column {wanted!r} among {', '.join(schema.names)}")
        tables = [pq.read_table(f, columns=[id_name, column]) for f in files]
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise KdbiasError(f"precomputed:{path}: {str(error).splitlines()[0]}") from error
    blocks = [_matrix(chunk, path) for t in tables for chunk in t.column(column).chunks if len(chunk)]
    widths = sorted({block.shape[1] for block in blocks})
    if len(widths) != 1:
        raise KdbiasError(f"precomputed:{path}: vectors of different lengths ({', '.join(map(str, widths))})")
    ids = pa.chunked_array([as_strings(t.column(id_name)) for t in tables])
    return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks)), as_strings(ids)


def _matrix(chunk: pa.Array, path: Path) -> np.ndarray:
    """A chunk of a list column as (m, d); lists of unequal length or with nulls are refused."""
    values = chunk.flatten()
    if chunk.null_count or values.null_count or len(values) % len(chunk):
        raise KdbiasError(f"precomputed:{os.fspath(path)}: vectors with missing entries or of unequal length")
    if not pa.types.is_fixed_size_list(chunk.type):
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != lengths[0]).any():
            raise KdbiasError(f"precomputed:{os.fspath(path)}: vectors of unequal length")
    return values.to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
