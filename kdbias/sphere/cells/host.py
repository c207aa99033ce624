"""An estimate's products on the CPU: samples against the moments of cells and the members of near ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kdbias.sphere.cells.far import Correction, FarBlock, FarModel
from kdbias.sphere.cells.gathering import Candidates, Entries
from kdbias.sphere.cells.job import CellJob
from kdbias.sphere.neighbors import first_threshold
from kdbias.sphere.reservoirs import Reservoirs, require_k
from kdbias.sphere.workers import Workspace

SEEN = 1 << 18  # samples x cells in a block; it is held some ten times
LOOKS = 1 << 21  # of samples into cells that are held at once
_HELD = 6  # times k: samples of the cells around its own that each sample looks at in any case
COLUMNS = 1024  # of a block of rows against all samples


class Found:
    """What an estimate has found of n samples so far.

    Attributes:
        sums, errors: (m, T, n) float64, sums of p K over all others and their standard deviations.
        pairs: looked at one by one.
        ids, cosines: (n, k) int64 and float32, the neighbours, nearest first; None without k.
        counts: (n,) others at a cosine of at least ``near``, or None.
    """

    def __init__(self, job: CellJob) -> None:
        shape = (len(job.p), len(job.kernels.bandwidths), job.n)
        self.sums, self.errors = np.zeros(shape), np.zeros(shape)
        self.pairs = 0
        self.ids: np.ndarray | None = None
        self.cosines: np.ndarray | None = None
        if job.how.k:
            require_k(job.n, job.how.k)
            self.ids = np.empty((job.n, job.how.k), dtype=np.int64)
            self.cosines = np.empty((job.n, job.how.k), dtype=np.float32)
        self.counts = np.zeros(job.n, dtype=np.int64) if job.how.near is not None else None


@dataclass(frozen=True)
class ExactRows:
    """What r samples see of every cell.

    Attributes:
        by_cell: (m, T, r, c) float64, sums of p K over the members of each cell, self left out.
        ids, cosines: (r, k) the nearest others; None without k.
    """

    by_cell: np.ndarray
    ids: np.ndarray | None
    cosines: np.ndarray | None


class Host:
    """The work on the CPU; threads may call it at once for different rows.

    Args:
        job: what is estimated.
    """

    def __init__(self, job: CellJob) -> None:
        self.job = job
        # A tight cell's mean says all of a sum, and yet its members are neighbours.
        self.around = around(job.natural.means, job.cells.sizes, job.how.k)
        self.far = self._far()
        self.tile = job.how.tile
        self.threads = job.how.threads

    def _far(self) -> FarModel:
        job = self.job
        return FarModel(job.natural, job.weighted, job.spread, job.kernels.bandwidths)

    @property
    def rows_seen(self) -> int:
        """Rows that see all cells at once."""
        return max(64, SEEN // self.job.cells.count)

    @property
    def wave_rows(self) -> int:
        """How many samples are a wave."""
        return wave_rows(self.job.n, self.tile)

    @property
    def looks(self) -> int:
        """How many looks of samples into cells are held at once."""
        return LOOKS

    def rows_at_once(self, members: int) -> int:
        """Rows that look into so many members of a cell at once."""
        return self.tile

    def vectors(self, rows: np.ndarray) -> Any:
        """(r, d) float32, an array of the far model's."""
        return self.job.x[rows]

    def urgency(self, rows: np.ndarray, workspace: Workspace) -> np.ndarray:
        """(r, c) of `FarModel.urgency`, the cells that are looked into in any case at infinity; scratch."""
        found = self.far.urgency(self.vectors(rows), workspace)
        found[np.arange(len(rows))[:, None], self.around[self.job.cells.cell[rows]]] = np.inf
        return found

    def look(self, rows: np.ndarray, thresholds: Sequence[float], workspace: Workspace) -> FarBlock:
        """What rows (r,) see from afar, cells of at least that urgency left out."""
        always = self.around[self.job.cells.cell[rows]]
        return self.far.block(self.vectors(rows), always, thresholds, workspace)

    def wave(
        self, rows: np.ndarray, threshold: float, correction: Correction, found: Found, workspace: Workspace
    ) -> int:
        """Do some rows, which stand cell by cell: all that is found of them; returns how many pairs."""
        job, far, first, pairs = self.job, [], 0, 0
        entries = self.entries()
        for start in range(0, len(rows), self.rows_seen):
            stop = min(start + self.rows_seen, len(rows))
            some = rows[start:stop]
            block = Host.look(self, some, [threshold], workspace)  # a device's has its memory from the wave
            far.append(correction.far(block.features[0]))
            found.errors[:, :, some] = block.errors[0] / job.n
            entries.add(start - first, block.near[0], self.around[job.cells.cell[some]])
            if entries.size < self.looks and stop < len(rows):
                continue
            sums, looked_at = self._near(rows[first:stop], entries, found, workspace)
            sums *= job.kernels.factors[:, None]
            found.sums[:, :, rows[first:stop]] = (
                sums.transpose(2, 1, 0) + np.concatenate(far, axis=2)
            ) / job.n
            entries, far, first, pairs = self.entries(), [], stop, pairs + looked_at
        return pairs

    def entries(self) -> Any:
        """Of the rows of a wave, which look into which cells."""
        return Entries(self.job.cells.count)

    def _near(
        self, rows: np.ndarray, entries: Any, found: Found, workspace: Workspace
    ) -> tuple[np.ndarray, int]:
        """(r, T, m) kernel sums over near cells, up to factors, and how many pairs they took."""
        job, pairs, k = self.job, 0, self.job.how.k
        candidates = Candidates(len(rows), k, job.n) if k else None
        x, sums = job.x[rows], np.zeros((len(rows), len(job.kernels.bandwidths), len(job.p)))
        for members, places, own in self._pieces(rows, entries):
            cosines = workspace.array("cosines", (len(places), len(members)))
            left = workspace.array("rows", (len(places), x.shape[1]))
            # In fresh memory this copy takes longer than the product.
            np.take(x, places, axis=0, out=left, mode="clip")
            np.matmul(left, job.x[members].T, out=cosines)
            np.clip(cosines, -1.0, 1.0, out=cosines)
            selves = None
            if own is not None:
                at = np.flatnonzero((own >= 0) & (own < len(members)))
                selves = at * len(members) + own[at]
            weights, part = job.scaled[members], np.empty((len(places), *sums.shape[1:]), dtype=np.float32)
            for index, kernel in job.kernels.each(cosines, workspace, selves):
                part[:, index] = kernel @ weights
            sums[places] += part
            if found.counts is not None:
                self._count(rows[places], cosines, selves, found.counts, workspace)
            if candidates is not None:
                self._select(places, members, cosines, selves, candidates, workspace)
            pairs += cosines.size
        if candidates is not None and found.ids is not None and found.cosines is not None:
            found.ids[rows], found.cosines[rows] = candidates.best()
        return sums, pairs

    def _pieces(
        self, rows: np.ndarray, entries: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """(members, places of rows, where the rows stand among the members): their own surroundings first.

        So every sample meets most of its neighbours at once, and early thresholds spare selection work later.
        """
        cells, tile = self.job.cells, self.tile
        few, own = members_at_once(tile), cells.cell[rows]
        for a, b in pairwise(np.flatnonzero(np.diff(own, prepend=-1, append=-1)).tolist()):
            members = np.concatenate([cells.members(cell) for cell in dict.fromkeys(self.around[own[a]])])
            stands = np.searchsorted(cells.members(own[a]), rows[a:b])
            for start in range(a, b, few):
                places = np.arange(start, min(start + few, b))
                for first in range(0, len(members), tile):
                    yield members[first : first + tile], places, stands[places - a] - first
        for cell, places in entries.each():
            members = cells.members(cell)
            most = self.rows_at_once(min(len(members), few))
            for start in range(0, len(places), most):
                for first in range(0, len(members), few):
                    yield members[first : first + few], places[start : start + most], None

    def _count(
        self,
        samples: np.ndarray,
        cosines: np.ndarray,
        selves: np.ndarray | None,
        counts: np.ndarray,
        workspace: Workspace,
    ) -> None:
        """Count near duplicates of samples (r,) by their cosines with others (r, c)."""
        near = self.job.how.near
        if near is not None and cosines.max(initial=-1) >= near:
            reached = _at_least(cosines, np.float32(near), selves, workspace)
            counts[samples] += np.count_nonzero(reached, axis=1)

    def _select(
        self,
        places: np.ndarray,
        members: np.ndarray,
        cosines: np.ndarray,
        selves: np.ndarray | None,
        candidates: Candidates,
        workspace: Workspace,
    ) -> None:
        """Keep the cosines (r, c) that are among the k largest of rows at places (r,)."""
        threshold, k = candidates.reservoirs.threshold, self.job.how.k
        if selves is not None and cosines.shape[1] > k + 1:
            threshold[places] = np.maximum(threshold[places], first_threshold(cosines, k, workspace))
        reached = _at_least(cosines, threshold[places, None], selves, workspace)
        candidates.add(places, members, cosines, np.flatnonzero(reached))

    def exact(self, rows: np.ndarray, workspace: Workspace) -> ExactRows:
        """Some samples (r,) against all others."""
        job, cells = self.job, self.job.cells
        by_cell = np.zeros((len(job.kernels.bandwidths), len(job.p), len(rows), cells.count))
        best = Reservoirs(len(rows), job.how.k, job.n) if job.how.k else None
        for columns, cosines, selves in against_all(job.x, rows, workspace, cells.order):
            if best is not None:
                offer_others(best, columns, cosines, selves, workspace)
            first, last = cells.cell[columns[[0, -1]]]
            begins = np.searchsorted(cells.cell[columns], np.arange(first, last + 1))
            for index, kernel in job.kernels.each(cosines, workspace, selves):
                for total, weight in zip(by_cell[index], job.scaled[columns].T, strict=True):
                    total[:, first : last + 1] += np.add.reduceat(kernel * weight, begins, axis=1)
        by_cell *= job.kernels.factors[:, None, None, None] / job.n
        return ExactRows(by_cell.swapaxes(0, 1), *((None, None) if best is None else best.best()))


def _at_least(
    cosines: np.ndarray, least: np.ndarray | np.float32, selves: np.ndarray | None, workspace: Workspace
) -> np.ndarray:
    """(r, c) bool, which cosines reach a bound; never those at the flat positions ``selves``. Scratch."""
    reached = workspace.array("reached", cosines.shape, np.bool_)
    np.greater_equal(cosines, least, out=reached)
    if selves is not None:
        reached.reshape(-1)[selves] = False
    return reached


def around(means: np.ndarray, sizes: np.ndarray, k: int) -> np.ndarray:
    """(c, w) cells of which a cell's members look at all, for the sake of k neighbours.

    Each cell itself comes first, then those whose means (c, d) are nearest to its mean, until they hold
    ``_HELD`` times k samples, by their sizes (c,), or are twice k; then the cell itself again.
    """
    count, few = len(means), min(len(means), max(2 * k, 1))
    found = np.empty((count, few), dtype=np.int64)
    for start in range(0, count, COLUMNS):
        own = np.arange(start, min(count, start + COLUMNS))
        cosines = means[own] @ means.T
        cosines[own - start, own] = np.inf
        nearest = np.argpartition(cosines, -few, axis=1)[:, -few:]
        order = np.argsort(-np.take_along_axis(cosines, nearest, axis=1), axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, order, axis=1)
        before = sizes[nearest].cumsum(axis=1) - sizes[nearest]
        found[own] = np.where(before < _HELD * max(k, 1), nearest, own[:, None])
        found[own, 0] = own
    return found[:, : 1 + int((found != found[:, :1]).sum(axis=1).max())]


def wave_rows(n: int, tile: int) -> int:
    """How many samples are done together: the same on any number of threads, so that sums are, too."""
    return min(max(tile, n // 4), 16 * tile)


def members_at_once(tile: int) -> int:
    """Members of a cell in a block, most cells have fewer; or rows of one cell."""
    return max(1, tile // 4)


def exact_cosines(x: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """(q, k) float32 cosines of some samples (q,) to their k nearest others, descending."""
    best, workspace = Reservoirs(len(rows), k, len(x)), Workspace()
    for columns, cosines, selves in against_all(x, rows, workspace):
        offer_others(best, columns, cosines, selves, workspace)
    return best.best()[1]


def against_all(
    x: np.ndarray, rows: np.ndarray, workspace: Workspace, order: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Some samples, the cosines of the rows (r,) with them, and the flat positions of self-pairs therein.

    Args:
        order: (n,) in which the samples come; by default ascending.
    """
    left, order = x[rows], np.arange(len(x)) if order is None else order
    place = np.empty(len(x), dtype=np.int64)
    place[order] = np.arange(len(x))
    for start in range(0, len(x), COLUMNS):
        columns = order[start : start + COLUMNS]
        cosines = workspace.array("cosines", (len(rows), len(columns)))
        right = np.take(
            x, columns, axis=0, out=workspace.array("rows", (len(columns), x.shape[1])), mode="clip"
        )
        np.matmul(left, right.T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        stands = place[rows] - start
        inside = np.flatnonzero((stands >= 0) & (stands < len(columns)))
        yield columns, cosines, inside * len(columns) + stands[inside]


def offer_others(
    best: Reservoirs, columns: np.ndarray, cosines: np.ndarray, selves: np.ndarray, workspace: Workspace
) -> None:
    """Offer samples (c,) at these cosines (r, c) to all r reservoirs."""
    reached = _at_least(cosines, best.threshold[:, None], selves, workspace)
    best.offer(np.arange(len(cosines)), columns, cosines, np.flatnonzero(reached), False)
