"""An exact pass in blocks within a measurement's folder: planned, begun or gone on with, by an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.engine.opening import Engine
from kdbias.errors import KdbiasError, MachineError
from kdbias.measurement.settings import UniformitySettings
from kdbias.sphere.all_pairs import SMALLEST_TILE, AllPairs, bytes_needed, fitting_tile, require_memory
from kdbias.sphere.blocks.folder import BlockFolder, Patience, lay, placed
from kdbias.sphere.blocks.plan import BlockPlan, planned_rows, temporary_bytes, unit_bytes
from kdbias.sphere.blocks.run import do_units, results
from kdbias.sphere.blocks.unit import JOB, PairJob
from kdbias.sphere.cells.estimate import estimate_bytes
from kdbias.sphere.cells.host import wave_rows
from kdbias.sphere.cells.in_blocks import WaveJob
from kdbias.sphere.cells.job import Estimate
from kdbias.sphere.equilibrium.block_jobs import JOBS
from kdbias.sphere.equilibrium.block_kernel import block_means, needed_by
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.tiles import TILE
from kdbias.sphere.vectors import require_unit_rows
from kdbias.tables import fingerprints
from kdbias.tables.documents import read_document, read_json, write_json
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import atomic_path, remove, remove_tree
from kdbias.tables.run_record import RECORD
from kdbias.wording import counted

PAIRS = "pairs"
MOST_SWEPT = 16
"""Bandwidths that a plan made before they are chosen counts on."""
_SHAPE = {
    **dict.fromkeys(("key", "vectors", "weights", "precision"), str),
    **dict.fromkeys(("n", "rows", "k"), int),
    "bandwidths": [float],
    "near": (float, None),
}

_UNIT_PAIRS = 10**11  # of which an estimate's unit looks at some hundredths: about half a minute's work
_SHORT = 10  # units' work, which is done in memory, where it fits


@dataclass(frozen=True)
class Blocks:
    """Where and by what a pass in blocks is done.

    Attributes:
        folder: of the partial files; made when a pass begins, removed by `clean`.
        table: fingerprint of the embedding table.
        device, threads: of a unit.
    """

    folder: Path
    settings: UniformitySettings
    engine: Engine
    table: str
    device: str
    threads: int

    def rows(self, n: int, k: int, schemes: int, bandwidths: int) -> int:
        """Rows of a block; 0 for one pass over all in this process.

        Raises:
            KdbiasError: not even the smallest block fits ``--memory``.
        """
        asked, memory = self.settings.block_rows, self.settings.memory
        if not self.engine.spread and not (self.folder / JOB).exists():
            whole = bytes_needed(n, k, schemes, bandwidths, self.threads, SMALLEST_TILE)
            if (asked is not None and asked >= n) or (
                asked is None and (self.device != "cpu" or whole <= memory)
            ):
                return 0

        def needed(rows: int) -> int:
            return unit_bytes(rows, k, schemes, bandwidths, self.threads)

        begun = _begun(self.folder)
        known = begun["rows"] if begun is not None and begun["n"] == n else 0
        if not known or needed(known) > memory:
            known = planned_rows(n, self.engine.world * self.engine.slots, needed, memory)
        found = asked or known
        what = f"a unit of two blocks of {max(found, TILE):,} samples with k={k}"
        require_memory(needed(max(found, TILE)), memory, what)
        return found

    def estimates(self, n: int, d: int, k: int, schemes: int) -> bool:
        """Whether an estimate is done in units: too large to fit, or so long that it has to survive kills."""
        asked, ground = self.settings.block_rows, self.ground
        if self.device != "cpu":
            return False
        if self.engine.spread or ground.begun:
            return True
        needed = estimate_bytes(n, d, k, schemes, MOST_SWEPT, self.threads, SMALLEST_TILE)
        too_large = needed > self.settings.memory or n * n > _SHORT * _UNIT_PAIRS
        return too_large if asked is None else asked < n

    def estimate(
        self, n: int, d: int, how: Estimate, schemes: int, bandwidths: int, begins: bool = True
    ) -> tuple[int, Estimate]:
        """Samples of a unit of an estimate, and how it is done: with a tile that fits ``--memory``.

        Args:
            begins: whether it does now; else it is planned, and nothing is made.

        Raises:
            KdbiasError: not even the smallest unit fits ``--memory``.
        """
        whole = partial(estimate_bytes, n, d, how.k, schemes, bandwidths, self.threads)
        what = f"a unit of an estimate with k={how.k}"
        tile = fitting_tile(lambda tile: whole(tile, held=wave_rows(n, tile)), self.settings.memory, what)
        step = wave_rows(n, tile)
        plan = self.ground.rows if begins else self.ground.planned
        most = max(_UNIT_PAIRS // n // step, self.threads) * step  # a thread does a step at a time
        rows = plan(n, lambda rows: whole(tile, held=max(rows, step)), most)
        return max(rows // step, 1) * step, replace(how, tile=tile)

    @property
    def ground(self) -> BlockFolder:
        """Where an estimate, kernel means of a target, and products with a column's kernel lie."""
        how = self.engine, self.settings.memory, self.threads, self.settings.block_rows
        return BlockFolder(self.folder / "units", self.table, *how)

    def of_rows(self, x: np.ndarray) -> int:
        """Rows of a block of vectors (n, d) that are mapped; 0 for those in memory."""
        if not isinstance(x, np.memmap):
            return 0
        n, d = x.shape
        return self.ground.rows(n, needed_by(d, self.threads, n, self.settings.memory))

    def means(self, x: np.ndarray) -> Callable[..., np.ndarray]:
        """`kernel_means` for vectors (n, d) of the table: by units where they are mapped."""
        rows = self.of_rows(x)
        return block_means(self.ground, rows) if rows else kernel_means

    def reference(self, table: EmbeddingTable) -> np.ndarray:
        """(m, d) float32 vectors of a target, mapped where they do not fit the memory."""
        return self.ground.held(table)

    def vectors(self, table: EmbeddingTable, k: int, schemes: int) -> np.ndarray:
        """(n, d) float32 vectors of the table, in memory, or in a file of the folder where blocks are due."""
        due = {
            "exact": lambda: self.rows(table.n, k, schemes, MOST_SWEPT) > 0,
            "ivf": lambda: self.estimates(table.n, table.d, k, schemes),
            "hnsw": lambda: False,
        }
        if not due[self.settings.search]():
            return table.vectors()
        return lay(self._vectors_file(), (table.n, table.d), placed(table))

    def run(
        self,
        x: np.ndarray,
        bandwidths: Sequence[float],
        p: np.ndarray,
        k: int,
        near: float | None,
        rows: int,
        done: Callable[[int], object],
    ) -> AllPairs:
        """What `all_pairs` gives, in blocks of ``rows``, or of what the folder's pass was begun with.

        Raises:
            KdbiasError: bad vectors or weights, or blocks that are other than those begun with, or too large.
        """
        require_unit_rows(x)
        job = self._job(x, [float(t) for t in bandwidths], probabilities(len(x), p), k, near, rows)
        plan, slots = job.plan, self.engine.world * self.engine.slots
        where = f" by --engine {self.settings.engine_kind}, {slots:,} at a time" if self.engine.spread else ""
        progress.say(
            f"{counted(plan.units, 'unit')} in {counted(plan.waves, 'wave')}{where}: "
            f"{counted(plan.blocks, 'block')} of {plan.rows:,} samples, {self.folder} holds what is done"
        )
        do_units(job, self.engine, done)
        return results(job)

    def clean(self) -> None:
        """Remove the partial files, once the results are safe."""
        remove_tree(self.folder)

    def _vectors_file(self) -> Path:
        return self.folder / f"vectors-{self.table[:16]}.npy"

    def _job(
        self, x: np.ndarray, bandwidths: list[float], p: np.ndarray, k: int, near: float | None, rows: int
    ) -> PairJob:
        """The job that lies in the folder, or a new one; what is of another pass is removed."""
        of = [self.table, *x.shape, bandwidths, k, near, self.settings.precision]
        key = fingerprints.of_json([of, fingerprints.of_arrays(p)])[:16]
        vectors, weights = self._vectors_file(), self.folder / f"weights-{key}.npy"
        self.folder.mkdir(exist_ok=True)
        begun = _begun(self.folder)
        if begun is not None and begun["key"] == key and vectors.exists() and weights.exists():
            self._require_same(begun["rows"], k, len(p), len(bandwidths))
            return self._as_job(begun)
        for file in self.folder.iterdir():
            if file != vectors and file.is_file():
                remove(file)
        for file, array in ((vectors, x), (weights, p)):
            if not file.exists():
                with atomic_path(file) as temporary, open(temporary, "wb") as handle:
                    np.save(handle, array)
        document = {"key": key, "vectors": vectors.name, "weights": weights.name, "n": len(x), "rows": rows}
        more = {"bandwidths": bandwidths, "k": k, "near": near, "precision": self.settings.precision}
        write_json(self.folder / JOB, document | more)
        return self._as_job(document | more)

    def _require_same(self, rows: int, k: int, schemes: int, bandwidths: int) -> None:
        """Refuse to go on with a pass in blocks that the options do not allow."""
        asked, needed = self.settings.block_rows, unit_bytes(rows, k, schemes, bandwidths, self.threads)
        if asked not in (None, rows):
            raise KdbiasError(
                f"{self.folder} was begun with --block-rows {rows}, not {asked}; leave that out to go on, or "
                "remove the folder to begin anew"
            )
        require_memory(needed, self.settings.memory, f"the blocks of {rows:,} samples of {self.folder}")

    def _as_job(self, document: dict[str, Any]) -> PairJob:
        given = {name: document[name] for name in _SHAPE} | {"bandwidths": tuple(document["bandwidths"])}
        return PairJob(self.folder, **given, device=self.device, threads=self.threads)

    def assist(self) -> int:
        """As one of several processes: do a share of what the first begins; returns the units done.

        That is the pass, and with a target all until the first process has finished.

        Raises:
            KdbiasError: the first process has refused the run, or nothing came of it for ten minutes.
        """
        if self.settings.search != "exact":
            return self.ground.assist((WaveJob, *JOBS), self._over)
        patience = Patience(self.engine.rank, self.folder)
        while True:
            begun = _begun(self.folder)
            if begun is not None:
                try:
                    units = do_units(self._as_job(begun), self.engine)
                    return units + (self.ground.assist(JOBS, self._over) if self.settings.towards else 0)
                except (MachineError, OSError):
                    if _begun(self.folder) == begun:  # else the first began another pass meanwhile
                        raise
            if not (self.folder.parent / RECORD).exists():
                raise KdbiasError(
                    f"process {self.engine.rank} found no run in {self.folder.parent} any more: process 0 "
                    "has refused it, and says why"
                )
            patience.wait(sorted((f.name, f.stat().st_size) for f in self.folder.glob("*")))

    def _over(self) -> bool:
        """Whether process 0 has finished the run, or refused it."""
        try:
            return read_json(self.folder.parent / RECORD).get("status") == "finished"
        except (KdbiasError, OSError):
            return True

    def describe(self, n: int, d: int, k: int, schemes: int, seconds: float | None) -> dict[str, Any]:
        """What a pass would do and take.

        Args:
            seconds: of all of it in one process, of a unit's threads; None where nothing tells.
        """
        search, slots = self.settings.search, self.engine.world * self.engine.slots
        rows, vectors, sums = 0, 4 * n * d, 8 * schemes * MOST_SWEPT
        if search == "exact":
            rows = self.rows(n, k, schemes, MOST_SWEPT)
        elif search == "ivf" and self.estimates(n, d, k, schemes):
            rows = self.estimate(n, d, Estimate(k=k), schemes, MOST_SWEPT, begins=False)[0]
        plan = BlockPlan(n, rows or -(-n // TILE) * TILE)
        single, units, waves = plan.blocks == 1 and not self.engine.spread, plan.units, plan.waves
        read, temporary = vectors * (plan.blocks + 1), vectors + temporary_bytes(plan, k, schemes, MOST_SWEPT)
        if search != "exact":
            # A unit looks into cells of nearly all others. Two copies lie there, and what is found.
            units, waves = plan.blocks, 1
            temporary = 2 * vectors + n * (2 * sums + 12 * (k + schemes) + 24)
        return {
            "samples": n,
            "block_rows": n if single else plan.rows,
            "blocks": plan.blocks,
            "units": units,
            "waves": waves,
            "slots": slots,
            "bytes_read": vectors if single else read,
            "bytes_temporary": 0 if single else temporary,
            "hours": None if seconds is None else seconds / slots / 3600,
        }


def _begun(folder: Path) -> dict[str, Any] | None:
    """The job that lies in a folder; None where there is none, or a damaged one."""
    try:
        return read_document(folder / JOB, _SHAPE)
    except (KdbiasError, OSError):
        return None
