"""`precomputed:FILE`: embeddings that exist already, joined to the data by id.

* `.parquet`, or a folder of them: a column of vectors (`embedding` or another usual name, else the only one
  of lists or tensors of floats) and one of ids (what --id-column names, else `sample_id` or another usual
  name);
* `.npz`: a 2-D float array, and a 1-D array of ids;
* a folder of numbered `.npy` files, with a `metadata` folder of Parquet files of ids, as clip-retrieval
  leaves them;
* `.npy`, or any of these without ids: rows by position. Taken only where the caller asserts the order
  (`same_order`) and the count equals the data's before any filter.

Labels that lie beside the vectors become those of data that have none.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.opening import Source
from kdbias.errors import KdbiasError
from kdbias.tables import fingerprints
from kdbias.tables.files import nearest_path, refuse_special
from kdbias.tables.given import id_column_of
from kdbias.tables.joins import align, require_unique
from kdbias.tables.parquet_file import read_footer, read_schema
from kdbias.teachers.numpy_vectors import ArrayParts, load, metadata_of, open_numbered, read_archive
from kdbias.teachers.parquet_vectors import ParquetVectors, texts
from kdbias.wording import counted


@dataclass(frozen=True)
class Precomputed:
    """Vectors (m, d), which stay on disk but in .npz; ids (m,) or None, labels (m,) or None."""

    spec: str
    vectors: np.ndarray | ArrayParts | ParquetVectors
    ids: pa.Array | None
    labels: pa.Array | None
    fingerprint: str

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.vectors.shape[1])

    def rows_for(self, source: Source, same_order: bool) -> np.ndarray:
        """(n,) int64: which vector belongs to each sample of `source`.

        With `same_order` by position, unless the ids of both are the same ones.

        Raises KdbiasError where ids are missing, or positions were not asserted or cannot hold.
        """
        what = f"the data {source.origin}"
        ids = self.ids
        if ids is not None and (not same_order or pc.any(pc.is_in(source.ids, value_set=ids)).as_py()):
            return align(source.ids, ids, what, self.spec)
        count = len(self.vectors)
        if not same_order:
            raise KdbiasError(
                f"{self.spec} holds {counted(count, 'vector')} without ids; if its rows stand in the order "
                f"of the data ({counted(source.total, 'sample')} before --where), say so with --same-order"
            )
        if count != source.total:
            raise KdbiasError(
                f"{self.spec} holds {counted(count, 'vector')}, the data {counted(source.total, 'sample')} "
                "(before --where); --same-order needs equal counts"
            )
        return source.positions

    def label(self, source: Source, rows: np.ndarray) -> tuple[Source, str | None]:
        """The data with the labels of the vectors where it has none of its own, and a remark on them.

        Args:
            rows: what `rows_for` gave.
        """
        if self.labels is None:
            return source, None
        own, stored = source.labels, self.labels.take(pa.array(rows))
        if stored.null_count == len(stored):
            return source, None
        if own is None:
            return replace(source, labels=stored), f"labels of {self.spec}, as the data has none"
        other = int(np.sum(pc.not_equal(own, stored).fill_null(False).to_numpy(zero_copy_only=False)))
        remark = f"labels are the data's; those of {self.spec} differ in {other:,} of {len(own):,} samples"
        return source, remark if other else None

    def within_reach(self, rows: np.ndarray, folder: Path) -> tuple[np.ndarray | ArrayParts, np.ndarray]:
        """An array (in memory or mapped) and the rows (m,) of it that hold the vectors of `rows` (m,).

        What has to be laid out for that goes to a temporary file in `folder`.
        """
        if not isinstance(self.vectors, ParquetVectors):
            return self.vectors, rows
        wanted, places = np.unique(rows, return_inverse=True)
        return self.vectors.lay_out(wanted, folder), places


def open_precomputed(rest: str, id_column: str | None = None) -> Precomputed:
    """Open `precomputed:REST`.

    Raises KdbiasError for a missing or unreadable file, repeated ids, anything but one 2-D float array.
    """
    path = Path(rest)
    refuse_special(path)
    if not path.exists():
        raise KdbiasError(f"precomputed:{rest}: no such file{nearest_path(rest)}")
    vectors, ids, labels, files = _opened(path, id_column)
    if len(vectors.shape) != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise KdbiasError(
            f"precomputed:{rest}: holds {vectors.dtype} {vectors.shape}, should be floats (n, d)"
        )
    if ids is not None:
        if len(ids) != len(vectors):
            raise KdbiasError(
                f"precomputed:{rest}: {counted(len(ids), 'id')}, but {counted(len(vectors), 'vector')}"
            )
        require_unique(ids, f"precomputed:{rest}")
    digests = [fingerprints.of_file(file) for file in files]
    fingerprint = fingerprints.of_json(digests) if path.is_dir() else digests[0]
    return Precomputed(f"precomputed:{rest}", vectors, ids, labels, fingerprint)


_Opened = tuple[np.ndarray | ArrayParts | ParquetVectors, pa.Array | None, pa.Array | None, list[Path]]


def _opened(path: Path, id_column: str | None) -> _Opened:
    """Vectors, ids, labels and the files that hold them."""
    suffix = path.suffix.lower()
    if path.is_dir() and (numbered := open_numbered(path)) is not None:
        vectors, files = numbered
        return vectors, *_beside(vectors, files, id_column)
    if path.is_dir() or suffix == ".parquet":
        stored = ParquetVectors.open(path, id_column)
        return stored, texts(stored.files, stored.id_column), texts(stored.files, "label"), stored.files
    if suffix in (".npy", ".npz") and zipfile.is_zipfile(path):
        return *read_archive(path, id_column), [path]
    if suffix in (".npy", ".npz"):
        return load(path), None, None, [path]
    raise KdbiasError(
        f"precomputed:{path}: should be a .npy, .npz or .parquet file, or a folder of .npy or .parquet files"
    )


def _beside(
    vectors: ArrayParts, files: list[Path], id_column: str | None
) -> tuple[pa.Array | None, pa.Array | None, list[Path]]:
    """Ids and labels from the tables beside numbered arrays, and all files.

    Raises KdbiasError for a table of another length than its array.
    """
    tables = metadata_of(files)
    if tables is None:
        return None, None, files
    for file, table, part in zip(files, tables, vectors.parts, strict=True):
        n = read_footer(table).num_rows
        if n != len(part):
            held = counted(len(part), "vector")
            raise KdbiasError(f"precomputed:{table}: {counted(n, 'row')}, but {file.name} holds {held}")
    ids = texts(tables, id_column_of(read_schema(tables[0]), id_column))
    return ids, texts(tables, "label"), [*files, *tables]
