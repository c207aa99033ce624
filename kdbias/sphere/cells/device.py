"""An estimate's products on a torch device: the steps of `host`, on tensors.

Everything is added up in an order that is always the same, so a run gives the same bits again: rows of a
block are distinct, and what a cell's members add up to is a product with which of them are in it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch

from kdbias.sphere import triton_pairs, triton_tiles
from kdbias.sphere.cells.device_rows import DeviceRows, in_memory
from kdbias.sphere.cells.estimate import estimate_bytes
from kdbias.sphere.cells.far import CellMoments, Correction, FarBlock, FarModel
from kdbias.sphere.cells.host import ExactRows, Found, Host
from kdbias.sphere.cells.job import CellJob
from kdbias.sphere.kernels import LARGEST_FLOAT32_BANDWIDTH
from kdbias.sphere.reservoirs import EMPTY, nearest_first
from kdbias.sphere.torch_pairs import each_kernel, nearest_keys
from kdbias.sphere.workers import Workspace

Result = TypeVar("Result")
_SELF = -3.0  # a cosine that is none
_LOOK_BYTES = 24  # of a row and a cell that it looks into, while they are sorted
_TILE_BYTES = 12  # of a tile's square: blocks of cosines, of rows and cells, and what they become
_WAVES = 4  # at least, so that there is something to show
_FEW = 64  # members: with fewer, the rows that look at them take more memory than their cosines
_PART_FREE = 0.5  # of the device's memory


class Device(Host):
    """The work of `Host` on a torch device, in one thread.

    Where it runs out of memory the tile is halved, and what was begun is done anew with it.

    Args:
        job: what is estimated; its tile is the side of a block of cosines, see `device_tile`.
    """

    def __init__(self, job: CellJob) -> None:
        assert isinstance(job.rows, DeviceRows)
        self.there, self.device = job.rows, job.rows.device
        super().__init__(job)
        self.threads, self.first_tile = 1, self.tile
        self.scratch = _Scratch(self.device)
        self.order, self.cell = self.put(job.cells.order), self.put(job.cells.cell)
        narrow = self.put(job.scaled)
        self.weights = {torch.float32: narrow}
        if max(job.kernels.bandwidths) > LARGEST_FLOAT32_BANDWIDTH:
            self.weights[torch.float64] = narrow.double()
        self.budget = free_bytes(self.device)

    def put(self, array: np.ndarray) -> torch.Tensor:
        """An array's copy on the device."""
        return self.there.put(array)

    def _far(self) -> FarModel:
        return DeviceFar(self.job, self.device)

    @property
    def rows_seen(self) -> int:
        """Rows that see all cells at once."""
        return max(64, self.tile**2 // (8 * self.job.cells.count))

    @property
    def wave_rows(self) -> int:
        """As many as the device holds: the more, the fewer launches."""
        job = self.job
        numbers = 16 * len(job.p) * len(job.kernels.bandwidths) + 24 * job.how.k + 16
        return max(self.tile, min(-(-job.n // _WAVES), self.budget // (2 * numbers)))

    @property
    def looks(self) -> int:
        """As many as the device holds."""
        return self.budget // (2 * _LOOK_BYTES)

    def rows_at_once(self, members: int) -> int:
        """Rows that look into so many members of a cell at once: a launch costs what many rows do."""
        return max(self.tile, self.tile**2 // (4 * max(members, _FEW)))

    def vectors(self, rows: np.ndarray) -> Any:
        """(r, d) float32."""
        return self.there.vectors(rows)

    def entries(self) -> Any:
        """Of the rows of a wave, which look into which cells."""
        return _Entries(self.job.cells.count)

    def urgency(self, rows: np.ndarray, workspace: Workspace) -> np.ndarray:
        """As of `Host.urgency`."""
        return self._in_memory(lambda: Host.urgency(self, rows, self.scratch))

    def look(self, rows: np.ndarray, thresholds: Sequence[float], workspace: Workspace) -> FarBlock:
        """As of `Host.look`."""
        return self._in_memory(lambda: Host.look(self, rows, thresholds, self.scratch))

    def exact(self, rows: np.ndarray, workspace: Workspace) -> ExactRows:
        """As of `Host.exact`."""
        return self._in_memory(lambda: self._exact(rows))

    def wave(
        self, rows: np.ndarray, threshold: float, correction: Correction, found: Found, workspace: Workspace
    ) -> int:
        """As of `Host.wave`; in parts, where the tile has been halved."""

        def work() -> int:
            step = -(-len(rows) * self.tile // self.first_tile)
            parts = (rows[start : start + step] for start in range(0, len(rows), step))
            return sum(Host.wave(self, part, threshold, correction, found, self.scratch) for part in parts)

        return self._in_memory(work)

    def _in_memory(self, work: Callable[[], Result]) -> Result:
        """What ``work`` gives, by smaller tiles where the device has no memory."""

        def attempt(tile: int) -> Result:
            self.tile = tile
            return work()

        return in_memory(attempt, self.tile, self.device)

    def _near(
        self, rows: np.ndarray, entries: Any, found: Found, workspace: Workspace
    ) -> tuple[np.ndarray, int]:
        """As of `Host._near`."""
        wave = _Wave(self, rows)
        for members, places, own in self._pieces(rows, entries):
            selves = None
            if own is not None:
                at = np.flatnonzero((own >= 0) & (own < len(members)))
                selves = self.put(at * len(members) + own[at])
            there = places if isinstance(places, torch.Tensor) else self.put(places)
            wave.see(self.put(members), there, selves)
        if found.counts is not None:
            found.counts[rows] = wave.counts.cpu().numpy()
        if found.ids is not None and found.cosines is not None:
            found.ids[rows], found.cosines[rows] = wave.best()
        return wave.sums.cpu().numpy(), wave.pairs

    def _exact(self, rows: np.ndarray) -> ExactRows:
        job, cells, order = self.job, self.job.cells, self.job.cells.order
        wave = _Wave(self, rows)
        places, stand = torch.arange(len(rows), device=self.device), np.empty(job.n, dtype=np.int64)
        stand[order] = np.arange(job.n)
        shape = len(job.kernels.bandwidths), len(job.p), len(rows), cells.count
        by_cell = torch.zeros(shape, dtype=torch.float64, device=self.device)
        step = 4 * self.tile  # rows are few
        for start in range(0, job.n, step):
            ids = self.order[start : start + step]
            own = stand[rows] - start
            at = np.flatnonzero((own >= 0) & (own < len(ids)))
            first, last = cells.cell[order[[start, start + len(ids) - 1]]]
            inside = self.cell[ids, None] == torch.arange(first, last + 1, device=self.device)
            for index, kernel in wave.kernels(ids, places, self.put(at * len(ids) + own[at])):
                for i, weight in enumerate(self.weights[kernel.dtype][ids].T):
                    by_cell[index, i, :, first : last + 1] += (kernel * weight) @ inside.to(kernel.dtype)
        by_cell *= self.put(job.kernels.factors)[:, None, None, None] / job.n
        best = wave.best() if job.how.k else (None, None)
        return ExactRows(by_cell.cpu().numpy().swapaxes(0, 1), *best)


class _Wave:
    """What is found of some samples (r,), on the device.

    Attributes:
        sums: (r, T, m) float64; counts: (r,); kept: (r, k) keys; pairs: that were looked at.
    """

    def __init__(self, on: Device, rows: np.ndarray) -> None:
        self.on, self.k, self.pairs, job = on, on.job.how.k, 0, on.job
        self.rows = on.put(rows)
        shape = (len(rows), len(job.kernels.bandwidths), len(job.p))
        self.sums = torch.zeros(shape, dtype=torch.float64, device=on.device)
        self.counts = torch.zeros(len(rows), dtype=torch.int64, device=on.device)
        self.kept = torch.full((len(rows), self.k), EMPTY, dtype=torch.int64, device=on.device)

    def see(self, ids: torch.Tensor, places: torch.Tensor, selves: torch.Tensor | None) -> None:
        """Take in what samples at distinct places see of samples ids, themselves at flat positions."""
        part = self.sums.new_empty((len(places), *self.sums.shape[1:]))
        for index, kernel in self.kernels(ids, places, selves):
            part[:, index] = (kernel @ self.on.weights[kernel.dtype][ids]).double()
        self.sums[places] += part

    def kernels(
        self, ids: torch.Tensor, places: torch.Tensor, selves: torch.Tensor | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Kernels of samples at places with samples ids; on the way these are counted, and candidates."""
        near = self.on.job.how.near
        cosines = self.on.there.terms.cosines(self.rows[places], ids)
        yield from each_kernel(self.on.job.kernels, cosines, selves)
        self.pairs += cosines.numel()
        if selves is not None:
            cosines.view(-1)[selves] = _SELF
        if near is not None:
            self.counts[places] += (cosines >= float(np.float32(near))).sum(dim=1)
        if self.k:
            self._select(places, ids, cosines)

    def _select(self, places: torch.Tensor, ids: torch.Tensor, cosines: torch.Tensor) -> None:
        """Keep of cosines (r, c) those that are among the k largest of their row."""
        largest = cosines.amax(dim=1)
        at_best = triton_pairs.keys_of(largest, torch.zeros_like(places))  # of the smallest position
        reached = (at_best >= self.kept[places, -1]).nonzero().flatten()
        for some in reached.split(max(1, len(cosines) // 4)) if len(reached) else ():
            keys, rows = nearest_keys(cosines[some], ids, self.k), places[some]
            self.kept[rows] = torch.cat([self.kept[rows], keys], dim=1).topk(self.k, dim=1).values

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(r, k) int64 ids and float32 cosines, nearest first."""
        return nearest_first(self.kept.cpu().numpy(), self.k)


class _Entries:
    """As `gathering.Entries`, on the device; places come as tensors."""

    def __init__(self, count: int) -> None:
        self.count, self.size = count, 0
        self._rows: list[torch.Tensor] = []
        self._cells: list[torch.Tensor] = []

    def add(self, start: int, looks: torch.Tensor, but: np.ndarray) -> None:
        """As of `gathering.Entries`."""
        looks.scatter_(1, torch.from_numpy(but).to(looks.device), False)
        rows, cells = looks.nonzero(as_tuple=True)
        self._rows.append((rows + start).int())
        self._cells.append(cells.int())
        self.size += len(cells)

    def each(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Every cell that is looked into, and the places of the rows that do."""
        cells, order = torch.cat(self._cells).sort(stable=True)
        rows = torch.cat(self._rows)[order]
        ends = torch.bincount(cells, minlength=self.count).cumsum(0).cpu().tolist()
        for cell, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                yield cell, rows[start:end].long()


class DeviceFar(FarModel):
    """`FarModel` whose arrays are a device's."""

    _xp = torch

    def __init__(self, job: CellJob, device: str) -> None:
        def there(moments: CellMoments) -> CellMoments:
            arrays: Any = (torch.from_numpy(getattr(moments, f.name)).to(device) for f in fields(moments))
            return CellMoments(*arrays)

        natural = there(job.natural)
        weighted = [natural if moments is job.natural else there(moments) for moments in job.weighted]
        spread: Any = torch.from_numpy(job.spread).to(device)
        super().__init__(natural, weighted, spread, job.kernels.bandwidths)
        self._exp, self._unit = torch.exp2, math.log(2)
        self._scratch = _Scratch(device)

    def numbers(self, values: Any) -> np.ndarray:
        """An array of this model's as one of NumPy."""
        return np.asarray(values.cpu().numpy())

    def _mark(self, mask: Any, cells: np.ndarray) -> None:
        mask.scatter_(1, torch.from_numpy(cells).to(mask.device), True)

    def _at_most(self, values: Any, most: float) -> None:
        values.clamp_(max=most)

    def _some(self, view: Any, moments: CellMoments, mask: Any) -> np.ndarray:
        return self._all(view, moments, False, self._scratch, mask)[1]


class _Scratch(Workspace):
    """Scratch memory of a device: torch itself keeps what was freed."""

    def __init__(self, device: str) -> None:
        self.device = device

    def array(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> Any:
        """An uninitialised tensor of this shape, float32."""
        return torch.empty(shape, device=self.device)


def free_bytes(device: str) -> int:
    """What an estimate may take on a device beside the vectors: half of what is free."""
    if not device.startswith("cuda"):
        return 1 << 30
    return int(_PART_FREE * torch.cuda.mem_get_info(device)[0])


def host_bytes(n: int, d: int, k: int, schemes: int, bandwidths: int) -> int:
    """Most memory that it takes on the host, beside the vectors: with what comes from the device."""
    return estimate_bytes(n, d, k, schemes, bandwidths, 0) + n * (24 * schemes * bandwidths + 20 * k)


def device_tile(device: str, n: int, d: int) -> int:
    """The side of a block of cosines for n vectors of d dimensions on a device."""
    spare = free_bytes(device) - 4 * n * d
    tile = triton_tiles.TILE
    while tile > triton_tiles.SMALLEST_TILE and _TILE_BYTES * tile**2 > spare:
        tile //= 2
    return tile
