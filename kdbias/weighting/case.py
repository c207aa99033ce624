"""What a weight scheme may look at, and what it hands back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.kernel_matrix import TiledKernel, kernel_matrix
from kdbias.sphere.solution import Equilibrium, Groups
from kdbias.tables.density_table import DensityTable, potential_column
from kdbias.tables.joins import encode


@dataclass(frozen=True)
class Case:
    """The measurements of one data set, seen by distinct samples.

    A scheme gives one value to each of the m distinct samples; copies of it share that later.

    Attributes:
        density: the density table, n rows.
        groups: which rows are one sample; m groups.
        t: bandwidth of schemes that need one.
        min_ess, cap: constraints, for the schemes that solve under them.
        load_vectors: gives the (n, d) unit rows in the density table's order; refuses without embeddings.
        tolerance, memory, threads, max_seconds: of the equilibrium solver.
        seed: of schemes with chance in them.
    """

    density: DensityTable
    groups: Groups
    t: float
    load_vectors: Callable[[], np.ndarray]
    min_ess: float | None = None
    cap: float | None = None
    tolerance: float = 1e-3
    memory: str | int = "4GiB"
    threads: int | None = None
    max_seconds: float | None = None
    seed: int = 0

    @property
    def n(self) -> int:
        return self.density.n

    @property
    def m(self) -> int:
        """Distinct samples."""
        return self.groups.distinct

    @property
    def where(self) -> Path:
        return self.density.path

    @cached_property
    def vectors(self) -> np.ndarray:
        """(m, d) float32 unit rows of the distinct samples."""
        return self.load_vectors()[self.groups.first]

    @cached_property
    def kernel(self) -> TiledKernel:
        """Products with the kernel matrix of the distinct samples at t, kept within ``memory``."""
        return kernel_matrix(self.vectors, self.t, self.memory, self.threads)

    def column(self, name: str) -> np.ndarray:
        """(m,) float64 values of a numeric density column; nulls are NaN."""
        return self.density.numbers(name)[self.groups.first]

    @property
    def has_potential(self) -> bool:
        return potential_column(self.t) in self.density.table.column_names

    def labels(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Label codes (m,) int64 with -1 for no label, and the (classes,) number of distinct samples of each.

        Raises:
            KdbiasError: no labels, or a single class.
        """
        codes = encode(self.density.labels)[0][self.groups.first]
        sizes = np.bincount(codes[codes >= 0])
        sizes = sizes[sizes > 0]
        if len(sizes) < 2:
            found = "no labels" if not len(sizes) else "one class"
            raise KdbiasError(
                f"method {method} needs labels of two classes or more; {self.where} has {found}: choose a "
                "method without labels, or embed again with --label-column"
            )
        if codes.max() + 1 != len(sizes):  # a class whose samples all copy another class's
            codes = np.where(codes >= 0, np.searchsorted(np.unique(codes[codes >= 0]), codes), -1)
        return codes, sizes


@dataclass(frozen=True)
class Scheme:
    """What a scheme hands back.

    Attributes:
        values: (m,) relative weights of the distinct samples, >= 0.
        facts: what a reader of the manifest should know, JSON values only.
        equilibrium: the solver's result, of the schemes that solve.
        energy: p'Kp of masses (m,) on the same kernel, of the schemes that hold one.
    """

    values: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)
    equilibrium: Equilibrium | None = None
    energy: Callable[[np.ndarray], float] | None = None
