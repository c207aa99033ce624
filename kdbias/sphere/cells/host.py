"""An estimate's products on the CPU: samples against the moments of cells and the members of near ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kdbias.sphere.cells.far import Correction, FarBlock, FarModel
from kdbias.sphere.cells.job import CellJob
from kdbias.sphere.neighbors import first_threshold
from kdbias.sphere.reservoirs import Reservoirs, pack
from kdbias.sphere.workers import Workspace

SEEN = 1 << 18  # samples x cells in a block; it is held some ten times
_HANDED_OVER = 1 << 14  # candidates
_HELD = 6  # times k: samples that the cells of nearest means hold, which are always looked at
COLUMNS = 1024  # of a block of rows against all samples


class Found:
    """What an estimate has found of n samples so far.

    Attributes:
        sums, errors: (m, T, n) float64, sums of p K over all others and their standard deviations.
        pairs: looked at one by one.
        reservoirs: of neighbours, None where none are wanted.
        counts: (n,) others at a cosine of at least ``near``, or None.
    """

    def __init__(self, job: CellJob) -> None:
        shape = (len(job.p), len(job.kernels.bandwidths), job.n)
        self.sums, self.errors = np.zeros(shape), np.zeros(shape)
        self.pairs = 0
        self.reservoirs = Reservoirs(job.n, job.how.k) if job.how.k else None
        self.counts = np.zeros(job.n, dtype=np.int64) if job.how.near is not None else None

    def best(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The neighbours: (n, k) int64 positions and float32 cosines, nearest first; None without k."""
        return (None, None) if self.reservoirs is None else self.reservoirs.best()


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


class Entries:
    """Which of some rows look into which of ``count`` cells."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._rows: list[np.ndarray] = [np.empty(0, np.int32)]
        self._cells: list[np.ndarray] = [np.empty(0, np.min_scalar_type(count))]

    def add(self, start: int, looks: np.ndarray) -> None:
        """A block of rows that begins at ``start``: looks (r, count) bool."""
        places, cells = np.divmod(np.flatnonzero(looks), self.count)
        self._rows.append((places + start).astype(np.int32))
        self._cells.append(cells.astype(self._cells[0].dtype))

    def each(self) -> Iterator[tuple[int, np.ndarray]]:
        """Every cell that is looked into, and the places of the rows that do."""
        cells = np.concatenate(self._cells)
        order = np.argsort(cells, kind="stable")  # small integers are sorted by radix
        rows, cells = np.concatenate(self._rows)[order], cells[order]
        starts = np.searchsorted(cells, np.arange(self.count + 1))
        for cell in np.flatnonzero(np.diff(starts)):
            yield int(cell), rows[starts[cell] : starts[cell + 1]]


class Candidates:
    """Candidates for the neighbours of some rows, handed over many at a time: a call is dear."""

    def __init__(self, rows: np.ndarray, reservoirs: Reservoirs | None) -> None:
        self.rows, self.reservoirs = rows, reservoirs
        self._places: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._count = 0

    def add(self, places: np.ndarray, ids: np.ndarray, cosines: np.ndarray, flat: np.ndarray) -> None:
        """Samples ``ids`` (c,) as candidates of rows at ``places`` (r,), where ``flat`` says in (r, c)."""
        across, down = np.divmod(flat, len(ids))
        self._places.append(places[across])
        self._keys.append(pack(cosines.reshape(-1)[flat], ids[down]))
        self._count += len(flat)
        if self._count >= _HANDED_OVER:
            self.hand_over()

    def hand_over(self) -> None:
        """Offer what has gathered to the reservoirs."""
        if self.reservoirs is not None and self._count:
            self.reservoirs.offer_keys(self.rows, np.concatenate(self._places), np.concatenate(self._keys))
        self._places, self._keys, self._count = [], [], 0


class Host:
    """The work on the CPU; threads may call it at once for different rows.

    Args:
        job: what is estimated.
    """

    def __init__(self, job: CellJob) -> None:
        self.job = job
        wanted = math.ceil(_HELD * (job.how.k or 0) * job.cells.count / job.n)
        nearest = min(wanted, job.cells.count)
        self.far = FarModel(job.natural, job.weighted, job.spread, job.kernels.bandwidths, nearest)
        self.rows_seen = max(64, SEEN // job.cells.count)
        self.check_threads = self.wave_threads = job.how.threads

    def urgency(self, rows: np.ndarray) -> np.ndarray:
        """(r, c) of `FarModel.urgency`, the own cells at infinity."""
        found = self.far.urgency(self.job.x[rows])
        found[np.arange(len(rows)), self.job.cells.cell[rows]] = np.inf
        return found

    def look(self, rows: np.ndarray, thresholds: Sequence[float]) -> FarBlock:
        """What rows (r,) see from afar, cells of at least that urgency left out."""
        return self.far.block(self.job.x[rows], self.job.cells.cell[rows], thresholds)

    def wave(
        self, rows: np.ndarray, threshold: float, correction: Correction, found: Found, workspace: Workspace
    ) -> int:
        """Do some rows, which stand cell by cell: all that is found of them; returns how many pairs."""
        job, far = self.job, []
        entries = Entries(job.cells.count)
        for start in range(0, len(rows), self.rows_seen):
            some = rows[start : start + self.rows_seen]
            block = self.look(some, [threshold])
            far.append(correction.far(block.features[0]))
            found.errors[:, :, some] = block.errors[0] / job.n
            near = block.near[0]
            near[np.arange(len(some)), job.cells.cell[some]] = False
            entries.add(start, near)
        sums, pairs = self._near(rows, entries, found, workspace)
        sums *= job.kernels.factors[:, None, None]
        found.sums[:, :, rows] = (sums.transpose(2, 0, 1) + np.concatenate(far, axis=2)) / job.n
        return pairs

    def _near(
        self, rows: np.ndarray, entries: Entries, found: Found, workspace: Workspace
    ) -> tuple[np.ndarray, int]:
        """(T, r, m) kernel sums over near cells, up to factors, and how many pairs they took."""
        job, pairs, candidates = self.job, 0, Candidates(rows, found.reservoirs)
        x, sums = job.x[rows], np.zeros((len(job.kernels.bandwidths), len(rows), len(job.p)))
        for cell, places, first, own in self._pieces(rows, entries):
            members = job.cells.members(cell)[first : first + members_at_once(job.how.tile)]
            cosines = workspace.array("cosines", (len(places), len(members)))
            np.matmul(x[places], job.x[members].T, out=cosines)
            np.clip(cosines, -1.0, 1.0, out=cosines)
            selves = None
            if own is not None:
                at = np.flatnonzero((own >= first) & (own < first + len(members)))
                selves = at * len(members) + own[at] - first
            weights, part = job.scaled[members], np.empty((len(sums), len(places), len(job.p)))
            for index, kernel in job.kernels.each(cosines, workspace, selves):
                part[index] = kernel @ weights
            sums[:, places] += part
            self._select(rows, places, members, cosines, selves, found, candidates, workspace)
            pairs += cosines.size
        candidates.hand_over()
        return sums, pairs

    def _pieces(
        self, rows: np.ndarray, entries: Entries
    ) -> Iterator[tuple[int, np.ndarray, int, np.ndarray | None]]:
        """(cell, places of rows, first member, where the rows stand in it): own cells first.

        So every sample meets near others at once, and early thresholds spare selection work later.
        """
        cells, tile = self.job.cells, self.job.how.tile
        width = members_at_once(tile)
        own, sizes = cells.cell[rows], cells.sizes
        edges = np.flatnonzero(np.diff(own, prepend=-1, append=-1))
        for a, b in pairwise(edges):
            cell = int(own[a])
            stands = np.searchsorted(cells.members(cell), rows[a:b])
            for start in range(0, b - a, tile):
                places = np.arange(a + start, min(a + start + tile, b))
                for first in range(0, int(sizes[cell]), width):
                    yield cell, places, first, stands[start : start + tile]
        for cell, places in entries.each():
            for start in range(0, len(places), tile):
                for first in range(0, int(sizes[cell]), width):
                    yield cell, places[start : start + tile], first, None

    def _select(
        self,
        rows: np.ndarray,
        places: np.ndarray,
        members: np.ndarray,
        cosines: np.ndarray,
        selves: np.ndarray | None,
        found: Found,
        candidates: "Candidates",
        workspace: Workspace,
    ) -> None:
        """Count near duplicates, and keep the cosines that are among a sample's k largest."""
        job, near, samples = self.job, self.job.how.near, rows[places]
        reached = workspace.array("reached", cosines.shape, np.bool_)

        def at_least(least: np.ndarray | np.float32) -> None:
            np.greater_equal(cosines, least, out=reached)
            if selves is not None:
                reached.reshape(-1)[selves] = False

        if found.counts is not None and near is not None and cosines.max(initial=-1) >= near:
            at_least(np.float32(near))
            found.counts[samples] += np.count_nonzero(reached, axis=1)
        if found.reservoirs is not None:
            if selves is not None and cosines.shape[1] > job.how.k + 1:
                found.reservoirs.threshold[samples] = first_threshold(cosines, job.how.k, workspace)
            at_least(found.reservoirs.threshold[samples, None])
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


def members_at_once(tile: int) -> int:
    """Members of a cell in a block: most cells have fewer."""
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
        np.matmul(left, x[columns].T, out=cosines)
        np.clip(cosines, -1.0, 1.0, out=cosines)
        stands = place[rows] - start
        inside = np.flatnonzero((stands >= 0) & (stands < len(columns)))
        yield columns, cosines, inside * len(columns) + stands[inside]


def offer_others(
    best: Reservoirs, columns: np.ndarray, cosines: np.ndarray, selves: np.ndarray, workspace: Workspace
) -> None:
    """Offer samples (c,) at these cosines (r, c) to all r reservoirs."""
    reached = workspace.array("reached", cosines.shape, np.bool_)
    np.greater_equal(cosines, best.threshold[:, None], out=reached)
    reached.reshape(-1)[selves] = False
    best.offer(np.arange(len(cosines)), columns, cosines, np.flatnonzero(reached), False)
