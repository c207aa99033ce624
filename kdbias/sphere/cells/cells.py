"""Cells of the sphere: samples grouped around centroids, to look only where neighbours can be."""

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.tiles import TILE
from kdbias.sphere.vectors import label_sums
from kdbias.sphere.workers import Workspace, each, over_rows

_ROUNDS = 8
_SAMPLE_PER_CELL = 48
ENTRIES = 1 << 22  # of an inverted list held at once; a few arrays of that length


@dataclass(frozen=True)
class Cells:
    """A partition of n samples by their nearest centroid.

    Attributes:
        centroids: (c, d) float32 unit rows.
        cell: (n,) int64, the cell of each sample.
        order: (n,) int64, the samples cell by cell.
        starts: (c + 1,) int64, where each cell begins in ``order``.
    """

    centroids: np.ndarray
    cell: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        """Cells."""
        return len(self.centroids)

    def members(self, cell: int) -> np.ndarray:
        """Positions of the samples of one cell, ascending."""
        return self.order[self.starts[cell] : self.starts[cell + 1]]

    def nearest(self, x: np.ndarray, probes: int, threads: int | None = None) -> np.ndarray:
        """(len(x), probes), the smallest unsigned integers: the cells nearest to each row, nearest first."""
        result = np.empty((len(x), probes), dtype=np.min_scalar_type(self.count - 1))

        def block(rows: slice, workspace: Workspace) -> None:
            cosines = x[rows] @ self.centroids.T
            opposite = np.negative(cosines, out=cosines)
            top = np.argpartition(opposite, probes - 1, axis=1)[:, :probes]
            inner = np.argsort(np.take_along_axis(opposite, top, axis=1), axis=1, kind="stable")
            result[rows] = np.take_along_axis(top, inner, axis=1)

        over_rows(len(x), block, threads, _rows_against(self.count))
        return result


def build_cells(x: np.ndarray, count: int | None = None, seed: int = 0, threads: int | None = None) -> Cells:
    """Spherical k-means (Dhillon & Modha 2001) on a sample, then every sample to its nearest centroid.

    Args:
        x: (n, d) float32 unit rows.
        count: cells; by default 4 sqrt(n), which balances finding cells against searching them at 16 probes.
        seed: of the sample and the first centroids.
    """
    n = len(x)
    count = min(n, default_cells(n)) if count is None else count
    if not 1 <= count <= n:
        raise KdbiasError(f"{n:,} samples cannot form {count:,} cells")
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(n, min(n, _SAMPLE_PER_CELL * count), replace=False))
    centroids = x[sample[rng.choice(len(sample), count, replace=False)]]
    for _ in range(_ROUNDS):
        sums = label_sums(x, _assign(x, sample, centroids, threads), count, sample)
        lengths = np.linalg.norm(sums, axis=1)
        lost = lengths < 1e-6
        sums[lost], lengths[lost] = x[sample[rng.choice(len(sample), int(lost.sum()))]], 1.0
        centroids = (sums / lengths[:, None]).astype(np.float32)
    cell = _assign(x, np.arange(n), centroids, threads)
    used, cell = np.unique(cell, return_inverse=True)  # cells without members only cost
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(used) + 1))
    return Cells(np.ascontiguousarray(centroids[used]), cell.reshape(-1), order, starts)


def default_cells(n: int) -> int:
    """Cells for n samples: 4 sqrt(n)."""
    return max(1, round(4 * math.sqrt(n)))


@dataclass(frozen=True)
class CellBlock:
    """Cosines between samples that look into a cell and members of that cell.

    Attributes:
        samples, members: (r,) and (c,) positions.
        cosines: (r, c) float32 in [-1, 1].
        selves: flat positions in ``cosines`` of self-pairs.
        one_sided: (r, c) bool, pairs of which the member does not look into the sample's cell. Such a pair is
            shown this once and stands for its mirror image too.
    """

    samples: np.ndarray
    members: np.ndarray
    cosines: np.ndarray
    selves: np.ndarray
    one_sided: np.ndarray


def visit(
    x: np.ndarray,
    cells: Cells,
    probes: np.ndarray,
    consume: Callable[[CellBlock, Workspace], object],
    *,
    tile: int = TILE,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Show the cosines between each sample and all members of the cells it looks into, cell by cell.

    One product a cell serves all samples that look into it, which is several times faster than sample by
    sample. Every pair of which at least one side looks into the other's cell is shown: both ways round, or
    once as ``one_sided``.

    Args:
        x: (n, d) float32 unit rows.
        probes: (n, P) cells that each sample looks into, its own among them.
        consume: called from several threads.
        tile: most samples, and most members of a cell, in a block.
        progress: called with the number of pairs after each block.
    """
    within = np.empty(len(x), dtype=np.int64)
    within[cells.order] = np.arange(len(x)) - np.repeat(cells.starts[:-1], np.diff(cells.starts))
    lock = threading.Lock()

    looked_into = lookers(probes, cells.count)

    def blocks() -> Iterator[tuple[int, np.ndarray, int]]:
        order = np.argsort(-looked_into * np.diff(cells.starts))  # the dearest first
        cuts = np.flatnonzero(np.diff(np.cumsum(looked_into[order]) // ENTRIES)) + 1
        for some in np.split(order, cuts):
            inverted = Inverted.of(probes, cells.count, some)
            for cell in some:
                samples, _ = inverted.of_cell(cell)
                for start in range(0, len(samples), tile):
                    for first in range(0, int(cells.starts[cell + 1] - cells.starts[cell]), tile):
                        yield int(cell), samples[start : start + tile], first

    def work(block: tuple[int, np.ndarray, int], workspace: Workspace) -> None:
        cell, samples, first = block
        members = cells.members(cell)[first : first + tile]
        shape = (len(samples), len(members))
        cosines = workspace.array("cosines", shape)
        np.matmul(x[samples], x[members].T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        own = np.flatnonzero(cells.cell[samples] == cell)
        column = within[samples[own]] - first
        inside = (column >= 0) & (column < len(members))
        selves = own[inside] * len(members) + column[inside]
        looks = workspace.array("looks", (len(members), cells.count), np.bool_)
        looks.fill(False)
        np.put_along_axis(looks, probes[members], True, axis=1)
        one_sided = workspace.array("one-sided", shape, np.bool_)
        np.logical_not(looks[:, cells.cell[samples]].T, out=one_sided)
        consume(CellBlock(samples, members, cosines, selves, one_sided), workspace)
        if progress is not None:
            with lock:
                progress(cosines.size)

    each(blocks(), work, threads)


def lookers(probes: np.ndarray, count: int) -> np.ndarray:
    """(count,) how many samples look into each cell, from the (n, P) cells that each looks into."""
    return sum(
        (np.bincount(probes[rows].reshape(-1), minlength=count) for rows in _chunks(probes)),
        start=np.zeros(count, dtype=np.int64),
    )


@dataclass(frozen=True)
class Inverted:
    """Which samples look into some cells.

    Attributes:
        entries: flat positions in the (n, P) table of probes, cell by cell.
        starts: (c + 1,) where each cell begins in ``entries``.
        width: P.
    """

    entries: np.ndarray
    starts: np.ndarray
    width: int

    @classmethod
    def of(cls, probes: np.ndarray, count: int, wanted: np.ndarray) -> "Inverted":
        """From the (n, P) cells that each sample looks into, for the wanted ones among ``count`` cells."""
        mask = np.zeros(count, dtype=bool)
        mask[wanted] = True
        width = probes.shape[1]
        entries = np.concatenate(
            [np.flatnonzero(mask[probes[rows].reshape(-1)]) + rows.start * width for rows in _chunks(probes)]
        )
        cells = probes.reshape(-1)[entries]
        order = np.argsort(cells, kind="stable")
        return cls(entries[order], np.searchsorted(cells[order], np.arange(count + 1)), width)

    def of_cell(self, cell: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples that look into a wanted cell, ascending, and as their how-manieth choice (0 = nearest)."""
        entries = self.entries[self.starts[cell] : self.starts[cell + 1]]
        return entries // self.width, entries % self.width


def _chunks(probes: np.ndarray) -> Iterator[slice]:
    """Runs of rows; an index into something takes eight bytes an entry, however small its integers."""
    step = max(1, ENTRIES // probes.shape[1])
    return (slice(start, start + step) for start in range(0, len(probes), step))


def _rows_against(count: int) -> int:
    """How many rows to compare with ``count`` centroids at once: 2 MiB of cosines."""
    return max(64, (1 << 19) // count)


def _assign(x: np.ndarray, rows: np.ndarray, centroids: np.ndarray, threads: int | None) -> np.ndarray:
    """(r,) the nearest centroid of the rows (r,) of x."""
    member = np.empty(len(rows), dtype=np.int64)

    def block(part: slice, workspace: Workspace) -> None:
        member[part] = (x[rows[part]] @ centroids.T).argmax(axis=1)

    over_rows(len(rows), block, threads, _rows_against(len(centroids)))
    return member
