"""Exact kernel sums: how crowded every sample sees its surroundings, at several bandwidths and weightings."""

import math
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.tiles import Epilogue, Tile, Workspace

# Up to here exp(2t cos) and sums of it over a tile stay inside float32's range, whatever the cosines.
_LARGEST_FLOAT32_BANDWIDTH = 32.0


class _Step(NamedTuple):
    """How one bandwidth's kernel is got: by squaring that of half the bandwidth, or by an exponential."""

    bandwidth: int
    squares: bool


class Potentials(Epilogue):
    """rho_i = sum_j p_j exp(-2t (1 - cos_ij)) for T bandwidths t and m weightings p in one pass.

    Products and kernels are float32, except that bandwidths above 32 take float64 kernels (float32 would
    underflow); sums over tiles are float64. Relative error about 2t x 1e-7. A bandwidth that is twice another
    one costs a squaring instead of an exponential.

    Args:
        n: number of samples.
        bandwidths: T numbers > 0.
        weights: (m, n) sampling probabilities, each row >= 0 with sum 1; by default one uniform row.

    Attributes (after the traversal):
        without_self: (m, T, n) float64, the sums over j != i. Energies over pairs of different samples are
            ``p @ without_self``; taking 1/n off ``potentials`` instead would cancel at large t.
        potentials: (m, T, n) float64, self included.
    """

    def __init__(self, n: int, bandwidths: Sequence[float], weights: np.ndarray | None = None) -> None:
        self.bandwidths = [float(t) for t in bandwidths]
        if not self.bandwidths or not all(t > 0 and math.isfinite(t) for t in self.bandwidths):
            raise KdbiasError(f"bandwidths must be finite numbers > 0, got {list(bandwidths)}")
        p = np.full((1, n), 1.0 / n) if weights is None else np.atleast_2d(np.asarray(weights, np.float64))
        if (
            p.shape[1] != n
            or not np.isfinite(p).all()
            or (p < 0).any()
            or (abs(p.sum(axis=1) - 1) > 1e-6).any()
        ):
            raise KdbiasError(f"weights must be (m, {n}) probabilities, each row with sum 1, got {p.shape}")
        self.weights = p
        self._scaled = np.ascontiguousarray((p * n).T, dtype=np.float32)  # (n, m), of order one
        self._sums = np.zeros((len(p), len(self.bandwidths), n))
        self._lock = threading.Lock()
        self._chains = _plan(self.bandwidths)
        self._exp, self._log_base = fastest_exponential()
        self.without_self: np.ndarray
        self.potentials: np.ndarray

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        for chain in self._chains:
            kernel: np.ndarray | None = None
            for step in chain:
                t = self.bandwidths[step.bandwidth]
                if step.squares and kernel is not None:
                    np.square(kernel, out=kernel)
                else:
                    kernel = self._kernel(tile, t, workspace)
                self._add(step.bandwidth, kernel, tile)

    def _kernel(self, tile: Tile, t: float, workspace: Workspace) -> np.ndarray:
        """float32 exp(2t cos), its factor exp(-2t) left to the end; or float64 exp(-2t (1 - cos))."""
        shape = tile.cosines.shape
        if t <= _LARGEST_FLOAT32_BANDWIDTH:
            kernel = workspace.array("kernel", shape)
            np.multiply(tile.cosines, np.float32(2 * t / self._log_base), out=kernel)
            self._exp(kernel, out=kernel)
        else:
            kernel = workspace.array("wide kernel", shape, np.float64)
            np.subtract(tile.cosines, 1.0, out=kernel, dtype=np.float64)
            np.multiply(kernel, 2 * t, out=kernel)
            np.exp(kernel, out=kernel)
        if tile.diagonal:
            np.fill_diagonal(kernel, 0.0)
        return kernel

    def _add(self, index: int, kernel: np.ndarray, tile: Tile) -> None:
        towards_rows = kernel @ self._scaled[tile.columns]
        towards_columns = None if tile.diagonal else self._scaled[tile.rows].T @ kernel
        with self._lock:
            self._sums[:, index, tile.rows] += towards_rows.T
            if towards_columns is not None:
                self._sums[:, index, tile.columns] += towards_columns

    def finish(self) -> None:
        n = self._sums.shape[2]
        for index, t in enumerate(self.bandwidths):
            self._sums[:, index] *= (math.exp(-2 * t) if t <= _LARGEST_FLOAT32_BANDWIDTH else 1.0) / n
        self.without_self = self._sums
        self.potentials = self.without_self + self.weights[:, None, :]

    @property
    def pair_energies(self) -> np.ndarray:
        """(m, T): sum over i != j of p_i p_j K_ij."""
        return np.einsum("mn,mtn->mt", self.weights, self.without_self)

    @property
    def energies(self) -> np.ndarray:
        """(m, T): sum over all i, j of p_i p_j K_ij."""
        return np.einsum("mn,mtn->mt", self.weights, self.potentials)


def _plan(bandwidths: Sequence[float]) -> list[list[_Step]]:
    """Chains of doublings: each starts with an exponential and goes on by squaring."""
    chains: list[list[_Step]] = []
    for index in sorted(range(len(bandwidths)), key=lambda i: bandwidths[i]):
        t = bandwidths[index]
        for chain in chains:
            doubled = 2 * bandwidths[chain[-1].bandwidth]
            if math.isclose(t, doubled, rel_tol=1e-12) and t <= _LARGEST_FLOAT32_BANDWIDTH:
                chain.append(_Step(index, True))
                break
        else:
            chains.append([_Step(index, False)])
    return chains


@cache
def fastest_exponential() -> tuple[np.ufunc, float]:
    """``(np.exp2, log 2)`` or ``(np.exp, 1)``, whichever this NumPy build computes faster on this CPU."""
    sample = np.linspace(-8, 8, 1 << 15, dtype=np.float32)
    out = np.empty_like(sample)
    seconds = {}
    for function in (np.exp2, np.exp):
        function(sample, out=out)
        started = time.perf_counter()
        for _ in range(3):
            function(sample, out=out)
        seconds[function] = time.perf_counter() - started
    return (np.exp2, math.log(2)) if seconds[np.exp2] <= seconds[np.exp] else (np.exp, 1.0)
