"""The best that any re-weighting of the data reaches: what rectification is measured by."""

from typing import Any

import numpy as np

from kdbias.progress import say
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, Matching, kernel_matrix
from kdbias.sphere.equilibrium.solution import Equilibrium, Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import Target
from kdbias.sphere.tiles import TILE

_TOLERANCE = 5e-3  # of the gain: rectification needs a certificate of 1 %
_NUMBERS = ("energy", "natural_energy", "gap", "ess_share")


def least_energy(x: np.ndarray, t: float, first: np.ndarray, memory: int, threads: int) -> dict[str, Any]:
    """The least energy at one bandwidth, with its certificate, as in ``best`` of ``uniformity.json``.

    Args:
        x: (n, d) float32 unit rows.
        first: (n,) row of the first sample with the same vector.
        memory: bytes that the kernel may take.
    """
    reason = _no_room(Groups.of(first, len(first)).distinct, memory)
    if reason is not None:
        return no_energy(t, reason)
    say(f"searching the best re-weighting at t={t:g} (for the rectification)")
    found = solve(x, t, duplicates=first, tolerance=_TOLERANCE, memory=memory, threads=threads)
    reason = None if found.proven else "the kernel is approximated, so there is no certificate"
    return {"t": t, **_numbers(found), "effective_distinct": 1 / found.energy, "reason": reason}


def no_energy(t: float, reason: str | None) -> dict[str, Any]:
    """What `least_energy` gives where it was not searched, and why."""
    return {"t": t, **dict.fromkeys(_NUMBERS), "effective_distinct": None, "reason": reason}


def nearest(
    x: np.ndarray, target: Target, codes: np.ndarray | None, first: np.ndarray, memory: int, threads: int
) -> dict[str, Any]:
    """The least discrepancy from a target, with its certificate, as in ``best`` of its entry.

    Args:
        x, first, memory: as of `least_energy`.
        target: as the samples see it.
        codes: (n,) values of a column that is compared together with the vectors.
    """
    groups = Groups.of(first if codes is None else _same_in_both(first, codes), len(first))
    reason = _no_room(groups.distinct, memory)
    if reason is not None:
        return no_nearest(reason)
    say("searching the re-weighting nearest to the target (for the rectification)")
    rows = groups.first
    kernel = kernel_matrix(x[rows], LADDER, memory, threads, codes=None if codes is None else codes[rows])
    matching = Matching(kernel, target.mean[rows], target.constant)
    return _numbers(solve(matching, duplicates=groups, tolerance=_TOLERANCE)) | {"reason": None}


def no_nearest(reason: str) -> dict[str, Any]:
    """What `nearest` gives where it was not searched, and why."""
    return {**dict.fromkeys(_NUMBERS), "reason": reason}


def _numbers(found: Equilibrium) -> dict[str, Any]:
    return dict(zip(_NUMBERS, (found.energy, found.start_energy, found.gap, found.ess), strict=True))


def _no_room(distinct: int, memory: int) -> str | None:
    """Why the kernel of so many distinct samples cannot be kept; None where it can."""
    needed = 2 * distinct * (distinct + TILE) // 2
    if needed <= memory:
        return None
    return (
        f"needs {needed / 2**30:,.1f} GiB for the kernel of {distinct:,} distinct samples, "
        f"more than --memory {memory / 2**30:,.1f} GiB"
    )


def _same_in_both(first: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n,) row of the first sample with the same vector and the same value of the column."""
    _, index, inverse = np.unique(np.stack([first, codes]), axis=1, return_index=True, return_inverse=True)
    return index[inverse.reshape(-1)]
