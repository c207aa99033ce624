"""Stored teacher vectors by sample: in the memory of each process, many in a file a machine, or by shard."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import MachineError
from kdbias.sampler.sharded_order import BUFFER, Shards
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import reserve
from kdbias.tables.parquet_file import open_parquet, read_footer
from kdbias.training.processes import Processes

# Each process holds vectors up to this size for itself, as float32. Larger ones are float16, as they are
# stored, in one file a machine that its processes map.
_FLOAT32_BYTES = 1 << 30
_NUMBERS = 1 << 19  # of a table to read at a time
_AT_HAND = BUFFER + 2  # shards: those of a step of the order, the next one's and a stand-in's


@dataclass
class StoredTargets:
    """Stored teacher vectors, row i of each array belonging to sample i.

    vectors  (n, dim) unit rows, float32, or float16 where they are large; norms (n,) float32 or None
    flipped, flip_norms  those of the mirrored images, or None
    """

    vectors: np.ndarray | ShardedVectors
    norms: np.ndarray | None = None
    flipped: np.ndarray | ShardedVectors | None = None
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


class ShardedVectors:
    """A column of a table of unit vectors (n, dim) by sample, float32; in memory are those of few shards.

    Args:
        rows: (n,) row of the table of each sample.
        shards: of the samples.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, table: EmbeddingTable, column: str, rows: np.ndarray, shards: Shards) -> None:
        self._table, self._column, self._rows, self._shards = table, column, rows, shards
        groups = [
            (number, group, footer.row_group(group).num_rows)
            for number, footer in enumerate(map(read_footer, table.parts))
            for group in range(footer.num_row_groups)
        ]
        self._groups = [(table.parts[number], group) for number, group, _ in groups]
        self._starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        self._of_shard = lru_cache(_AT_HAND)(self._read)
        self.shape = len(rows), table.d
        self.nbytes = 2 * min(_AT_HAND, len(shards)) * len(rows) * table.d // len(shards)

    def __getitem__(self, samples: np.ndarray) -> np.ndarray:
        """(b, dim) float32 unit vectors of these samples (b,)."""
        shards = self._shards.of(samples)
        stored = np.empty((len(samples), self.shape[1]), np.float32)
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            stored[mine] = self._of_shard(shard)[np.searchsorted(self._shards.rows(shard), samples[mine])]
        return self._table.unit(stored, 0, self._rows[samples])

    def _read(self, shard: int) -> np.ndarray:
        """(m, dim) vectors of a shard's samples, as they are stored."""
        rows = self._rows[self._shards.rows(shard)]
        of = np.searchsorted(self._starts, rows, side="right") - 1
        found: np.ndarray | None = None
        for number in np.unique(of).tolist():
            part, group = self._groups[number]
            with open_parquet(part) as file:
                blocks = list(file.vectors(_NUMBERS, self._column, self.shape[1], group))
            block = np.concatenate(blocks)
            found = np.empty((len(rows), self.shape[1]), block.dtype) if found is None else found
            found[of == number] = block[rows[of == number] - self._starts[number]]
        assert found is not None
        return found


def read_targets(
    table: EmbeddingTable,
    rows: np.ndarray,
    processes: Processes,
    *,
    flipped: bool,
    norms: bool,
    shards: Shards | None = None,
) -> StoredTargets:
    """The vectors of samples whose rows of `table` are `rows` (n,); the table itself is only streamed.

    `flipped`: those of the mirrored images as well; `norms`: with the norms they had; `shards`: of the
    samples, where vectors are to be read with them. All processes call it together. Raises KdbiasError where
    the disk has no room for vectors that are large.
    """
    columns = ["embedding", *(["embedding_flip"] if flipped else [])]
    vectors: list[Any]
    if shards is not None:
        vectors = [ShardedVectors(table, column, rows, shards) for column in columns]
    elif 4 * len(rows) * table.d <= _FLOAT32_BYTES:
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
