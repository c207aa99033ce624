"""What weights cost and when to worry."""

import math
from typing import Any

import numpy as np

from kdbias.measurement.distribution import effective_identities, ess, top_mass
from kdbias.tables.joins import encode
from kdbias.tables.weight_manifest import WeightManifest, never_drawn

# Lines past which a manifest comes with a warning. An ESS below a tenth of the samples is where
# importance-sampling tools start to warn; a weight above 50 shows one image 50 times an epoch.
LEAST_ESS = 0.1
MOST_WEIGHT = 50.0
MOST_TOP_MASS = 0.5


def summary(weights: np.ndarray, masses: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """Numbers about one manifest.

    Args:
        weights: (n,) with mean 1.
        masses: (m,) of the distinct samples.
        codes: (n,) label codes, -1 for none.

    Returns:
        ess (of the rows), ess_share (ess / n), ess_distinct (share of the distinct samples), max_weight,
        top_mass (of the 1 % of samples with the largest weights), zero_weights, effective_identities.
    """
    return {**of_rows(weights, codes), "ess_distinct": ess(masses) / len(masses)}


def current(manifest: WeightManifest) -> dict[str, Any]:
    """The numbers of `summary` from a file's weights as they are now, but for ess_distinct."""
    return of_rows(manifest.weights, encode(manifest.labels)[0])


def edited(manifest: WeightManifest, now: dict[str, Any]) -> bool:
    """Whether the `current` numbers are not those that ``weights`` recorded; False where it recorded none."""
    recorded = manifest.provenance.get("numbers") or {}
    return any(not _same(value, recorded[name]) for name, value in now.items() if name in recorded)


def _same(a: float | None, b: float | None) -> bool:
    """Whether two values are equal but for rounding, or both None."""
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6)


def of_rows(weights: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """What weights (n,) draw: ESS, largest weights, and identities by codes (n,)."""
    p = weights / weights.sum()
    rows = ess(p)
    return {
        "ess": rows,
        "ess_share": rows / len(weights),
        "max_weight": float(weights.max()),
        "top_mass": top_mass(p),
        "zero_weights": never_drawn(weights),
        "effective_identities": effective_identities(p, codes),
    }


def warnings(numbers: dict[str, Any], n: int) -> list[str]:
    """One line for each number of `summary` that is past its line."""
    found = []
    if numbers["ess_share"] < LEAST_ESS:
        found.append(
            f"effective sample size {numbers['ess']:,.0f} of {n:,} ({numbers['ess_share']:.1%}, below "
            f"{LEAST_ESS:.0%}): an epoch repeats few samples; use --min-ess, --mix or --temper"
        )
    if numbers["max_weight"] > MOST_WEIGHT:
        found.append(
            f"largest weight {numbers['max_weight']:.1f} > {MOST_WEIGHT:g}: one sample is drawn that often "
            "an epoch; use --clip (equilibrium: --cap)"
        )
    # One sample in a hundred is an outlier's share of a small set too, hence the least size.
    if n >= 100 and numbers["top_mass"] > MOST_TOP_MASS:
        found.append(
            f"1 % of the samples get {numbers['top_mass']:.0%} of the draws (> {MOST_TOP_MASS:.0%}); use "
            "--clip (equilibrium: --cap)"
        )
    return found
