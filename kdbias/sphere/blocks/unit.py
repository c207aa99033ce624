"""The units of a pass in blocks: a pair of blocks seen, and a block's partial results reduced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from kdbias.errors import MachineError
from kdbias.sphere.blocks.arrays import read_arrays, required_arrays, write_arrays
from kdbias.sphere.blocks.plan import BlockPlan
from kdbias.sphere.duplicates import RadiusCounts
from kdbias.sphere.neighbors import Neighbors
from kdbias.sphere.potentials import Potentials
from kdbias.sphere.reservoirs import EMPTY, largest, merge_largest, pack, unpack
from kdbias.sphere.tiles import Epilogue, Share, traverse
from kdbias.tables.files import remove

PairUnit = tuple[int, int, int]  # wave, i, j
ReduceUnit = tuple[int, int]  # wave, block
JOB = "job.json"
"""What a job is, in its folder: without it what lies there belongs to none."""


@dataclass(frozen=True)
class PairJob:
    """A pass over all pairs in blocks, as any process can do its units.

    Attributes:
        folder: of the partial files, with ``vectors`` (n, d) float32 and ``weights`` (m, n) float64 (.npy).
        key: digest of what is computed from what; it stands in the names of the files.
        n, rows: samples, and those of a block.
        bandwidths, k, near: as `all_pairs` takes them.
        device, precision, threads: how this process computes.
    """

    folder: Path
    key: str
    vectors: str
    weights: str
    n: int
    rows: int
    bandwidths: tuple[float, ...]
    k: int
    near: float | None
    precision: str = "float32"
    device: str = field(default="cpu", compare=False)
    threads: int | None = field(default=None, compare=False)

    @cached_property
    def plan(self) -> BlockPlan:
        """The blocks."""
        return BlockPlan(self.n, self.rows)

    def array(self, name: str) -> np.ndarray:
        """An array that lies in the folder, mapped."""
        return np.load(self.folder / name, mmap_mode="r")

    def share(self, wave: int, block: int, other: int) -> Path:
        """The file of what a block got in a wave from its pairs with another."""
        return self.folder / f"{self.key}-{wave}-{block}-{other}.npz"

    def state(self, wave: int, block: int) -> Path:
        """The file of all that a block has got up to a wave."""
        return self.folder / f"{self.key}-{wave}-{block}.npz"

    def latest(self, block: int, before: int) -> Path | None:
        """A block's newest state of an earlier wave; None where there is none."""
        states = (self.state(wave, block) for wave in reversed(range(before)))
        return next((state for state in states if state.exists()), None)

    def reduced(self, unit: ReduceUnit) -> bool:
        """Whether a block has a state that holds a wave."""
        wave, block = unit
        return any(self.state(later, block).exists() for later in range(wave, self.plan.waves))

    def seen(self, unit: PairUnit) -> bool:
        """Whether the results of a pair of blocks are there."""
        wave, i, j = unit
        return all(
            self.share(wave, block, other).exists() or self.reduced((wave, block))
            for block, other in {(i, j), (j, i)}
        )


def pair_units(
    job: PairJob, items: Iterable[PairUnit], progress: Callable[[int], object] | None = None
) -> Iterator[int]:
    """See pairs of blocks and write what they give; yields the ordered pairs of rows of each."""
    for wave, i, j in items:
        if not job.seen((wave, i, j)):
            _see(job, wave, i, j, progress)
        yield job.plan.pairs(i, j)


def _see(job: PairJob, wave: int, i: int, j: int, progress: Callable[[int], object] | None) -> None:
    blocks = [i] if i == j else [i, j]
    runs = [job.plan.run(block) for block in blocks]
    vectors, weights = job.array(job.vectors), job.array(job.weights)
    x = np.concatenate([vectors[run] for run in runs])
    p = np.concatenate([weights[:, run] for run in runs], axis=1)
    positions = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    bars = np.full(len(x), EMPTY)
    if wave and job.k:
        bars = np.concatenate([read_state(job, block, wave)["keys"].min(axis=1) for block in blocks])
    across = 0 if i == j else runs[0].stop - runs[0].start
    see = _on_cpu if job.device == "cpu" else _on_device
    sums, keys, counts = see(job, x, p, positions, bars, across, progress)
    for block, other, part in (
        [(i, i, slice(None))] if i == j else [(i, j, slice(0, across)), (j, i, slice(across, None))]
    ):
        # Those that are no better than the k best so far are of no use.
        wanted = keys[part] > bars[part, None]
        arrays = {"sums": sums[:, :, part], "lengths": wanted.sum(axis=1), "keys": keys[part][wanted]}
        write_arrays(job.share(wave, block, other), arrays | {"counts": counts[part]})


def _on_cpu(
    job: PairJob,
    x: np.ndarray,
    p: np.ndarray,
    positions: np.ndarray,
    bars: np.ndarray,
    across: int,
    progress: Callable[[int], object] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums (m, T, r) float64, keys (r, k) of the nearest, counts (r,) of r rows x (r, d)."""
    n = len(x)
    potentials = Potentials(n, job.bandwidths, p, job.n) if job.bandwidths else None
    nearest = _Candidates(n, job.k, positions, job.n) if job.k else None
    within = RadiusCounts(n, job.near) if job.near is not None else None
    if nearest is not None:
        nearest.require(bars)
    epilogues: list[Epilogue] = [e for e in (potentials, nearest, within) if e is not None]
    traverse(x, epilogues, threads=job.threads, progress=progress, across=across)
    return (
        potentials.without_self if potentials else np.empty((len(p), 0, n)),
        nearest.keys if nearest else np.empty((n, 0), np.int64),
        within.counts if within else np.zeros(n, np.int64),
    )


class _Candidates(Neighbors):
    """Neighbours as keys, (n, k) int64 in any order."""

    keys: np.ndarray

    def require(self, bars: np.ndarray) -> None:
        """Take only what reaches the cosines of keys (n,); `EMPTY`: all."""
        self._reservoirs.threshold[:] = np.where(bars == EMPTY, -np.inf, unpack(bars)[0])

    def finish(self) -> None:
        """Cut what was kept to k keys a sample."""
        self.keys = largest(self._reservoirs.keys, self.k)


def _on_device(
    job: PairJob,
    x: np.ndarray,
    p: np.ndarray,
    positions: np.ndarray,
    bars: np.ndarray,
    across: int,
    progress: Callable[[int], object] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`_on_cpu` on a torch device."""
    from kdbias.sphere.torch_pairs import torch_pairs

    cosines = np.where(bars == EMPTY, np.float32(-np.inf), unpack(bars)[0])
    share = Share(job.n, across, cosines)
    how = job.near, job.device, job.precision, None, progress, share
    sums, (ids, found), counts = torch_pairs(x, job.bandwidths, p, job.k, *how)
    keys = np.empty((len(x), 0), np.int64)
    if ids is not None and found is not None:
        there = found >= -1  # where there is none, it is NaN
        keys = np.full(ids.shape, EMPTY)
        keys[there] = pack(found[there], positions[ids[there]])
    return sums, keys, np.zeros(len(x), np.int64) if counts is None else counts


def reduce_units(job: PairJob, items: Iterable[ReduceUnit]) -> Iterator[int]:
    """Add up what blocks got in a wave, in one order, and remove the files that this replaces; yields 0."""
    for wave, block in items:
        if not job.reduced((wave, block)):
            _reduce(job, wave, block)
        yield 0


def _reduce(job: PairJob, wave: int, block: int) -> None:
    shares = [job.share(wave, block, other) for other in job.plan.met(wave, block)]
    before = job.latest(block, wave)
    try:
        state = read_state(job, block, wave) if wave else None
        for share in shares:
            found = required_arrays(share)
            state = found | {"keys": _padded(found, job.k)} if state is None else _added(state, found, job.k)
    except MachineError:
        if job.reduced((wave, block)):
            return  # another process has done this, and removed what it is of
        raise
    assert state is not None
    write_arrays(job.state(wave, block), {name: state[name] for name in ("sums", "keys", "counts")})
    for file in [*shares, *([before] if before is not None else [])]:
        remove(file)


def _added(state: dict[str, np.ndarray], found: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    state["sums"] += found["sums"]
    state["counts"] += found["counts"]
    if k:
        merge_largest(state["keys"], found["keys"], found["lengths"])
    return state


def _padded(found: dict[str, np.ndarray], k: int) -> np.ndarray:
    """The candidates of a share as keys (r, k), `EMPTY` behind."""
    keys = np.full((len(found["lengths"]), k), EMPTY)
    keys[np.arange(k) < found["lengths"][:, None]] = found["keys"]
    return keys


def read_state(job: PairJob, block: int, before: int) -> dict[str, np.ndarray]:
    """The arrays of a block's newest state of an earlier wave.

    Raises:
        MachineError: there is none. What it was made of is gone, too, so that the pass begins anew.
    """
    file = job.latest(block, before)
    arrays = read_arrays(file) if file is not None else None
    if arrays is None:
        if file is not None and not file.exists():
            return read_state(job, block, before)  # another process has put a newer one in its place
        with contextlib.suppress(OSError):
            remove(job.folder / JOB)
        raise MachineError(
            f"{job.folder} lost a file of the pass, or holds a damaged one; run the same command again, "
            "which begins the pass anew"
        )
    return arrays
