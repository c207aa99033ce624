"""The kernel matrix of vectors that lie in a file, whose products are done in blocks by an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from kdbias.sphere.blocks.arrays import read_arrays, write_arrays
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.equilibrium.block_jobs import MeansJob, ProductJob, unit_bytes
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, TiledKernel
from kdbias.sphere.equilibrium.near_kernel import FarPart, NearKernel, Pairs, pairs_a_row
from kdbias.sphere.equilibrium.target import Codes, kernel_means
from kdbias.tables import fingerprints
from kdbias.wording import counted

_DIRECTLY = 1 << 22  # pairs of rows that are no work for units


class BlockKernel(TiledKernel):
    """`TiledKernel` of rows that are mapped from a file, whose products are units of a `BlockFolder`.

    What a killed run has finished is found again: products by what was multiplied, steps by their name.

    Args:
        ground: where the units' files lie.
        x: (n, d) float32 unit rows, mapped.
        t, codes: as of `TiledKernel`.
        rows: of a block.
        searched: whether its least energy will be sought, so that the first pass finds the near pairs, too.
    """

    def __init__(
        self,
        ground: BlockFolder,
        x: np.ndarray,
        t: Bandwidth,
        rows: int,
        codes: np.ndarray | None = None,
        searched: bool = False,
    ) -> None:
        super().__init__(x, t, kept=None, threads=ground.threads, memory=ground.memory, codes=codes)
        self.x = x  # as it is mapped
        self._ground, self._rows, self._searched = ground, rows, searched
        self.description = f"exact kernel, {counted(-(-self.n // rows), 'block')} of {rows:,} samples"

    @property
    def row_sums(self) -> np.ndarray:
        """(n,) float64, K 1."""
        if self._row_sums is None and self._searched:
            self.stand_in = NearKernel(self, self.memory)
        if self._row_sums is None:
            self._row_sums = self._done(self._job("ones"), "kernel sums")["sums"][:, 0]
        return self._row_sums

    def product(self, columns: np.ndarray, exact: bool = False) -> np.ndarray:
        """As of `TiledKernel.product`."""
        key = f"product-{fingerprints.of_arrays(columns)[:16]}{'' if exact else '-float32'}"
        job = self._job(key, along=laid(self._ground, columns, f"along-{key}"), exact=exact)
        return self._done(job, "product with the kernel")["sums"]

    def near_pairs(self, far: FarPart, reduced: np.ndarray) -> Pairs:
        """As of `TiledKernel.near_pairs`; the sums of the rows are taken on the way."""
        key = f"near-{fingerprints.of_json([far.radius, *far.quadratic])[:16]}"
        fields = {"radius": far.radius, "quadratic": far.quadratic, "reduced": laid(self._ground, reduced)}
        job = self._job(key, **fields)
        found = self._done(job, "near pairs and kernel sums")
        self._row_sums = found["sums"][:, 0]
        return job.pairs(found)

    def lay(
        self, name: str, shape: tuple[int, ...], chunks: Iterable[tuple[slice, np.ndarray]]
    ) -> np.ndarray:
        """As of `TiledKernel.lay`, in a file."""
        return self._ground.lay(name, shape, chunks)

    def remember(self, name: str, find: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """As of `TiledKernel.remember`: what a killed run has found is taken as it is."""
        file = self._ground.folder / f"{name}.npz"
        found = read_arrays(file)
        if found is None:
            with self._ground.alive():
                found = find()
            write_arrays(file, found)
        return found

    def _job(self, key: str, **more: Any) -> ProductJob:
        t = self.t if isinstance(self.t, tuple) else (self.t,)
        codes = None if self.codes is None else laid(self._ground, self.codes, "codes")
        given = (self._ground.folder, key, laid(self._ground, self.x), self.n, self._rows, t, codes)
        return ProductJob(*given, threads=self._threads, **more)

    def _done(self, job: ProductJob, what: str) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        self._ground.run(job, what)
        found = job.added()
        self.seconds = max(time.perf_counter() - began, self.seconds)
        return found


def needed_by(d: int, threads: int, n: int, memory: int) -> Callable[[int], int]:
    """Bytes of a unit by rows of a block."""
    return partial(unit_bytes, d=d, columns=2, threads=threads, pairs=pairs_a_row(n, memory))


def block_means(ground: BlockFolder, rows: int) -> Callable[..., np.ndarray]:
    """`target.kernel_means` whose larger work is done in blocks of ``rows`` by an engine."""

    def means(
        x: np.ndarray,
        y: np.ndarray,
        q: np.ndarray,
        t: Bandwidth,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
        codes: Codes | None = None,
    ) -> np.ndarray:
        if len(x) * len(y) <= _DIRECTLY:
            return kernel_means(x, y, q, t, threads, progress, codes)
        several, kernels = (q if q.ndim == 2 else q[:, None]), t if isinstance(t, tuple) else (t,)
        one, other, masses = (laid(ground, array) for array in (x, y, several))
        theirs = (None, None) if codes is None else tuple(laid(ground, array) for array in codes)
        key = f"means-{fingerprints.of_json([one, other, masses, *theirs, *kernels])[:16]}"
        more = {"y": other, "others": len(y), "masses": masses, "their_codes": theirs[1]}
        given = (ground.folder, key, one, len(x), rows, kernels, theirs[0])
        job = MeansJob(*given, **more, threads=ground.threads)  # type: ignore[arg-type]
        ground.run(job, "compared with the target")
        found = job.added()["sums"]
        return found if q.ndim == 2 else found[:, 0]

    return means


def laid(ground: BlockFolder, array: np.ndarray, name: str | None = None) -> str:
    """The file of an array, as seen from the folder: its own where it is mapped, or else a new one."""
    if isinstance(array, np.memmap) and array.filename is not None:
        return os.path.relpath(array.filename, ground.folder.resolve())
    name = name or f"array-{fingerprints.of_arrays(array)[:16]}"
    ground.lay(name, array.shape, [(slice(None), array)], array.dtype.str[1:])
    return f"{name}.npy"
