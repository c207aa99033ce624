"""Exact kernel sums: how crowded every sample sees its surroundings, at several bandwidths and weightings."""

from collections.abc import Sequence

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.kernels import Kernels
from kdbias.sphere.tiles import Epilogue, Tile
from kdbias.sphere.workers import InTurn, Workspace


class Potentials(Epilogue):
    """rho_i = sum_j p_j exp(-2t (1 - cos_ij)) for T bandwidths t and m weightings p in one pass.

    Products and kernels are float32 (float64 kernels above t = 32), sums over tiles float64: relative error
    about 2t x 1e-7.

    Args:
        n: number of samples.
        bandwidths: T numbers > 0.
        weights: (m, n) sampling probabilities, each row >= 0 with sum 1; by default one uniform row.
        total: samples of the whole, where these n are some of them; ``weights`` are then theirs.

    Attributes (after the traversal):
        without_self: (m, T, n) float64, the sums over j != i. Energies over pairs of different samples are
            ``p @ without_self``; taking 1/n off ``potentials`` instead would cancel at large t.
    """

    def __init__(
        self, n: int, bandwidths: Sequence[float], weights: np.ndarray | None = None, total: int | None = None
    ) -> None:
        self._kernels = Kernels(bandwidths)
        self.weights = probabilities(n, weights) if total is None or weights is None else weights
        self._total = total or n
        # (n, m), of order one
        self._scaled = np.ascontiguousarray((self.weights * self._total).T, dtype=np.float32)
        self._sums = np.zeros((len(self.weights), len(self._kernels.bandwidths), n))
        self._in_turn = InTurn()
        self.without_self: np.ndarray

    @property
    def potentials(self) -> np.ndarray:
        """(m, T, n) float64, self included."""
        return self.without_self + self.weights[:, None, :]

    def consume(self, tile: Tile, workspace: Workspace) -> None:
        """Add the tile's kernel sums, for both of its sides."""
        blank = slice(None, None, len(tile.cosines) + 1) if tile.diagonal else None
        found = []
        for index, kernel in self._kernels.each(tile.cosines, workspace, blank):
            towards_rows = kernel @ self._scaled[tile.columns]
            towards_columns = None if tile.diagonal else self._scaled[tile.rows].T @ kernel
            found.append((index, towards_rows, towards_columns))

        def add() -> None:
            for index, towards_rows, towards_columns in found:
                self._sums[:, index, tile.rows] += towards_rows.T
                if towards_columns is not None:
                    self._sums[:, index, tile.columns] += towards_columns

        self._in_turn.do(tile.turn, add)

    def state(self) -> dict[str, np.ndarray]:
        """Sums so far, (m, T, n) float64."""
        return {"sums": self._sums}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from stored sums."""
        self._sums[:] = state["sums"]

    def finish(self) -> None:
        """Scale the sums to mean potentials, `without_self`."""
        self._sums *= self._kernels.factors[:, None] / self._total
        self.without_self = self._sums


def probabilities(n: int, weights: np.ndarray | None) -> np.ndarray:
    """(m, n) float64 rows that sum to 1, checked; one uniform row if ``weights`` is None."""
    if weights is None:
        return np.full((1, n), 1.0 / n)
    p = np.atleast_2d(np.asarray(weights, np.float64))
    if p.shape[1] != n or not np.isfinite(p).all() or (p < 0).any() or (abs(p.sum(axis=1) - 1) > 1e-6).any():
        raise KdbiasError(f"weights must be (m, {n}) probabilities, each row with sum 1, got {p.shape}")
    return p
