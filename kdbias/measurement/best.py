"""The best that any re-weighting of the data reaches: what rectification is measured by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.measurement.distribution import rectification
from kdbias.sphere.equilibrium.device_kernel import DeviceKernel, product_seconds, takes_products
from kdbias.sphere.equilibrium.kernel_matrix import LADDER, Bandwidth, Matching, TiledKernel, kernel_matrix
from kdbias.sphere.equilibrium.levelling import levelled
from kdbias.sphere.equilibrium.solution import Equilibrium, GapShare, Groups
from kdbias.sphere.equilibrium.solve import solve
from kdbias.sphere.equilibrium.target import Target
from kdbias.sphere.tiles import TILE, seconds_estimate
from kdbias.targets.opening import OpenTarget
from kdbias.wording import duration

_TOLERANCE = 9e-3  # of the gain: rectification needs a certificate of less than 1 %
_NUMBERS = ("energy", "natural_energy", "gap", "ess_share")
NOT_SEARCHED = "not searched at this bandwidth; ask with --rectification all"
NEAREST_NOT_SEARCHED = "not searched; ask with --rectification all"
# With --rectification auto the re-weighting nearest to a target is searched up to this many samples.
_NEAREST_UP_TO = 16_384
_PRODUCTS = 25  # that a search takes
_PRODUCT_SECONDS = 6e-10  # of a pair of samples, with the kernel in memory


def wants_nearest(rectification: str, n: int) -> bool:
    """Whether the re-weighting nearest to a target is to be searched, too."""
    return rectification == "all" or (rectification == "auto" and n <= _NEAREST_UP_TO)


@dataclass(frozen=True)
class Resources:
    """What a search computes with.

    Attributes:
        memory: bytes that the kernel may take on the CPU.
        threads: CPU threads.
        device: where products are taken, if it takes them (`takes_products`); else the CPU.
    """

    memory: int
    threads: int
    device: str = "cpu"

    @property
    def on_device(self) -> bool:
        """Whether products are taken on the device."""
        return takes_products(self.device)

    def kernel(self, x: np.ndarray, t: Bandwidth, codes: np.ndarray | None = None) -> TiledKernel:
        """The kernel matrix of rows x (n, d), as of `kernel_matrix`."""
        if self.on_device:
            return DeviceKernel(x, t, self.device, codes, self.memory)
        return kernel_matrix(x, t, self.memory, self.threads, codes=codes)

    def seconds(self, n: int, d: int) -> float:
        """How long a search should take, from a timed tile or product."""
        if self.on_device:
            return _PRODUCTS * product_seconds(n, d, self.device)
        return search_seconds(n, d, self.threads)

    def no_room(self, distinct: int) -> str | None:
        """Why the kernel of so many distinct samples cannot be kept; None where it can, or need not be."""
        needed = 0 if self.on_device else distinct * (distinct + TILE)
        if needed <= self.memory:
            return None
        return (
            f"needs {needed / 2**30:,.1f} GiB for the kernel of {distinct:,} distinct samples, "
            f"more than --memory {self.memory / 2**30:,.1f} GiB"
        )


def announcement(rectification: str, n: int, d: int, resources: Resources) -> str:
    """What the first line of a run says of the search."""
    if rectification == "none":
        return ""
    seconds = resources.seconds(n, d)
    where = f"{'each' if rectification == 'all' else 'the chosen'} bandwidth"
    return f"; about {duration(seconds)} more for the best re-weighting at {where} (--rectification none: no)"


def search_seconds(n: int, d: int, threads: int) -> float:
    """How long a search should take on the CPU, from a timed tile of the kernel."""
    return seconds_estimate(n, d, threads) + _PRODUCTS * _PRODUCT_SECONDS * n * n / threads


def not_searched(natural: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``best`` of ``uniformity.json`` before a search.

    Args:
        natural: the natural scheme's bandwidths.
    """
    return [
        {
            "t": entry["t"],
            **dict.fromkeys((*_NUMBERS, "effective_distinct")),
            "reason": entry["reason"] if entry["uniformity"] is None else NOT_SEARCHED,
        }
        for entry in natural
    ]


def sought(
    best: Sequence[dict[str, Any]],
    natural: Sequence[dict[str, Any]],
    rectification: str,
    chosen: float,
    room: str | None = None,
) -> list[float]:
    """The bandwidths at which the best re-weighting is to be searched and not known.

    Args:
        best, natural: entries of all bandwidths, as of `not_searched`.
        rectification: ``all`` bandwidths, ``none``, or else the ``chosen`` one.
        room: what `Resources.no_room` says now; where that is known, a search has nothing to add.
    """
    return [
        known["t"]
        for known, entry in zip(best, natural, strict=True)
        if (rectification == "all" or (rectification != "none" and known["t"] == chosen))
        and known["energy"] is None
        and (room is None or known["reason"] != room)
        and entry["uniformity"] is not None
    ]


def search_best(
    best: Sequence[dict[str, Any]],
    bandwidths: Sequence[float],
    x: np.ndarray,
    first: np.ndarray,
    resources: Resources,
) -> list[dict[str, Any]]:
    """``best`` with the least energies at these bandwidths and their certificates.

    Each search starts from weights by inverse density, levelled (`levelling`).

    Args:
        best: as known so far.
        x: (n, d) float32 unit rows.
        first: (n,) row of the first sample with the same vector.
    """
    if not bandwidths:
        return [*best]
    groups = Groups.of(first, len(first))
    reason = resources.no_room(groups.distinct)
    if reason is not None:
        return [entry | {"reason": reason} if entry["t"] in bandwidths else entry for entry in best]
    rows = x if groups.distinct == len(x) else x[groups.first]
    found: dict[float, dict[str, Any]] = {}
    for t in sorted(bandwidths, reverse=True):
        where = f" on {resources.device}" if resources.on_device else ""
        progress.say(f"searching the best re-weighting at t={t:g}{where}")
        with progress.bar(100, "%", f"best re-weighting at t={t:g}") as bar:
            kernel, shown = resources.kernel(rows, t), GapShare(bar, _TOLERANCE)
            start = groups.spread(levelled(kernel, groups.natural, 0.95 * _TOLERANCE, shown))
            solution = solve(kernel, duplicates=groups, tolerance=_TOLERANCE, start=start, progress=shown)
        reason = None if solution.proven else "the kernel is approximated, so there is no certificate"
        found[t] = _known(solution) | {"effective_distinct": 1 / solution.energy, "reason": reason}
    return [entry | found.get(entry["t"], {}) for entry in best]


def add_nearest(
    document: dict[str, Any], x: np.ndarray, aim: OpenTarget, first: np.ndarray, resources: Resources
) -> None:
    """Search the re-weighting nearest to the target of a finished measurement, and rectify its schemes."""
    kernel = (
        resources.kernel(x, LADDER, aim.own_codes)
        if resources.on_device
        else TiledKernel(x, LADDER, kept=None, threads=resources.threads, codes=aim.own_codes)
    )
    seen = aim.of(x, LADDER, lambda q: kernel.apply(q, exact=True), threads=resources.threads)
    target, schemes = document["target"], document["schemes"]
    target["best"] = nearest(x, seen, aim, first, resources)
    before = target["best"]["natural_energy"] or schemes[0]["discrepancy"]["value"]
    for scheme in schemes if target["differs"] else []:
        found = scheme["discrepancy"]
        found["rectification"], found["rectification_reason"] = rectification(
            found["value"], before, target["best"], scheme is schemes[0], "from this target"
        )


def nearest(
    x: np.ndarray, target: Target, aim: OpenTarget, first: np.ndarray, resources: Resources
) -> dict[str, Any]:
    """The least discrepancy from a target, with its certificate, as in ``best`` of its entry.

    Args:
        x, first, resources: as of `search_best`.
        target: as the samples see it.
        aim: the target that was opened; its column, if any, is compared together with the vectors.
    """
    codes = aim.own_codes
    groups = Groups.of(first if codes is None else _same_in_both(first, codes), len(first))
    reason = resources.no_room(groups.distinct)
    if reason is not None:
        return no_nearest(reason)
    rows = groups.first
    with progress.bar(100, "%", "re-weighting nearest to the target") as bar:
        kernel = resources.kernel(x[rows], LADDER, None if codes is None else codes[rows])
        matching = Matching(kernel, target.mean[rows], target.constant)
        found = solve(matching, duplicates=groups, tolerance=_TOLERANCE, progress=GapShare(bar, _TOLERANCE))
    return _known(found) | {"reason": None}


def no_nearest(reason: str = NEAREST_NOT_SEARCHED) -> dict[str, Any]:
    """What `nearest` gives where it was not searched, and why."""
    return {**dict.fromkeys(_NUMBERS), "reason": reason}


def _known(found: Equilibrium) -> dict[str, Any]:
    return dict(zip(_NUMBERS, (found.energy, found.start_energy, found.gap, found.ess), strict=True))


def _same_in_both(first: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n,) row of the first sample with the same vector and the same value of the column."""
    _, index, inverse = np.unique(np.stack([first, codes]), axis=1, return_index=True, return_inverse=True)
    return index[inverse.reshape(-1)]
