"""Weights of a density table, and what its manifest says of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdbias import progress
from kdbias.measurement.distribution import ess
from kdbias.tables.density_table import DensityTable
from kdbias.tables.weight_manifest import mean_one
from kdbias.weighting.blind_spots import blind_spots, reference_shares
from kdbias.weighting.collapse import groups_of
from kdbias.weighting.diagnostics import summary, warnings
from kdbias.weighting.exclusion import Exclusion
from kdbias.weighting.hygiene import limit_of, masses_of, tempered
from kdbias.weighting.samples import EmbeddingSource, Samples
from kdbias.weighting.schemes.scheme import Weights
from kdbias.weighting.settings import NEAR, WeightsSettings
from kdbias.wording import counted


@dataclass(frozen=True)
class Made:
    """Weights (n,) float64 of mean 1, how many samples there are, and what the manifest says of them."""

    values: np.ndarray
    counts: dict[str, int]
    document: dict[str, Any]


def make(
    table: DensityTable,
    kept: DensityTable,
    source: EmbeddingSource,
    settings: WeightsSettings,
    exclusion: Exclusion,
) -> Made:
    """Scheme, duplicates collapsed, temper, clip, mix, floor, mean 1: in this order."""
    if settings.chosen.assumes is not None:
        progress.say(
            f"{settings.method} assumes that {settings.chosen.assumes}; if you have some hundred images of "
            "where it will be used, embed them and say --towards"
        )
    for line in exclusion.lines:
        progress.say(line)
    groups = groups_of(kept, str(settings.collapse), source.vectors, settings.near or NEAR)
    if settings.collapse != "none":
        groups = settings.chosen.distinct(groups, source)
    scheme = settings.chosen.weigh(Samples(kept, groups, source, settings.floor, settings.threads, table.n))
    for line in scheme.notes:
        progress.say(line)
    cleaned = masses_of(scheme, settings, groups, table.n)
    masses, capped = exclusion.held(cleaned, groups, limit_of(scheme, settings), settings.floor)
    values = np.zeros(table.n)
    values[~exclusion.out] = groups.spread(masses)
    values = mean_one(values)
    numbers = summary(values, masses, table.label_codes)
    about = _after_hygiene(scheme, masses)
    compared = [c for c in (*table.group_columns, "label") if reference_shares(about, c) is not None]
    shown = [(c, table.labels if c == "label" else table.table.column(c)) for c in compared]
    spots = blind_spots(about, shown, values)
    document = {
        "numbers": numbers,
        "facts": scheme.facts | ({"suspects": exclusion.lines} if exclusion.lines else {}),
        "solver": solver_record(scheme, masses, capped),
        "target": about,
        "warnings": warnings(numbers, table.n) + spots + source.outdated(),
        "density": str(table.path.resolve().parent),
    }
    counts = {"samples": table.n, "distinct": groups.distinct, **exclusion.counted}
    return Made(values, counts, document)


def solver_record(found: Weights, masses: np.ndarray, capped: int = 0) -> dict[str, Any] | None:
    """What the solver reached, and the energy and gap of the masses that hygiene left.

    Args:
        capped: how many suspect images it would have drawn more often.
    """
    result = found.solution
    if result is None:
        return None
    changed = found.energy is not None and not np.array_equal(masses, found.values)
    energy = found.energy(masses) if changed and found.energy else result.energy
    return {
        "energy_before": result.start_energy,
        "energy": energy,
        # Hygiene keeps floor and cap and suspects have a further one, so that the best energy is still at
        # least the solver's less its gap.
        "gap": max(energy - (result.energy - result.gap), 0.0) if result.proven else None,
        "lambda": result.lam,
        "ess_distinct": ess(masses) / len(masses),
        "iterations": result.iterations,
        "products": result.products,
        "seconds": round(result.seconds, 3),
        "certified": result.certified and not changed,
        "reason": result.reason + (f", before {_later(capped)}" if changed else ""),
    }


def _later(capped: int) -> str:
    """What came after the solver."""
    return f"{counted(capped, 'suspect image')} were capped" if capped else "temper, clip and mix"


def _after_hygiene(found: Weights, masses: np.ndarray) -> dict[str, Any] | None:
    """What was found of the target, with the discrepancy of the masses that hygiene left."""
    about = found.target
    if about is None or found.energy is None or np.allclose(masses, tempered(found.values, 1.0)):
        return about
    after, before = found.energy(masses), about["discrepancy_before"]
    removed = None if before <= 0 else 1 - after / before
    return about | {"discrepancy": after, "removed": removed, "unbiased": None}
