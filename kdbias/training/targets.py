"""Stored teacher vectors by sample: in the memory of each process, or many in one file a machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbias.errors import MachineError
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import reserve
from kdbias.training.processes import Processes

# Each process holds vectors up to this size for itself, as float32. Larger ones are float16, as they are
# stored, in one file a machine that its processes map.
_FLOAT32_BYTES = 1 << 30
_NUMBERS = 1 << 19  # of a table to read at a time


@dataclass
class StoredTargets:
    """Stored teacher vectors, row i of each array belonging to sample i.

    vectors  (n, dim) unit rows, float32, or float16 where they are large; norms (n,) float32 or None
    flipped, flip_norms  those of the mirrored images, or None
    """

    vectors: np.ndarray
    norms: np.ndarray | None = None
    flipped: np.ndarray | None = None
    flip_norms: np.ndarray | None = None

    def at(self, samples: np.ndarray, flips: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """(b, dim) float32 unit vectors and (b,) norms of `samples`, of their mirrored images by `flips`."""
        vectors = self.vectors[samples]
        norms = None if self.norms is None else self.norms[samples]
        if flips is not None and self.flipped is not None:
            vectors[flips] = self.flipped[samples[flips]]
            if norms is not None and self.flip_norms is not None:
                norms[flips] = self.flip_norms[samples[flips]]
        if vectors.dtype != np.float32:
            vectors = vectors.astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors, norms


def read_targets(
    table: EmbeddingTable, rows: np.ndarray, processes: Processes, *, flipped: bool, norms: bool
) -> StoredTargets:
    """The vectors of samples whose rows of `table` are `rows` (n,); the table itself is only streamed.

    `flipped`: those of the mirrored images as well; `norms`: with the norms they had. All processes call it
    together. Raises KdbiasError where the disk has no room for vectors that are large.
    """
    columns = ["embedding", *(["embedding_flip"] if flipped else [])]
    if 4 * len(rows) * table.d <= _FLOAT32_BYTES:
        vectors = [np.empty((len(rows), table.d), np.float32) for _ in columns]
        for column, array in zip(columns, vectors, strict=True):
            _read(table, column, rows, array)
    else:
        vectors = [_mapped(table, column, rows, processes) for column in columns]
    flip_norms = table.flip_norms() if norms and flipped else None
    return StoredTargets(
        vectors[0],
        table.norms()[rows] if norms else None,
        vectors[1] if flipped else None,
        None if flip_norms is None else flip_norms[rows],
    )


def _read(table: EmbeddingTable, column: str, rows: np.ndarray, out: np.ndarray) -> None:
    """out[i] = row rows[i] of the column."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    for start, block in table.batches(max(1, _NUMBERS // table.d), column):
        first, end = np.searchsorted(ascending, [start, start + len(block)])
        out[order[first:end]] = block[ascending[first:end] - start]


def _mapped(table: EmbeddingTable, column: str, rows: np.ndarray, processes: Processes) -> np.ndarray:
    """(n, dim) float16 in a file that one process writes and all of its machine map.

    Once all have it open, it loses its name: the system frees it with the last of them, however that ends.
    """

    def write() -> str:
        descriptor, name = tempfile.mkstemp(prefix="kdbias-targets-")
        os.close(descriptor)
        try:
            array = np.lib.format.open_memmap(name, "w+", np.float16, (len(rows), table.d))
            with open(name, "r+b") as file:
                reserve(file.fileno(), os.path.getsize(name))
            _read(table, column, rows, array)
        except BaseException as error:
            os.unlink(name)
            if isinstance(error, OSError):
                raise MachineError(
                    f"{2 * len(rows) * table.d / 1e9:,.1f} GB of teacher vectors do not go into "
                    f"{Path(name).parent} ({error.strerror}): set TMPDIR to a folder with room for them"
                ) from error
            raise
        return name

    name = processes.once_a_machine(write)
    mapped = np.asarray(np.load(name, mmap_mode="r"))
    processes.gather(None)
    with contextlib.suppress(FileNotFoundError, PermissionError):  # another was first; Windows keeps it
        os.unlink(name)
    return mapped
