"""Sums over pairs of blocks as units: products with a kernel matrix, and kernel means of another sample.

A unit reads two runs of rows and what they count, and writes what the rows of one, or of both, get. All is
added up in one order, so that neither deaths nor whoever did a unit change a bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdbias.progress import quiet
from kdbias.sphere.blocks.arrays import required_arrays, write_arrays
from kdbias.sphere.blocks.job import Told, Unit
from kdbias.sphere.blocks.plan import BlockPlan
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import FarPart, Pairs
from kdbias.sphere.equilibrium.target import kernel_means
from kdbias.tables.files import remove

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class BlockSums(Told):
    """What the two kinds of jobs share; arrays are named by their files, as seen from the folder.

    Attributes:
        folder: of the units' files.
        key: digest of what is summed, in their names.
        x: (n, d) float32 unit rows.
        n, rows: rows, and those of a block.
        t: bandwidths whose kernels are averaged.
        codes: (n,) values of a column that is compared together with the vectors; None for none.
        threads: of a unit.
    """

    folder: Path
    key: str
    x: str
    n: int
    rows: int
    t: tuple[float, ...]
    codes: str | None = None
    threads: int | None = field(default=None, compare=False, kw_only=True)

    @property
    def plan(self) -> BlockPlan:
        """The blocks of ``x``."""
        return BlockPlan(self.n, self.rows)

    @property
    def bandwidth(self) -> Bandwidth:
        """As the kernels take it."""
        return self.t[0] if len(self.t) == 1 else self.t

    @property
    def result(self) -> Path:
        """The file that takes the place of the units' files: all of them, added up."""
        return self.folder / f"{self.key}.npz"

    def part(self, unit: Unit) -> Path:
        """The file of a unit."""
        return self.folder / f"{self.key}-{unit[0]}-{unit[1]}.npz"

    def done(self, unit: Unit) -> bool:
        """Whether the file of a unit is there, or is not needed any more."""
        return self.part(unit).exists() or self.result.exists()

    def units(self) -> list[Unit]:
        """All of its units, in the order in which they are added up."""
        raise NotImplementedError

    def size(self, unit: Unit) -> int:
        """Pairs of rows that a unit stands for."""
        raise NotImplementedError

    def see(self, unit: Unit) -> Arrays:
        """What a unit gives: ``rows`` (r, m) float64 for the first run, ``columns`` for another."""
        raise NotImplementedError

    def read(self, name: str, runs: list[slice]) -> np.ndarray:
        """Runs of rows of an array in a file, one behind another, in memory."""
        array = np.load(self.folder / name, mmap_mode="r")
        return np.concatenate([array[run] for run in runs])

    def do(self, units: Iterable[Unit]) -> Iterator[int]:
        """Do units and write their files; yields the pairs of rows that each stands for."""
        for unit in units:
            if not self.done(unit):
                with quiet():
                    found = self.see(unit)
                write_arrays(self.part(unit), found)
            yield self.size(unit)

    def added(self) -> Arrays:
        """``sums`` (n, m) of all units and what else they found, one after another; their files go."""
        if not self.result.exists():
            sums, more = np.zeros(0), dict[str, list[np.ndarray]]()
            for i, j in self.units():
                part = required_arrays(self.part((i, j)))
                rows = part.pop("rows")
                if not len(sums):
                    sums = np.zeros((self.n, rows.shape[1]))
                sums[self.plan.run(i)] += rows
                if "columns" in part:
                    sums[self.plan.run(j)] += part.pop("columns")
                for name, values in part.items():
                    more.setdefault(name, []).append(values)
            joined = {name: np.concatenate(values) for name, values in more.items()}
            write_arrays(self.result, {"sums": sums} | joined)
        for unit in self.units():
            remove(self.part(unit))
        return required_arrays(self.result)


@dataclass(frozen=True)
class ProductJob(BlockSums):
    """K p, or K 1 with the near pairs of a stand-in.

    Attributes:
        along: (n, m) float64, what is multiplied; None for ones.
        exact: whether sums are float64 throughout.
        radius, quadratic: of `FarPart`, where near pairs are wanted.
        reduced: (n, r) float32 rows as that takes them.
    """

    along: str | None = None
    exact: bool = True
    radius: float | None = None
    quadratic: tuple[float, ...] = ()
    reduced: str | None = None

    def units(self) -> list[Unit]:
        """Pairs of blocks i <= j."""
        blocks = self.plan.blocks
        return [(i, j) for i in range(blocks) for j in range(i, blocks)]

    def size(self, unit: Unit) -> int:
        """Ordered pairs of rows."""
        return self.plan.pairs(*unit)

    def see(self, unit: Unit) -> Arrays:
        """Sums for both runs, and near pairs as rows ``i`` and ``j`` and what they have ``beyond``."""
        runs = [self.plan.run(block) for block in dict.fromkeys(unit)]
        first = runs[0].stop - runs[0].start
        x = self.read(self.x, runs)
        codes = None if self.codes is None else self.read(self.codes, runs)
        across = first if len(runs) == 2 else 0
        kernel = TiledKernel(x, self.bandwidth, kept=None, threads=self.threads, codes=codes, across=across)
        found: Arrays = {}
        if self.radius is not None:
            reduced = x if self.reduced is None or self.reduced == self.x else self.read(self.reduced, runs)
            positions = np.concatenate([np.arange(run.start, run.stop, dtype=np.int32) for run in runs])
            i, j, beyond = kernel.near_pairs(FarPart(self.radius, self.quadratic), reduced)
            found = {"i": positions[i], "j": positions[j], "beyond": beyond}
        if self.along is None:
            sums = kernel.row_sums[:, None]
        else:
            sums = kernel.product(self.read(self.along, runs), self.exact)
        return found | ({"rows": sums[:first], "columns": sums[first:]} if across else {"rows": sums})

    def pairs(self, found: Arrays) -> Pairs:
        """Near pairs of `added`, ascending by row and then by column."""
        order = np.lexsort((found["j"], found["i"]))
        return found["i"][order], found["j"][order], found["beyond"][order]


@dataclass(frozen=True)
class MeansJob(BlockSums):
    """Kernel means of another sample at the rows of ``x``: sums of q_j K(x_i, y_j).

    Attributes:
        y: (m, d) float32 unit rows; others: m.
        masses: (m, s) float64.
        their_codes: (m,) of ``y``, where there are ``codes``.
    """

    y: str = ""
    others: int = 0
    masses: str = ""
    their_codes: str | None = None

    @property
    def beside(self) -> BlockPlan:
        """The blocks of ``y``."""
        return BlockPlan(self.others, self.rows)

    def units(self) -> list[Unit]:
        """A block of ``x`` and one of ``y``."""
        return [(i, j) for i in range(self.plan.blocks) for j in range(self.beside.blocks)]

    def size(self, unit: Unit) -> int:
        """Pairs of rows."""
        run, others = self.plan.run(unit[0]), self.beside.run(unit[1])
        return (run.stop - run.start) * (others.stop - others.start)

    def see(self, unit: Unit) -> Arrays:
        """Sums for a block of ``x`` over one of ``y``."""
        mine, theirs = [self.plan.run(unit[0])], [self.beside.run(unit[1])]
        codes = None
        if self.codes is not None and self.their_codes is not None:
            codes = self.read(self.codes, mine), self.read(self.their_codes, theirs)
        x, y, q = self.read(self.x, mine), self.read(self.y, theirs), self.read(self.masses, theirs)
        return {"rows": kernel_means(x, y, q, self.bandwidth, self.threads, codes=codes, total=self.others)}


JOBS = (ProductJob, MeansJob)


def unit_bytes(rows: int, d: int, columns: int, threads: int, pairs: int) -> int:
    """Most memory that a unit of two blocks takes, their vectors included.

    Args:
        columns: that are multiplied at once.
        pairs: near ones a row, on average.
    """
    sums = 3 * 8 * columns
    return 2 * rows * (4 * d + sums + 40 * pairs) + threads * (24 << 20)
