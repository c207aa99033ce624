"""Potentials and neighbours of data too large for all pairs: near cells exactly, the rest estimated."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdbias.sphere import reservoirs
from kdbias.sphere.all_pairs import AllPairs
from kdbias.sphere.cells.cells import Rows, build_cells, default_cells
from kdbias.sphere.cells.check import CellCheck, rounding
from kdbias.sphere.cells.host import LOOKS, SEEN, Found, Host, members_at_once, wave_rows
from kdbias.sphere.cells.job import QUERIES, SHARES, CellJob, Estimate
from kdbias.sphere.potentials import probabilities
from kdbias.sphere.tiles import TILE
from kdbias.sphere.vectors import require_unit_rows
from kdbias.sphere.workers import Workspace, each


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

    Every sample is compared with all members of the cells that weigh most in its sums, and sees the others as
    cells (`far`). On random samples the exact values are computed too (`check`): they choose how many pairs
    are looked at, correct what is far, and scale the intervals, so that these hold whatever the law of the
    errors.

    Cost: about n x d x (16 sqrt(n) + share n + 1,500) multiply-adds with as large a
    share of the pairs as errors need, against n x d x n / 2 for all pairs.

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
    tick = progress or (lambda share: None)
    rows, work = _where(x, how)
    cells = build_cells(rows, seed=how.seed, progress=lambda share: tick(0.1 * share))
    host = work(CellJob(rows, bandwidths, p, how, cells))
    check = CellCheck(host)
    choice = check.choose()
    tick(0.1)
    found = _in_waves(host, check, choice, tick)
    pairs = AllPairs(list(bandwidths), p, found.sums, found.ids, found.cosines, found.counts)
    return judged(check, choice, pairs, found.errors, found.pairs)


def _where(x: np.ndarray, how: Estimate) -> tuple[Rows, type[Host]]:
    """The vectors where they are to be computed with, and what does that."""
    if how.device == "cpu":
        return Rows(x, how.threads), Host
    from kdbias.sphere.cells.device import Device, DeviceRows

    return DeviceRows(x, how.device), Device


def judged(
    check: CellCheck, choice: int, pairs: AllPairs, errors: np.ndarray, looked_at: int
) -> CellEstimate:
    """An estimate with its intervals, energies and quality, by the samples that are known exactly.

    Args:
        choice: of the check, by which it was made.
        errors: (m, T, n) standard deviations of the sums; overwritten.
        looked_at: pairs.
    """
    p, sums, n = pairs.weights, pairs.without_self, pairs.weights.shape[1]
    factors, quality = check.verdict(choice, pairs)
    energies, energy_errors = check.energies(choice, sums, errors, p)
    least = pairs.potentials
    np.maximum(least, 1 / n, out=least)
    least *= rounding(pairs.bandwidths)
    half_widths = np.maximum(errors, least, out=errors)
    half_widths *= factors[:, :, None]
    np.maximum(half_widths, least, out=half_widths)
    quality |= {"pairs_share": looked_at / n**2}
    energy_errors += rounding(pairs.bandwidths).T * energies
    return CellEstimate(pairs, half_widths, energies, energy_errors, quality)


def _in_waves(host: Host, check: CellCheck, choice: int, tick: Callable[[float], object]) -> Found:
    """All samples, some thousand at a time; every thread has its own."""
    job, lock = host.job, threading.Lock()
    found = Found(job)
    step = host.wave_rows

    def work(rows: np.ndarray, workspace: Workspace) -> None:
        pairs = host.wave(rows, check.thresholds[choice], check.corrections[choice], found, workspace)
        with lock:
            found.pairs += pairs
            tick(0.8 * len(rows) / job.n)

    waves = (job.cells.order[start : start + step] for start in range(0, job.n, step))
    each(waves, work, host.threads)
    return found


def estimate_bytes(
    n: int, d: int, k: int, schemes: int, bandwidths: int, threads: int, tile: int = TILE, held: int = 0
) -> int:
    """Most memory that `estimate_pairs` takes beside the vectors; of ``held`` samples alone, a unit's.

    A sample holds its cell, sums, their errors and potentials. A thread holds the rows of a wave, which cells
    they look into, and a block of cosines with its kernels (float64 above t = 32) and masks.
    """
    cells, numbers = default_cells(n), schemes * bandwidths
    samples = (held or n) * (40 + schemes * (24 * bandwidths + 36) + 12 * k)
    shared = 12 * (schemes + 1) * cells * d + 24 * d * d + QUERIES * 8 * len(SHARES) * numbers * 6
    rows = min(n, wave_rows(n, tile))
    looks = min(rows * cells, LOOKS + SEEN) * 24
    wave = rows * (4 * d + 24 * numbers) + looks + reservoirs.bytes_needed(rows, k)
    block = min(n, tile) * min(n, members_at_once(tile))
    thread = wave + block * (14 + (96 if k else 0)) + 8 * d * tile + 40 * SEEN + (2 << 20)
    check = QUERIES * 28 * cells + threads * (8 << 20)
    return int(samples + shared + max(check, threads * thread))
