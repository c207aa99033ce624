"""Potentials and neighbours of data too large for all pairs: near cells exactly, the rest estimated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.sphere import reservoirs
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.cells.cells import ENTRIES, default_cells, lookers, visit
from kdbias.sphere.cells.check import CellCheck, rounding
from kdbias.sphere.cells.job import LANDMARKS, CellJob, Estimate
from kdbias.sphere.cells.near import FAR_ROWS, NearCells
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.tiles import TILE
from kdbias.sphere.vectors import require_unit_rows


@dataclass(frozen=True)
class CellEstimate:
    """Estimated potentials and neighbours, and how good they are.

    Attributes:
        pairs: the results; potentials are estimates.
        half_widths: (m, T, n) float64: an interval of this half-width around ``pairs.without_self`` holds the
            exact value for 95 % of the samples (see `quality`).
        pair_energies: (m, T) unbiased estimates of the sum over i != j of p_i p_j K_ij. The potentials are
            chosen for small errors of their own and may share a bias, so these are not sums of them.
        energy_errors: (m, T) standard errors of ``pair_energies``.
        quality: how it was computed and, per bandwidth and weighting, how far off it was on samples whose
            potentials were computed exactly; JSON values only.
    """

    pairs: AllPairs
    half_widths: np.ndarray
    pair_energies: np.ndarray
    energy_errors: np.ndarray
    quality: dict[str, object]


def estimate_pairs(
    x: np.ndarray,
    bandwidths: Sequence[float],
    weights: np.ndarray | None = None,
    how: Estimate | None = None,
    progress: Callable[[float], object] | None = None,
) -> CellEstimate:
    """What `all_pairs` gives, for a small part of its operations.

    Every sample looks into its nearest cells; pairs of which a side sees the other count exactly,
    the sum over all others comes from `far`. On random samples the exact potentials are
    computed too (`check`): they choose the number of probes and scale the intervals, so that these hold
    whatever the law of the errors. The errors of energies come from the landmarks, and from what only one
    side sees: pairs that neither sees may be too few for landmarks to meet.

    Cost: about n x d x (8 sqrt(n) + probes sqrt(n) / 4 + 1,500) multiply-adds, against n x d x n / 2 for all
    pairs: half the time at 100,000 samples, and less beyond as the ratio falls like 1 / sqrt(n).

    Args:
        x: (n, d) float32 unit rows.
        bandwidths, weights: as in `all_pairs`.
        how: what to find, and how.
        progress: called with the share of the work done since the last call.

    Raises:
        KdbiasError: as `all_pairs`.
    """
    require_unit_rows(x)
    p = probabilities(len(x), weights)
    how = Estimate() if how is None else how
    job = CellJob(x, bandwidths, p, how)
    tick = progress or (lambda share: None)
    check = CellCheck(job)
    width = check.choose()
    tick(0.2)
    job.narrow(width)
    near_part = NearCells(job, check.surprise(width))
    sizes = np.diff(job.cells.starts)
    near_pairs = int(sizes @ lookers(job.nearest, len(sizes)))
    visit(
        x,
        job.cells,
        job.nearest,
        near_part.consume,
        tile=how.tile,
        threads=how.threads,
        progress=lambda pairs: tick(0.5 * pairs / near_pairs),
    )
    errors, energies, energy_errors = near_part.add_far(width, check.models(width), min(how.tile, FAR_ROWS))
    ids, cosines = near_part.best()
    tick(0.3)
    pairs = AllPairs(list(bandwidths), p, near_part.sums, ids, cosines, near_part.counts)
    factors, quality = check.verdict(width, pairs)
    least = pairs.potentials
    np.maximum(least, 1 / len(x), out=least)
    least *= rounding(bandwidths)
    half_widths = np.maximum(errors, least, out=errors)
    half_widths *= factors[:, :, None]
    np.maximum(half_widths, least, out=half_widths)
    quality |= {"pairs_share": near_pairs / len(x) ** 2}
    # Where rows prove to be off by more than their standard errors say, so are the energies.
    energy_errors = energy_errors * np.maximum(factors / 1.96, 1.0) + rounding(bandwidths).T * energies
    return CellEstimate(pairs, half_widths, energies, energy_errors, quality)


def estimate_bytes(
    n: int, d: int, k: int, schemes: int, bandwidths: int, threads: int, tile: int = TILE
) -> int:
    """Most memory that `estimate_pairs` takes beside the vectors.

    A sample holds its cells, sums, their errors and potentials. A thread holds a block of cosines, its
    kernels (float64 above t = 32) and masks, or later rows against landmarks; the check's blocks do not grow.
    """
    cells = default_cells(n)
    width = Estimate().widths(cells)[-1]
    samples = n * (4 * width + 64 + schemes * (24 * bandwidths + 36))
    shared = 40 * min(n * width, ENTRIES) + 8 * schemes * d**2
    block = min(n, tile) ** 2
    near = 28 * block + tile * (cells + 8 * d)
    far = (20 * schemes + 40) * min(n, tile, FAR_ROWS) * min(n, LANDMARKS) + 12 * d**2
    thread = max(near, far, 12 << 20) + 2 * LANDMARKS * cells
    candidates = 96 * block if k else 0
    return samples + reservoirs.bytes_needed(n, k) + shared + candidates + threads * thread
