"""An estimate of vectors in a file: a copy that is sorted by cell, whose runs of samples are units.

A unit is some waves of samples (see `estimate`): it reads their rows and the cells that they look into, which
stand together in the copy, and writes all that is found of its samples. Nothing is to be added up, so that
what was seen from where changes no bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.blocks.arrays import read_arrays, required_arrays, write_arrays
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.blocks.job import Told, Unit
from kdbias.sphere.blocks.plan import BlockPlan
from kdbias.sphere.cells.cells import Cells, build_cells
from kdbias.sphere.cells.check import CellCheck
from kdbias.sphere.cells.estimate import CellEstimate, judged
from kdbias.sphere.cells.far import CellMoments, Correction
from kdbias.sphere.cells.host import Found, Host, wave_rows
from kdbias.sphere.cells.job import CellJob, Estimate
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.reservoirs import require_k
from kdbias.sphere.room import room
from kdbias.sphere.vectors import require_unit_rows
from kdbias.sphere.workers import Workspace, each
from kdbias.tables import fingerprints

_ROWS = 1 << 16  # that are moved at a time
_SORTED = "by-cell"


@dataclass(frozen=True)
class WaveJob(Told):
    """The samples of an estimate, unit by unit; its files lie in the folder of all.

    Attributes:
        key: digest of what is estimated from what, in the names of its files.
        n: samples.
        rows: of a unit; step: of a wave, of which a unit has a whole number.
        bandwidths, k, near, tile: as of `estimate_pairs`.
        threads: of a unit.
    """

    folder: Path
    key: str
    n: int
    rows: int
    step: int
    bandwidths: tuple[float, ...]
    k: int
    near: float | None
    tile: int
    threads: int | None = field(default=None, compare=False)

    @property
    def plan(self) -> BlockPlan:
        """The units' runs of samples."""
        return BlockPlan(self.n, self.rows)

    @property
    def how(self) -> Estimate:
        """What is to be found."""
        return Estimate(k=self.k, near=self.near, tile=self.tile, threads=self.threads)

    def file(self, name: str) -> Path:
        """A file of its own."""
        return self.folder / f"{self.key}-{name}"

    def part(self, unit: Unit) -> Path:
        """The file of a unit."""
        return self.file(f"{unit[0]}.npz")

    def units(self) -> list[Unit]:
        """A run of samples, and the weightings, which are all seen at once."""
        return [(block, 0) for block in range(self.plan.blocks)]

    def done(self, unit: Unit) -> bool:
        """Whether the file of a unit is there."""
        return self.part(unit).exists()

    def size(self, unit: Unit) -> int:
        """Its samples."""
        run = self.plan.run(unit[0])
        return run.stop - run.start

    def do(self, units: Iterable[Unit]) -> Iterator[int]:
        """Do units and write their files; yields the size of each."""
        for unit in units:
            if not self.done(unit):
                with progress.quiet():
                    found = _seen(self, self.plan.run(unit[0]))
                write_arrays(self.part(unit), found)
            yield self.size(unit)


class _SavedJob(CellJob):
    """What `_save` has left for the units of a job."""

    def __init__(self, of: WaveJob, known: dict[str, np.ndarray]) -> None:
        self.x, self.p, self.scaled, cell, order = (
            np.load(of.folder / f"{name}.npy", mmap_mode="r") for name in _names(of.key)
        )
        self.how, self.n, self.kernels = of.how, of.n, Kernels(of.bandwidths)
        self.cells, self.spread = Cells(cell, order, known["starts"]), known["spread"]
        names = [f.name for f in fields(CellMoments)]
        moments = [
            CellMoments(*(known[f"{name}-{i}"] for name in names)) for i in range(len(known["uniform"]) + 1)
        ]
        self.natural = moments[0]
        self.weighted = [
            moments[0] if uniform else own for uniform, own in zip(known["uniform"], moments[1:], strict=True)
        ]


def _names(key: str) -> tuple[str, ...]:
    """Names of the arrays that units map: samples by cell, weights, those times n, cells, numbers."""
    return _SORTED, f"weights-{key}", f"scaled-{key}", "cell", "order"


def _save(of: WaveJob, job: CellJob, threshold: float, correction: Correction) -> None:
    """Leave for the units what they need beside the arrays that they map."""
    arrays = {"starts": job.cells.starts, "spread": job.spread, "threshold": np.array(threshold)}
    arrays |= {f.name: getattr(correction, f.name) for f in fields(Correction)}
    arrays["uniform"] = np.array([moments is job.natural for moments in job.weighted])
    for i, moments in enumerate([job.natural, *job.weighted]):
        arrays |= {f"{f.name}-{i}": getattr(moments, f.name) for f in fields(CellMoments)}
    write_arrays(of.file("job.npz"), arrays)


@lru_cache(1)
def _opened(of: WaveJob) -> tuple[Host, float, Correction]:
    known = required_arrays(of.file("job.npz"))
    correction = Correction(*(known[f.name] for f in fields(Correction)))
    return Host(_SavedJob(of, known)), float(known["threshold"]), correction


def _seen(of: WaveJob, run: slice) -> dict[str, np.ndarray]:
    """What is found of a run of samples."""
    host, threshold, correction = _opened(of)
    found, lock = _FoundOfSome(host.job, run), threading.Lock()

    def work(rows: np.ndarray, workspace: Workspace) -> None:
        pairs = host.wave(rows, threshold, correction, found, workspace)
        with lock:
            found.pairs += pairs

    starts = range(run.start, run.stop, of.step)
    each((np.arange(s, min(run.stop, s + of.step)) for s in starts), work, of.threads)
    return found.arrays()


class _Some:
    """An array of a run of samples, indexed by their numbers among all."""

    def __init__(self, array: np.ndarray, first: int) -> None:
        self.array, self.first = array, first

    def _at(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return tuple(map(self._at, key))
        return key - self.first if isinstance(key, np.ndarray) else key

    def __getitem__(self, key: Any) -> Any:
        return self.array[self._at(key)]

    def __setitem__(self, key: Any, values: Any) -> None:
        self.array[self._at(key)] = values


class _FoundOfSome(Found):
    """What is found of a run of samples, as `Host.wave` fills it in."""

    def __init__(self, job: CellJob, run: slice) -> None:
        count, first = run.stop - run.start, run.start
        shape, k = (len(job.p), len(job.kernels.bandwidths), count), job.how.k
        self._arrays = {
            "sums": np.zeros(shape),
            "errors": np.zeros(shape),
            "counts": np.zeros(count, dtype=np.int64),
            "ids": np.zeros((count, k), dtype=np.int64),
            "cosines": np.zeros((count, k), dtype=np.float32),
        }
        if k:
            require_k(job.n, k)
        wanted = {"sums", "errors"} | ({"ids", "cosines"} if k else set())
        wanted |= set() if job.how.near is None else {"counts"}
        given = {name: _Some(array, first) for name, array in self._arrays.items()}
        vars(self).update({name: some if name in wanted else None for name, some in given.items()}, pairs=0)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, (m, T, r), (r,) and (r, k), and how many pairs it took."""
        return self._arrays | {"pairs": np.array(self.pairs)}


def estimate_in_blocks(
    ground: BlockFolder,
    rows: int,
    x: np.ndarray,
    bandwidths: Sequence[float],
    weights: np.ndarray,
    how: Estimate,
) -> CellEstimate:
    """What `estimate_pairs` gives, of vectors that are mapped from a file.

    Args:
        ground: where the copy and the units' files lie, and what engine does units.
        rows: of a unit, a multiple of `wave_rows`.
        x: (n, d) float32 unit rows, mapped.
        bandwidths, weights, how: as there.

    Raises:
        KdbiasError: as there.
    """
    require_unit_rows(x)
    p, n = probabilities(len(x), weights), len(x)
    step = wave_rows(n, how.tile)
    of = [*x.shape, list(bandwidths), how.k, how.near, how.seed, how.tile]
    key = fingerprints.of_json([of, fingerprints.of_arrays(p)])[:16]
    given = (ground.folder, key, n, rows, step, tuple(map(float, bandwidths)))
    waves = WaveJob(*given, how.k, how.near, how.tile, ground.threads)
    order = _sorted(ground, x, how)
    job = _job_of(ground, waves, p, order, how)
    with ground.alive():
        check = CellCheck(Host(job))
        choice = check.choose()
    _save(waves, job, check.thresholds[choice], check.corrections[choice])
    ground.run(waves, "estimated", "samples", 1)
    # From here on by the samples' own numbers.
    job.p, check.rows = p, order[check.rows]
    found, errors, pairs = _results(waves, x, p, order)
    return judged(check, choice, found, errors, pairs)


def _sorted(ground: BlockFolder, x: np.ndarray, how: Estimate) -> np.ndarray:
    """(n,) int64 the samples cell by cell; lays out ``x`` in that order, and the cell of each."""
    file = ground.folder / "cells.npz"
    known = read_arrays(file)
    if known is None:
        with ground.alive(), progress.bar(100, "%", "finding cells") as bar:
            cells = build_cells(
                x, seed=how.seed, threads=ground.threads, progress=lambda share: bar.update(100 * share)
            )
        known = {"order": cells.order, "starts": cells.starts}
        ground.lay("cell", (len(x),), [(slice(None), cells.cell[cells.order])], "i8")
        write_arrays(file, known)
    order = known["order"]
    runs = (slice(start, start + _ROWS) for start in range(0, len(x), _ROWS))
    ground.lay(_SORTED, x.shape, ((run, x[order[run]]) for run in runs))
    ground.lay("order", (len(x),), [(slice(None), np.arange(len(x)))], "i8")
    return order


def _job_of(ground: BlockFolder, waves: WaveJob, p: np.ndarray, order: np.ndarray, how: Estimate) -> CellJob:
    """The job of the sorted copy, whose moments are taken here."""
    ground.lay(f"weights-{waves.key}", p.shape, ((row, p[row, order]) for row in range(len(p))), "f8")
    by_row = ((slice(None), (p[:, order].T * len(order)).astype(np.float32)) for _ in range(1))
    ground.lay(f"scaled-{waves.key}", p.shape[::-1], by_row)
    x, laid, _, cell, every = (
        np.load(waves.folder / f"{name}.npy", mmap_mode="r") for name in _names(waves.key)
    )
    starts = required_arrays(ground.folder / "cells.npz")["starts"]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return CellJob(x, waves.bandwidths, laid, how, cells=Cells(cell, every, starts), place=place)


def _results(
    waves: WaveJob, x: np.ndarray, p: np.ndarray, order: np.ndarray
) -> tuple[AllPairs, np.ndarray, int]:
    """What all units found, by the samples' own numbers; it lies beside the vectors ``x`` (n, d)."""
    shape = len(p), len(waves.bandwidths), waves.n
    sums, errors, counts, pairs = room(x, shape), room(x, shape), room(x, waves.n, np.int64), 0
    ids = cosines = None
    if waves.k:
        ids, cosines = (room(x, (waves.n, waves.k), kind) for kind in (np.int64, np.float32))
    for unit in waves.units():
        found, rows = required_arrays(waves.part(unit)), order[waves.plan.run(unit[0])]
        sums[:, :, rows], errors[:, :, rows] = found["sums"], found["errors"]
        counts[rows] = found["counts"]
        pairs += int(found["pairs"])
        if ids is not None and cosines is not None:
            ids[rows] = np.where(found["ids"] < 0, found["ids"], order[found["ids"]])
            cosines[rows] = found["cosines"]
    near = counts if waves.near is not None else None
    return AllPairs(list(waves.bandwidths), p, sums, ids, cosines, near), errors, pairs
