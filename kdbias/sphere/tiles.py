"""One pass over all pairs of unit vectors, in cache-sized tiles, for any number of results at once.

The matrix of cosines is symmetric, so only tiles on and above its diagonal are computed, each once; every
epilogue reads a tile while it is hot, in both directions. The product is most of the cost, so several results
out of one pass cost little more than one.

Cost: n^2 d multiply-adds over two; memory: the vectors, at most three tiles a thread and what the epilogues
keep (O(n)).
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from threadpoolctl import threadpool_limits

from kdbias.errors import KdbiasError
from kdbias.sphere.snapshots import Snapshots
from kdbias.sphere.workers import Workspace, available_threads, each

TILE = 1024


@dataclass(frozen=True)
class Tile:
    """Cosines between a run of rows and a run of columns.

    Attributes:
        rows, columns: positions of the samples, ``rows.start <= columns.start``.
        cosines: (rows, columns) float32 in [-1, 1]; read only. On a diagonal tile rows equal columns, both
            orders of a pair are present and the self-pairs lie on the tile's diagonal.
        turn: its place in the order of a traversal; None: alone. What does not commute goes by it.
    """

    rows: slice
    columns: slice
    cosines: np.ndarray
    turn: int | None = None

    @property
    def diagonal(self) -> bool:
        """Whether rows and columns are the same samples."""
        return self.rows.start == self.columns.start


@dataclass(frozen=True)
class Share:
    """That the n samples at hand are some of all, seen by one unit of several.

    Attributes:
        total: how many there are in all.
        across: as `tile_runs` takes it.
        bars: (n,) float32 cosines that a neighbour has to reach, -inf for any.
    """

    total: int
    across: int
    bars: np.ndarray


class Epilogue:
    """A result that is built from tiles of cosines.

    ``consume`` is called once for every tile, from several threads at once. A tile off the diagonal stands
    for its mirror image too, so an epilogue reads it along both axes; a diagonal tile along its rows alone.
    """

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        """Take in one tile; every pair of samples comes in one tile alone."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called once after the last tile."""

    def state(self) -> dict[str, np.ndarray]:
        """What was gathered so far, as arrays; asked for between tiles, for `Snapshots`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved")

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved")


def tile_order(n: int, tile: int) -> Iterator[tuple[int, int]]:
    """(row block, column block) of every tile: the diagonal first, then one parallel to it after the other.

    So every sample meets some neighbours at once, and early thresholds spare selection work later.
    """
    blocks = -(-n // tile)
    return ((i, i + offset) for offset in range(blocks) for i in range(blocks - offset))


def tile_runs(n: int, tile: int, across: int = 0) -> Iterator[tuple[slice, slice]]:
    """(rows, columns) of every tile, in the order of `tile_order`.

    Args:
        across: where not 0, the first ``across`` of the n samples are one run and the others another: only
            pairs between the two are shown, and no tile crosses their border.
    """
    if not across:
        for i, j in tile_order(n, tile):
            yield slice(i * tile, min(n, (i + 1) * tile)), slice(j * tile, min(n, (j + 1) * tile))
        return
    above = [slice(s, min(across, s + tile)) for s in range(0, across, tile)]
    beside = [slice(s, min(n, s + tile)) for s in range(across, n, tile)]
    # Both as parallels to the diagonal, so that neither side's samples are met twice in a row.
    for offset in range(max(len(above), len(beside))):
        for i in range(min(len(above), len(beside))):
            if len(above) <= len(beside):
                yield above[i], beside[(i + offset) % len(beside)]
            else:
                yield above[(i + offset) % len(above)], beside[i]


def tile_count(n: int, tile: int) -> int:
    """How many tiles `tile_order` gives."""
    blocks = -(-n // tile)
    return blocks * (blocks + 1) // 2


def traverse(
    x: np.ndarray,
    epilogues: Sequence[Epilogue],
    *,
    tile: int = TILE,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
    snapshots: Snapshots | None = None,
    across: int = 0,
) -> None:
    """Show every tile of the cosines of ``x`` to every epilogue.

    Args:
        x: (n, d) float32, C-contiguous, unit rows.
        epilogues: what to compute.
        tile: rows and columns of a tile.
        threads: workers; by default the CPUs of this process.
        progress: called with the number of pairs after each tile, one call at a time.
        snapshots: where to save the epilogues' state now and then, and to go on from.
        across: as `tile_runs` takes it; not with snapshots.

    Raises:
        KdbiasError: ``x`` is not a float32 matrix, or tile or threads is < 1.
    """
    if x.ndim != 2 or x.dtype != np.float32:
        raise KdbiasError(f"a traversal needs (n, d) float32 vectors, got {x.dtype} of shape {x.shape}")
    workers = available_threads() if threads is None else threads
    if tile < 1 or workers < 1:
        raise KdbiasError(f"tile and threads must be >= 1, got tile={tile}, threads={workers}")
    lock = threading.Lock()

    def work(place: tuple[int, tuple[slice, slice]], workspace: Workspace) -> None:
        done = _one_tile(x, place, epilogues, workspace)
        if progress is not None:
            with lock:
                progress(done)

    workers = min(workers, tile_count(len(x), tile))
    if snapshots is None:
        each(enumerate(tile_runs(len(x), tile, across)), work, workers)
    else:
        _in_waves(work, workers, epilogues, snapshots, progress, tile, len(x))
    for epilogue in epilogues:
        epilogue.finish()


def _in_waves(
    work: Callable[[tuple[int, tuple[slice, slice]], Workspace], None],
    workers: int,
    epilogues: Sequence[Epilogue],
    snapshots: Snapshots,
    progress: Callable[[int], object] | None,
    tile: int,
    n: int,
) -> None:
    """Do the tiles in waves; between waves no thread is at work, so that states can be saved."""
    order, count = tile_runs(n, tile), tile_count(n, tile)
    done = _restore(epilogues, snapshots)
    before = sum(pairs_of(*runs) for runs in islice(order, done))
    turns = enumerate(order)
    if progress is not None and done:
        progress(before)
    wave = workers
    while done < count:
        started = time.monotonic()
        each(islice(turns, wave), work, workers)
        done = min(count, done + wave)
        if done < count and snapshots.due():
            snapshots.save(done, [epilogue.state() for epilogue in epilogues])
        # A tenth of the time between snapshots: few barriers, and no snapshot much too late.
        seconds = max(time.monotonic() - started, 1e-3)
        wave = max(workers, min(4 * wave, int(wave * 0.1 * snapshots.every / seconds)))


def _restore(epilogues: Sequence[Epilogue], snapshots: Snapshots) -> int:
    """Take up a snapshot, if there is one, and let go of it; returns how many tiles it holds."""
    loaded = snapshots.load()
    if loaded is None:
        return 0
    done, states = loaded
    for epilogue, state in zip(epilogues, states, strict=True):
        epilogue.restore(state)
    return done


def pairs_of(rows: slice, columns: slice) -> int:
    """Ordered pairs that a tile stands for."""
    size = (rows.stop - rows.start) * (columns.stop - columns.start)
    return size if rows.start == columns.start else 2 * size


def _one_tile(
    x: np.ndarray,
    place: tuple[int, tuple[slice, slice]],
    epilogues: Sequence[Epilogue],
    workspace: Workspace,
) -> int:
    """Compute one tile and feed it to the epilogues; returns the number of (ordered) pairs it stood for."""
    turn, (rows, columns) = place
    left, right = x[rows], x[columns]
    cosines = workspace.array("cosines", (len(left), len(right)))
    np.matmul(left, right.T, out=cosines)
    np.clip(cosines, -1.0, 1.0, out=cosines)
    shown = Tile(rows, columns, cosines, turn)
    for epilogue in epilogues:
        epilogue.consume(shown, workspace)
    return pairs_of(rows, columns)


def seconds_estimate(n: int, d: int, threads: int | None = None, tile: int = TILE) -> float:
    """Expected duration of a traversal with neighbours and a few bandwidths, from timed tile products.

    Of three the quickest counts: whatever else the machine does can only slow one down.
    """
    side = min(tile, n)
    left, right = np.ones((2, side, d), dtype=np.float32)
    out = np.empty((side, side), dtype=np.float32)
    with threadpool_limits(limits=1, user_api="blas"):
        np.matmul(left, right.T, out=out)  # the first call pays for page faults
        product = math.inf
        for _ in range(3):
            started = time.perf_counter()
            np.matmul(left, right.T, out=out)
            product = min(product, time.perf_counter() - started)
    # Selection, exponentials and sums cost the same for an entry whatever the dimension.
    beside = 4e-9 * side * side
    return tile_count(n, tile) * (product + beside) / (threads or available_threads())
