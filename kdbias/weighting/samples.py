"""What a weight scheme may look at: a density table, its embeddings, and which samples count as one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.measurement.files import UNIFORMITY, anew
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.equilibrium.block_kernel import BlockKernel, block_means, needed_by
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth
from kdbias.sphere.equilibrium.solution import Groups
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.tables.density_table import DensityTable
from kdbias.tables.documents import read_document
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align, as_strings, encode
from kdbias.tables.mirrors import local_path
from kdbias.tables.places import found_again
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.tables.run_record import read_record, stage_of
from kdbias.targets.opening import OpenTarget, open_target
from kdbias.targets.settings import Aiming

_MEASURED = {"n": int, "d": int, "schemes": [object], "t_chosen?": float}


@dataclass(frozen=True)
class Samples:
    """The measurements of one data set, seen by distinct samples.

    A scheme gives one value to each of the m distinct samples; copies of it share that later.

    Attributes:
        density: the density table, n rows.
        groups: which rows are one sample; m groups.
        source: the embeddings that were measured; refuses where they are gone.
        min_ess: least ESS / distinct samples, for the schemes that solve under it; None for none.
        threads: CPU threads; None for all.
        draws: of an epoch, of which each sample that is left out of all this would have had one; default n.
    """

    density: DensityTable
    groups: Groups
    source: "EmbeddingSource"
    min_ess: float | None = None
    threads: int | None = None
    draws: int | None = None

    @property
    def n(self) -> int:
        """How many samples there are, duplicates among them."""
        return self.density.n

    @property
    def m(self) -> int:
        """Distinct samples."""
        return self.groups.distinct

    @property
    def alone(self) -> bool:
        """Whether no two samples count as one and none is left out: what was measured is what is weighed."""
        return self.m == self.n == (self.draws or self.n)

    @property
    def where(self) -> Path:
        """The density table."""
        return self.density.path

    @cached_property
    def vectors(self) -> np.ndarray:
        """(m, d) float32 unit rows of the distinct samples, mapped where pairs are seen in blocks."""
        ground, first = self.source.ground, self.groups.first
        if ground is None or not self.block_rows:
            return self.source.vectors()[first]
        return ground.lay("vectors", (self.m, self.source.measured[0].d), self.source.chunks(first))

    @cached_property
    def block_rows(self) -> int:
        """Rows of a block where pairs are seen in blocks; 0 where the vectors are in memory.

        Raises:
            KdbiasError: not even the smallest block fits the memory, or another one was begun with.
        """
        ground = self.source.ground
        if ground is None:
            return 0
        d = self.source.measured[0].d
        fits = 4 * self.m * d <= ground.memory and (ground.asked or self.m) >= self.m
        if fits and not ground.engine.spread and not ground.begun:
            return 0
        return ground.rows(self.m, needed_by(d, ground.threads, self.m, ground.memory))

    def in_blocks(
        self, t: Bandwidth, codes: np.ndarray | None = None, searched: bool = False
    ) -> BlockKernel | None:
        """The kernel matrix of the distinct samples in blocks; None where they are in memory.

        Args:
            codes: (m,) values of a column that is compared together with the vectors.
            searched: whether its least energy will be sought.
        """
        ground = self.source.ground
        if ground is None or not self.block_rows:
            return None
        return BlockKernel(ground, self.vectors, t, self.block_rows, codes, searched)

    @property
    def means(self) -> Callable[..., np.ndarray]:
        """`kernel_means`, in blocks where the vectors are."""
        ground = self.source.ground
        return (
            block_means(ground, self.block_rows) if ground is not None and self.block_rows else kernel_means
        )

    def target(self, aim: Aiming) -> OpenTarget:
        """The target that was named, in the density table's order."""
        return self.source.target(aim)

    def labels(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Label codes (m,) int64 with -1 for no label, and the (classes,) number of distinct samples of each.

        Raises:
            KdbiasError: no labels, or a single class.
        """
        codes = encode(self.density.labels)[0][self.groups.first]
        sizes = np.bincount(codes[codes >= 0])
        sizes = sizes[sizes > 0]
        if len(sizes) < 2:
            found = "no labels" if not len(sizes) else "one class"
            raise KdbiasError(
                f"method {method} needs labels of two classes or more; {self.where} has {found}: choose a "
                "method without labels, or embed again with --label-column"
            )
        if codes.max() + 1 != len(sizes):  # a class whose samples all copy another class's
            codes = np.where(codes >= 0, np.searchsorted(np.unique(codes[codes >= 0]), codes), -1)
        return codes, sizes


class EmbeddingSource:
    """The embeddings that a density table was measured on, opened when first needed.

    Args:
        density: the density table.
        given: the embedding table's folder, if the caller knows better than the provenance.

    Attributes:
        ground: where what does not fit in memory is laid out; None: all of it fits.

    Raises:
        KdbiasError: a given table is not the one that the density was measured on.
    """

    ground: BlockFolder | None = None

    def __init__(self, density: DensityTable, given: str | os.PathLike[str] | None) -> None:
        self.density, self.given = density, given
        inputs = inputs_in(density.provenance)
        self.fingerprint: str | None = inputs.get("embeddings")
        if given is not None:
            self.fingerprint = self._opened(given).fingerprint
        self.vectors: Callable[[], np.ndarray] = lru_cache(1)(self._vectors)
        self.target: Callable[[Aiming], OpenTarget] = lru_cache(1)(self._target)

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprint of the embeddings, for the manifest."""
        return {"embeddings": self.fingerprint} if self.fingerprint else {}

    def _vectors(self) -> np.ndarray:
        """(n, d) float32 unit rows in the density table's order."""
        table, rows = self.measured
        vectors = table.vectors()
        return vectors if np.array_equal(rows, np.arange(table.n)) else vectors[rows]

    def _target(self, aim: Aiming) -> OpenTarget:
        """What was named for the embeddings, in the density table's order."""
        table, rows = self.measured
        opened = open_target(aim, table, self._load)
        if opened.vectors is None and opened.masses is not None:
            opened = replace(opened, masses=_masses_of_some(opened, table, rows))
        return (
            opened
            if opened.codes is None
            else replace(opened, codes=(opened.codes[0][rows], opened.codes[1]))
        )

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray | slice, np.ndarray]]:
        """The vectors of some rows (m,) of the density table as (their places, (c, d) float32)."""
        table, places = self.measured
        wanted = places[rows]
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        for start, some in table.batches():
            first, last = np.searchsorted(ordered, [start, start + len(some)])
            if last > first:
                yield order[first:last], some[ordered[first:last] - start]

    def _load(self, table: EmbeddingTable) -> np.ndarray:
        """(n, d) float32 vectors of a reference, mapped where they are many and a file may be laid out."""
        return table.vectors() if self.ground is None else self.ground.held(table)

    @cached_property
    def measured(self) -> tuple[EmbeddingTable, np.ndarray]:
        """The embedding table, and the row of each sample of the density table in it."""
        table = self._opened(self.given if self.given is not None else self._remembered())
        where = f"embedding table {table.path}"
        return table, align(self.density.id_parts, table.id_parts(), str(self.density.path), where)

    def outdated(self) -> list[str]:
        """A line where the embedding table is another one by now; none where that is not known."""
        path = self.given or self._recorded
        path = local_path(path) if path else None
        if path is None or stage_of(path) != "embed":
            return []
        now = read_record(path).get("fingerprint")
        if now is None or self.fingerprint in (None, now):
            return []
        return [
            f"the embedding table {path} has changed since {self.density.path} was measured: these weights "
            f"are of its samples as they were; measure it anew: {anew(path, self.density.path.parent)}"
        ]

    @property
    def _recorded(self) -> str | None:
        """Where they lie, in place of where they lay."""
        doc, folder = self.density.provenance, self.density.path.parent
        path = doc.get("embeddings") or options_in(doc).get("embeddings")
        return path and found_again(path, folder, self.fingerprint)

    def _remembered(self) -> str:
        path, where = self._recorded, self.density.path
        if not path:
            raise KdbiasError(
                f"{where} does not say where its embeddings are, and this needs them; name the embedding "
                "table with --embeddings"
            )
        found = local_path(path)
        if not found.is_dir():
            raise KdbiasError(
                f"the embedding table {path} that {where} was measured on is gone; name its new place with "
                "--embeddings"
            )
        return str(found)

    def _opened(self, path: str | os.PathLike[str]) -> EmbeddingTable:
        table = EmbeddingTable.open(path)
        if self.fingerprint and self.fingerprint != table.fingerprint:
            raise KdbiasError(
                f"{table.path} (fingerprint {table.fingerprint}) is not the embedding table that "
                f"{self.density.path} was measured on ({self.fingerprint}); measure it: "
                f"{anew(table.path, self.density.path.parent)}"
            )
        return table


def _masses_of_some(opened: OpenTarget, table: EmbeddingTable, rows: np.ndarray) -> np.ndarray:
    """Masses (m,) of a ``balanced`` target for some of a table's rows: each value keeps its share."""
    assert opened.masses is not None
    masses, column = opened.masses[rows], opened.named.what
    if len(rows) == table.n:
        return masses
    codes, names = encode(as_strings(table.column(column)))
    size = len(names) + 1
    whole = np.bincount(codes + 1, weights=opened.masses, minlength=size)
    left = np.bincount(codes[rows] + 1, weights=masses, minlength=size)
    gone = np.flatnonzero((whole > 0) & (left == 0))
    if len(gone):
        value = names[int(gone[0]) - 1].as_py() if gone[0] else None
        raise KdbiasError(
            f"no sample of {column} {value!r} is left, of which the target has {whole[gone[0]]:.1%}; leave "
            "fewer out"
        )
    return masses * (whole / np.where(left > 0, left, 1))[codes[rows] + 1]


def chosen_bandwidth(density: DensityTable) -> float:
    """The bandwidth that ``uniformity`` chose (that of ``log_density``)."""
    folder = density.path.parent
    file = folder / UNIFORMITY
    chosen = read_document(file, _MEASURED).get("t_chosen") if file.exists() else None
    chosen = chosen or density.provenance.get("t_chosen")
    if chosen is None and len(density.bandwidths) == 1:
        chosen = density.bandwidths[0]
    if chosen is None:
        measured = ", ".join(f"{b:g}" for b in density.bandwidths) or "none"
        raise KdbiasError(f"{density.path} names no chosen bandwidth; give --t (measured: {measured})")
    return float(chosen)
