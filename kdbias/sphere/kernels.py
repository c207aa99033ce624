"""Kernels of a block of cosines at several bandwidths, as cheaply as the bandwidths allow."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from kdbias.errors import KdbiasError
from kdbias.sphere.workers import Workspace

# Up to here exp(2t cos) and sums of it over a tile stay inside float32's range, whatever the cosines.
LARGEST_FLOAT32_BANDWIDTH = 32.0


class Step(NamedTuple):
    """How one bandwidth's kernel is got: by squaring that of half the bandwidth, or by an exponential."""

    bandwidth: int
    squares: bool


class Kernels:
    """exp(-2t (1 - cos)) of blocks of cosines for T bandwidths t, up to a factor that is left to the end.

    Bandwidths up to 32 are float32 exp(2t cos); larger ones are float64, since float32 would underflow. A
    bandwidth that is twice another one costs a squaring instead of an exponential.

    Attributes:
        bandwidths: T numbers > 0.
        factors: (T,) float64; times these, the values of `each` are the kernel.
        chains: the order in which bandwidths are cheapest.
    """

    def __init__(self, bandwidths: Sequence[float]) -> None:
        self.bandwidths = [float(t) for t in bandwidths]
        if not self.bandwidths or not all(t > 0 and math.isfinite(t) for t in self.bandwidths):
            raise KdbiasError(f"bandwidths must be finite numbers > 0, got {list(bandwidths)}")
        self.factors = np.array(
            [math.exp(-2 * t) if t <= LARGEST_FLOAT32_BANDWIDTH else 1.0 for t in self.bandwidths]
        )
        self.chains = chains_of_doublings(self.bandwidths)
        self._exp, self._log_base = fastest_exponential()

    def each(
        self, cosines: np.ndarray, workspace: Workspace, blank: np.ndarray | slice | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """``(index of the bandwidth, kernel)`` for every bandwidth; the array is overwritten by the next one.

        Args:
            cosines: (r, c) float32 in [-1, 1].
            blank: flat positions to set to zero (self-pairs).
        """
        for chain in self.chains:
            kernel: np.ndarray | None = None
            for step in chain:
                if step.squares and kernel is not None:
                    np.square(kernel, out=kernel)
                else:
                    kernel = self._exponential(cosines, self.bandwidths[step.bandwidth], workspace)
                    if blank is not None:
                        kernel.reshape(-1)[blank] = 0.0
                yield step.bandwidth, kernel

    def _exponential(self, cosines: np.ndarray, t: float, workspace: Workspace) -> np.ndarray:
        if t <= LARGEST_FLOAT32_BANDWIDTH:
            kernel = workspace.array("scratch", cosines.shape)
            np.multiply(cosines, np.float32(2 * t / self._log_base), out=kernel)
            self._exp(kernel, out=kernel)
            return kernel
        kernel = workspace.array("scratch", cosines.shape, np.float64)
        np.subtract(cosines, 1.0, out=kernel, dtype=np.float64)
        np.multiply(kernel, 2 * t, out=kernel)
        np.exp(kernel, out=kernel)
        return kernel


def chains_of_doublings(bandwidths: Sequence[float]) -> list[list[Step]]:
    """Each chain starts with an exponential and goes on by squaring."""
    chains: list[list[Step]] = []
    for index in sorted(range(len(bandwidths)), key=lambda i: bandwidths[i]):
        t = bandwidths[index]
        for chain in chains:
            doubled = 2 * bandwidths[chain[-1].bandwidth]
            if math.isclose(t, doubled, rel_tol=1e-12) and t <= LARGEST_FLOAT32_BANDWIDTH:
                chain.append(Step(index, True))
                break
        else:
            chains.append([Step(index, False)])
    return chains


@cache
def fastest_exponential() -> tuple[np.ufunc, float]:
    """``(np.exp2, log 2)`` where this NumPy has float32 exp2 in SIMD for this CPU, else ``(np.exp, 1)``.

    In SIMD exp2 takes half the time of exp; without, it goes number by number. Their last digits differ, so
    no clock decides: the same machine gives the same potentials.
    """
    from numpy.lib import introspect

    targets = introspect.opt_func_info(func_name="^exp2$", signature="float32")
    used = [variant["current"] for variants in targets.values() for variant in variants.values()]
    return (np.exp2, math.log(2)) if used and "baseline" not in used[0] else (np.exp, 1.0)
