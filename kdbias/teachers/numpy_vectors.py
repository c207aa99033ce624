"""Vectors in NumPy files: one array, the arrays of an ``.npz``, or a folder of numbered ``.npy`` files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.arrays import DAMAGED
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.columns import as_names
from kdbias.tables.given import IDS, LABELS, VECTORS


@dataclass(frozen=True)
class ArrayParts:
    """Arrays one after another, each mapped from its file, read by row like one (n, d) array."""

    parts: list[np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parts one after another."""
        return (sum(len(part) for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Dtype that holds the values of every part."""
        return np.result_type(*(part.dtype for part in self.parts))

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        starts = np.concatenate([[0], np.cumsum([len(part) for part in self.parts])])
        owners = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        for owner in np.unique(owners):
            here = owners == owner
            out[here] = self.parts[owner][rows[here] - starts[owner]]
        return out


@contextlib.contextmanager
def _plain_numbers(path: Path) -> Iterator[None]:
    """Name the file where reading it in the block shows that it is damaged, or holds more than numbers."""
    try:
        yield
    except DAMAGED as error:
        reason = first_line(error)
        raise KdbiasError(f"precomputed:{path}: not an array of plain numbers ({reason})") from error


def load(path: Path) -> np.ndarray:
    """An array, mapped; nothing pickled, no archive (KdbiasError)."""
    with _plain_numbers(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays, as .npz files are")
        return array


def read_archive(path: Path, id_column: str | None) -> tuple[np.ndarray, pa.Array | None, pa.Array | None]:
    """Vectors, ids and labels of an ``.npz``.

    Ids are the array that `id_column` or a usual name says, else the only one of texts that all differ;
    numbers of another name are no ids, as they may be labels.

    Raises:
        KdbiasError: it is not clear which array holds the vectors or the ids.
    """
    with _plain_numbers(path), np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
        arrays |= {n: np.char.decode(a, "utf-8") for n, a in arrays.items() if a.dtype.kind == "S"}
    vectors = _vectors_among(arrays, path)
    columns = {name: a for name, a in arrays.items() if a.ndim == 1 and len(a) == len(vectors)}
    names = {name: as_names(pa.array(a)) for name, a in columns.items() if a.dtype.kind in "Uiub"}
    label = next((name for name in LABELS if name in names and name != id_column), None)
    return vectors, names.get(_ids_among(names, columns, id_column)), names.get(label)


def _vectors_among(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    """The array (n, d) of floats: by its usual name, or the only one there is."""
    tables = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind == "f"}
    usual = next((name for name in VECTORS if name in tables), None)
    if usual is None and len(tables) != 1:
        known = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items())
        raise KdbiasError(
            f"precomputed:{path}: 2-D float array not clear; name it {VECTORS[0]!r} (the file holds {known})"
        )
    return tables[usual or next(iter(tables))]


def _ids_among(
    names: Mapping[str, pa.Array], columns: Mapping[str, np.ndarray], id_column: str | None
) -> str | None:
    """The column with ids: by name, or the only text column with distinct values."""
    usual = next((name for name in (id_column, *IDS) if name in names), None)
    if usual is not None:
        return usual
    texts = [name for name in names if columns[name].dtype.kind == "U" and name not in LABELS]
    distinct = [name for name in texts if pc.count_distinct(names[name]).as_py() == len(names[name])]
    return distinct[0] if len(distinct) == 1 else None


def open_numbered(folder: Path) -> tuple[ArrayParts, list[Path]] | None:
    """The ``.npy`` files of a folder, or of ``img_emb`` in it, in the order of their numbers; None without.

    Raises:
        KdbiasError: a file that is no (n, d) array like the first.
    """
    files = list((_numbered(folder / "img_emb", "*.npy") or _numbered(folder, "*.npy")).values())
    if not files:
        return None
    parts = [load(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.ndim != 2 or part.shape[1:] != parts[0].shape[1:] or part.dtype.kind != parts[0].dtype.kind:
            raise KdbiasError(
                f"precomputed:{file}: holds {part.dtype} {part.shape}, but {files[0].name} {parts[0].dtype} "
                f"{parts[0].shape}"
            )
    return ArrayParts(parts), files


def metadata_of(files: list[Path]) -> list[Path] | None:
    """The Parquet file of ids that belongs to each numbered array, as of clip-retrieval; None without.

    They lie in ``metadata`` beside the folder of the arrays or in it, or beside the arrays themselves.

    Raises:
        KdbiasError: an array without its file, or a file without its array.
    """
    place = files[0].parent
    for folder in (place.parent / "metadata", place / "metadata", place):
        if not (tables := _numbered(folder, "*.parquet")):
            continue
        if len(tables) == len(files) == 1:
            return list(tables.values())
        arrays = {number_of(file): file for file in files}
        alone = arrays.keys() ^ tables.keys()
        for key, file in (arrays | tables).items():
            if key in alone:
                raise KdbiasError(
                    f"precomputed:{file}: nothing in {folder if key in arrays else place} bears its number, "
                    "as an array and its table of ids do"
                )
        return [tables[key] for key in arrays]
    return None


def _numbered(folder: Path, pattern: str) -> dict[tuple[int, str], Path]:
    """The files of a folder by their numbers, in that order; refuses two with the same number."""
    found: dict[tuple[int, str], Path] = {}
    for file in sorted(folder.glob(pattern), key=number_of):
        other = found.setdefault(number_of(file), file)
        if other != file:
            raise KdbiasError(
                f"precomputed:{file}: bears the number of {other.name}; give a folder of one kind of vectors"
            )
    return found


def number_of(file: Path) -> tuple[int, str]:
    """The number at the end of a file's name, and the name where it has none: what files are in order of."""
    found = re.search(r"(\d+)\D*$", file.stem)
    return (int(found[1]), "") if found else (-1, file.stem)
