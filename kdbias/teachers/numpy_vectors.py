"""Vectors in NumPy files: one array, the arrays of an ``.npz``, or a folder of numbered ``.npy`` files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.arrays import DAMAGED
from kdbias.errors import KdbiasError, first_line
from kdbias.tables.given import IDS, LABELS, VECTORS
from kdbias.tables.plain import as_names


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


def load(path: Path) -> Any:
    """An array, mapped, or an archive of arrays; nothing pickled.

    Raises:
        KdbiasError: anything else.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise _unreadable(path, error) from error


def read_archive(path: Path, id_column: str | None) -> tuple[np.ndarray, pa.Array | None, pa.Array | None]:
    """Vectors, ids and labels of an ``.npz``.

    Ids are the array that `id_column` or a usual name says, else the only one of texts that all differ;
    numbers of another name are no ids, as they may be labels.

    Raises:
        KdbiasError: it is not clear which array holds the vectors or the ids.
    """
    try:
        with load(path) as archive:
            arrays = {name: _decoded(archive[name]) for name in archive.files}
    except DAMAGED as error:
        raise _unreadable(path, error) from error
    tables = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind == "f"}
    vectors = tables[_only(tables, VECTORS, f"{path}: 2-D float array", arrays)]
    columns = {name: a for name, a in arrays.items() if a.ndim == 1 and len(a) == len(vectors)}
    names = {name: as_names(pa.array(a)) for name, a in columns.items() if a.dtype.kind in "Uiub"}
    label = next((name for name in LABELS if name in names and name != id_column), None)
    return vectors, names.get(_ids_among(names, columns, id_column)), names.get(label)


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
    place = folder / "img_emb" if any((folder / "img_emb").glob("*.npy")) else folder
    files = sorted(place.glob("*.npy"), key=lambda file: number_of(file))
    if not files:
        return None
    _require_one_each(files)
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
        tables = {number_of(file): file for file in folder.glob("*.parquet")}
        if not tables:
            continue
        _require_one_each(list(folder.glob("*.parquet")))
        if len(tables) == len(files) == 1:
            return list(tables.values())
        arrays = {number_of(file): file for file in files}
        alone = [file for key, file in (arrays | tables).items() if not (key in arrays and key in tables)]
        if alone:
            other = folder if alone[0] in files else place
            raise KdbiasError(
                f"precomputed:{alone[0]}: nothing in {other} bears its number, as an array and its table of "
                "ids do"
            )
        return [tables[number_of(file)] for file in files]
    return None


def _require_one_each(files: list[Path]) -> None:
    """Refuse two files with the same number."""
    names: dict[tuple[int, str], str] = {}
    for file in files:
        other = names.setdefault(number_of(file), file.name)
        if other != file.name:
            raise KdbiasError(
                f"precomputed:{file}: bears the number of {other}; give a folder of one kind of vectors"
            )


def number_of(file: Path) -> tuple[int, str]:
    """The number at the end of a file's name, and the name where it has none: what files are in order of."""
    found = re.search(r"(\d+)\D*$", file.stem)
    return (int(found[1]), "") if found else (-1, file.stem)


def _decoded(values: np.ndarray) -> np.ndarray:
    """Byte strings as text, other values as they are."""
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def _only(
    found: Mapping[str, np.ndarray], preferred: tuple[str, ...], what: str, arrays: Mapping[str, np.ndarray]
) -> str:
    """The array meant: a preferred name, or the only one there is."""
    name = next((name for name in preferred if name in found), None)
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name is None:
        known = ", ".join(f"{name} {a.dtype} {a.shape}" for name, a in arrays.items())
        raise KdbiasError(f"precomputed:{what} not clear; name it {preferred[0]!r} (the file holds {known})")
    return name


def _unreadable(path: Path, error: Exception) -> KdbiasError:
    """Error for a file without plain numbers."""
    return KdbiasError(f"precomputed:{path}: not an array of plain numbers ({first_line(error)})")
