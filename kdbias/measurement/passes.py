"""One pass over a data set's pairs, exact or estimated, and what it is expected to cost."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdbias import optional, progress
from kdbias.measurement.best import Resources
from kdbias.measurement.blocks import Blocks
from kdbias.measurement.density import Bandwidths
from kdbias.measurement.distribution import Sampling, bandwidth_entry
from kdbias.measurement.search_quality import OF_SCHEMES, require_quality
from kdbias.measurement.settings import UniformitySettings
from kdbias.sphere.all_pairs import AllPairs, all_pairs, bytes_needed, fitting_tile, require_memory
from kdbias.sphere.cells.check import neighbour_quality
from kdbias.sphere.cells.estimate import estimate_bytes, estimate_pairs
from kdbias.sphere.cells.host import exact_cosines
from kdbias.sphere.cells.in_blocks import estimate_in_blocks
from kdbias.sphere.cells.job import Estimate
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.sphere.room import room
from kdbias.sphere.tiles import TILE, seconds_estimate
from kdbias.sphere.workers import available_threads
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import remove
from kdbias.wording import counted, duration

_LOOKED_AT = 0.05  # of the pairs: what an estimate is taken to need, before its data say so
_A_CELL = 5  # what finding cells and seeing far ones costs, in pairs of the exact pass (docs/measurement.md)
_TIMES = 5  # as long as an estimate: then that is pointed out
_QUERIES = 384
_TIMED = 8192  # samples of the small pass that is timed on a GPU
SNAPSHOT = "pass.npz"
_SNAPSHOTS_FROM = 50_000  # samples; smaller passes are over before a snapshot pays


@dataclass(frozen=True)
class PassResult:
    """What a pass gave.

    Attributes:
        pairs: potentials, neighbours, counts.
        pair_energies: (m, T) sum over i != j of p_i p_j K_ij.
        energy_errors: (m, T) their standard errors; None if they are exact.
        half_widths: (m, T, n) of the potentials' 95 % intervals; None if they are exact.
        search: the entry ``search`` of ``uniformity.json``.
    """

    pairs: AllPairs
    pair_energies: np.ndarray
    energy_errors: np.ndarray | None
    half_widths: np.ndarray | None
    search: dict[str, Any]

    def mean_kernel(self, ladder: Sequence[float]) -> tuple[np.ndarray, np.ndarray | None]:
        """K p under the mean of the kernels at ``ladder``, bandwidths of the pass.

        Returns:
            (m, n) float64, self included, and (m,) standard errors of p'Kp; None where it is exact.
        """
        places = [self.pairs.bandwidths.index(t) for t in ladder]
        fields = self.pairs.without_self[:, places[0]].copy()
        for place in places[1:]:
            fields += self.pairs.without_self[:, place]
        fields /= len(places)
        fields += self.pairs.weights
        return fields, None if self.energy_errors is None else self.energy_errors[:, places].mean(axis=1)

    def only(self, bandwidths: Sequence[float], schemes: int) -> "PassResult":
        """What it says of some bandwidths (ascending) and of the first schemes; takes the arrays over."""
        places = [self.pairs.bandwidths.index(t) for t in bandwidths]

        def kept(values: np.ndarray) -> np.ndarray:
            for to, place in enumerate(places):  # in place: a second copy may not fit
                values[:, to] = values[:, place]
            return values[:schemes, : len(places)]

        pairs, search = self.pairs, dict(self.search)
        for name in set(OF_SCHEMES) & search.keys():
            search[name] = [[row[place] for place in places] for row in search[name][:schemes]]
        return PassResult(
            replace(
                pairs,
                bandwidths=list(bandwidths),
                weights=pairs.weights[:schemes],
                without_self=kept(pairs.without_self),
            ),
            kept(self.pair_energies),
            None if self.energy_errors is None else kept(self.energy_errors),
            None if self.half_widths is None else kept(self.half_widths),
            search,
        )


@dataclass(frozen=True)
class PassPlan:
    """How pairs are seen.

    Attributes:
        settings: search, precision, memory beside the vectors, seed of cells and checked samples.
        device: ``cpu`` or a torch device.
        snapshot: file to save a long exact pass in, and to go on from.
        blocks: how a pass in blocks is done; None: never.
    """

    settings: UniformitySettings
    device: str
    snapshot: Path
    blocks: Blocks | None = None

    @property
    def threads(self) -> int:
        """CPU threads."""
        return self.settings.threads or available_threads()

    @property
    def where(self) -> str:
        """The device that sees the pairs; a graph is made on the CPU."""
        return "cpu" if self.settings.search == "hnsw" else self.device

    @property
    def resources(self) -> Resources:
        """What the search for the best re-weighting computes with."""
        return Resources(self.settings.memory, self.threads, self.device)

    def vectors(self, table: EmbeddingTable, k: int, schemes: int) -> np.ndarray:
        """(n, d) float32 vectors of a table; mapped where a pass in blocks is due."""
        return table.vectors() if self.blocks is None else self.blocks.vectors(table, k, schemes)

    def means(self, x: np.ndarray) -> Callable[..., np.ndarray]:
        """`kernel_means` for the vectors (n, d): by units where they are mapped."""
        return kernel_means if self.blocks is None else self.blocks.means(x)

    def clean(self) -> None:
        """Remove what a pass was to go on from."""
        remove(self.snapshot)
        if self.blocks is not None:
            self.blocks.clean()

    def announcement(self, n: int, d: int) -> str:
        """The first line of a run."""
        search = self.settings.search
        exact, cells = self._seconds(n, d)
        how = f"all pairs in tiles of {TILE}" if search == "exact" else f"{search}, cells of the sphere"
        if self.where != "cpu" and search == "exact":
            from kdbias.sphere import torch_pairs

            how = torch_pairs.how(self.device, self.settings.precision)
        line = (
            f"uniformity: device {self.where}, {self.settings.precision}, "
            f"{counted(self.threads, 'thread')}, {how}; {counted(n, 'sample')} x {counted(d, 'dimension')}"
        )
        if self.where != "cpu":
            return f"{line}, about {duration(self.seconds(n, d))}" if search == "exact" else line
        line += f", about {duration(exact if search == 'exact' else cells)}"
        if search == "exact" and exact > _TIMES * cells:
            line += f" (--search ivf: about {duration(cells)}, with error bars)"
        if search == "ivf" and exact < cells:
            line += f" (--search exact: about {duration(exact)})"
        return line

    def seconds(self, n: int, d: int) -> float:
        """How long a pass should take: from a timed tile, on a GPU from a timed small pass."""
        if self.where == "cpu":
            exact, cells = self._seconds(n, d)
            return exact if self.settings.search == "exact" else cells
        side = min(n, _TIMED)
        x = np.random.default_rng(0).normal(size=(side, d)).astype(np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        spent = 0.0
        for _ in range(2):  # the first one compiles
            started = time.perf_counter()
            all_pairs(
                x,
                [2.0],
                k=min(side - 1, 64),
                near=0.999,
                device=self.device,
                precision=self.settings.precision,
                memory=self.settings.memory,
            )
            spent = time.perf_counter() - started
        return spent * (n / side) ** 2

    def _seconds(self, n: int, d: int) -> tuple[float, float]:
        """Of an exact pass on the CPU, which sees each pair once, and of an estimate, which sees it twice."""
        exact = seconds_estimate(n, d, self.threads)
        return exact, exact * (2 * _LOOKED_AT + _A_CELL * (16 * math.sqrt(n) + 1500) / n) + 1

    def run(
        self,
        x: np.ndarray,
        bandwidths: list[float],
        p: np.ndarray,
        k: int,
        near: float | None,
        spare: int = 0,
    ) -> PassResult:
        """See the pairs of ``x`` (n, d) under the weightings ``p`` (m, n).

        Args:
            k: neighbours a sample; 0 for none.
            near: cosine to count others at, None for no counts.
            spare: how many (m, n) float64 the caller makes of the result, within the memory.

        Raises:
            KdbiasError: too little memory.
        """
        see = {"exact": self._exact, "ivf": self._cells, "hnsw": self._graph}[self.settings.search]
        return see(x, bandwidths, p, k, near, spare)

    def _exact(
        self, x: np.ndarray, bandwidths: list[float], p: np.ndarray, k: int, near: float | None, spare: int
    ) -> PassResult:
        n, tile = len(x), None
        search = {"kind": "exact", "k": k, "recall": 1.0 if k else None}
        rows = self.blocks.rows(n, k, len(p), len(bandwidths) + spare) if self.blocks else 0
        if self.blocks is not None and rows:
            with progress.bar(n * n / 1e6, "Mpairs", "all pairs") as bar:
                pairs = self.blocks.run(x, bandwidths, p, k, near, rows, lambda done: bar.update(done / 1e6))
            return PassResult(pairs, pairs.pair_energies, None, None, search)
        if self.device == "cpu":
            needed = partial(bytes_needed, n, k, len(p), len(bandwidths) + spare, self.threads)
            tile = self._tile(needed, n, k, len(p))
        with progress.bar(n * n / 1e6, "Mpairs", "all pairs") as bar:
            pairs = all_pairs(
                x,
                bandwidths,
                p,
                k=k,
                near=near,
                device=self.device,
                precision=self.settings.precision,
                memory=self.settings.memory,
                snapshot=self.snapshot if n > _SNAPSHOTS_FROM else None,
                tile=tile,
                threads=self.threads,
                progress=lambda done: bar.update(done / 1e6),
            )
        return PassResult(pairs, pairs.pair_energies, None, None, search)

    def _cells(
        self, x: np.ndarray, bandwidths: list[float], p: np.ndarray, k: int, near: float | None, spare: int
    ) -> PassResult:
        (n, d), swept, blocks = x.shape, len(bandwidths) + spare, self.blocks
        how = Estimate(k=k, near=near, seed=self.settings.seed, threads=self.threads)
        if blocks is not None and isinstance(x, np.memmap):
            rows, how = blocks.estimate(n, d, how, len(p), swept)
            found = estimate_in_blocks(blocks.ground, rows, x, bandwidths, p, how)
        else:
            how = self._placed(how, n, d, len(p), swept)
            with progress.bar(100, "%", "cells") as bar:
                found = estimate_pairs(
                    x, bandwidths, p, how=how, progress=lambda share: bar.update(100 * share)
                )
        errors, search = found.energy_errors, {"kind": "ivf", "k": k, **found.quality}
        return PassResult(found.pairs, found.pair_energies, errors, found.half_widths, search)

    def _placed(self, how: Estimate, n: int, d: int, schemes: int, bandwidths: int) -> Estimate:
        """Where an estimate is computed, and with which tile."""
        if self.where == "cpu":
            needed = partial(estimate_bytes, n, d, how.k, schemes, bandwidths, self.threads)
            return replace(how, tile=self._tile(needed, n, how.k, schemes))
        from kdbias.sphere.cells.device import device_tile, host_bytes

        what = f"{counted(n, 'sample')} with k={how.k} and {counted(schemes, 'scheme')}"
        require_memory(host_bytes(n, d, how.k, schemes, bandwidths), self.settings.memory, what)
        return replace(how, device=self.device, tile=device_tile(self.device, n, d))

    def _tile(self, needed: Callable[[int], int], n: int, k: int, schemes: int) -> int:
        tile = fitting_tile(
            needed,
            self.settings.memory,
            f"{counted(n, 'sample')} with k={k} and {counted(schemes, 'scheme')}",
        )
        if tile < TILE:
            progress.say(f"tile {tile} instead of {TILE}, to stay within --memory")
        return tile

    def _graph(
        self, x: np.ndarray, bandwidths: list[float], p: np.ndarray, k: int, near: float | None, spare: int
    ) -> PassResult:
        if not k:
            result = self._cells(x, bandwidths, p, 0, near, spare)
            return replace(result, search={**result.search, "kind": "hnsw"})
        from kdbias.sphere.faiss_search import hnsw_bytes, hnsw_neighbors

        optional.faiss()  # refused before the cells are searched, not after
        n, d = x.shape
        needed = hnsw_bytes(n, d, k) + 16 * n * len(p) * (len(bandwidths) + spare)
        require_memory(needed, self.settings.memory, f"{counted(n, 'sample')} in a graph with k={k}")
        result = self._cells(x, bandwidths, p, 0, near, spare)
        ids, cosines = hnsw_neighbors(x, k, threads=self.threads, seed=self.settings.seed)
        rows = np.random.default_rng(self.settings.seed).choice(n, min(_QUERIES, n), replace=False)
        quality = neighbour_quality(exact_cosines(x, rows, k), cosines[rows])
        search = {**result.search, "kind": "hnsw", "k": k, **quality}
        return replace(result, pairs=replace(result.pairs, ids=ids, cosines=cosines), search=search)


def fill_in(samplings: Sequence[Sampling], result: PassResult, bandwidths: Bandwidths, x: np.ndarray) -> None:
    """Fill in what a pass over ``x`` (n, d) says of each sampling."""
    chosen = bandwidths.values.index(bandwidths.chosen)
    require_quality(result.search, [s.name for s in samplings], chosen)
    for m, sampling in enumerate(samplings):
        p = sampling.p
        density = np.add(result.pairs.without_self[m, chosen], p, out=room(x, len(p)))
        seen = density > 0
        # A sample that is never drawn does not see itself: at a large t it may see nothing at all.
        sampling.log_density = np.log(density, out=density, where=seen)
        density[~seen] = np.nan
        for i, t in enumerate(bandwidths.values):
            energy, error = float(result.pair_energies[m, i]), result.energy_errors
            relative = float(error[m, i]) / energy if error is not None and energy > 0 else None
            entry = bandwidth_entry(x.shape[1], t, p, energy + float(p @ p), energy, relative)
            sampling.bandwidths.append(entry)
