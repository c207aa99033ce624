"""What weight manifests hold, for those that ``uniformity`` did not measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbias.reporting.collect import Collection, Density, Scheme
from kdbias.reporting.tables import NONE, Cell, Table, magnitude, number, percent

_COLUMNS = (
    ("scheme", "how samples are weighted"),
    ("method", "what kdbias weights was asked for"),
    ("t", "kernel bandwidth that the weights were made at"),
    ("D before", "effective number of distinct samples of natural sampling at this t"),
    ("D after", "the same under the manifest"),
    ("ESS", "Kish effective sample size, % of n"),
    ("max weight", "expected draws of the sample that is drawn most often"),
    ("never drawn", "samples of weight 0"),
    ("identities", "effective number of labels: exp(entropy of their share of the draws)"),
)


def unmeasured(found: Collection) -> list[Scheme]:
    """Manifests of ``kdbias weights`` that no collected density has numbers of."""
    measured = {s["name"] for d in found.densities for s in d.numbers.get("schemes", [])}
    return [s for s in found.schemes if s.name not in measured and s.manifest.provenance.get("numbers")]


def distinct(scheme: Scheme) -> tuple[float, float, float] | None:
    """(t, D of natural sampling, D of the manifest) from the solver's energies.

    None for other methods, and where the weights were edited since.
    """
    document = scheme.manifest.provenance
    solver: dict[str, Any] = document.get("solver") or {}
    t = (document.get("config") or {}).get("t")
    before, after = solver.get("energy_before"), solver.get("energy")
    if not t or not before or not after or scheme.edited:
        return None
    return float(t), 1 / float(before), 1 / float(after)


def reached(found: Collection, density: Density) -> list[tuple[float, str, float]]:
    """(D, scheme, ESS/n) of manifests that were made from a density at its own bandwidth."""
    listed = []
    for scheme in unmeasured(found):
        document, known = scheme.manifest.provenance, distinct(scheme)
        own = (document.get("inputs") or {}).get("density") == density.table.fingerprint
        if own and known is not None and f"{known[0]:g}" == density.bandwidth:
            listed.append((known[2], scheme.name, scheme.numbers["ess_share"]))
    return listed


def manifests_table(schemes: Sequence[Scheme]) -> Table | None:
    """A row a manifest."""
    rows = []
    for scheme in schemes:
        numbers, config = scheme.numbers, scheme.manifest.provenance.get("config") or {}
        known = distinct(scheme)
        rows.append(
            [
                Cell(scheme.name),
                Cell(str(config.get("method", NONE)) + (", edited since" if scheme.edited else "")),
                Cell(f"{config['t']:g}" if config.get("t") else NONE, True),
                magnitude(known[1] if known else None),
                magnitude(known[2] if known else None),
                percent(numbers["ess_share"]),
                number(numbers["max_weight"], 2),
                number(numbers["zero_weights"], 0),
                number(numbers["effective_identities"], 1),
            ]
        )
    if not rows:
        return None
    caption = (
        "D as kdbias weights recorded it, the rest from the weights in each file; kdbias uniformity "
        "--weights measures them at every bandwidth, beside natural sampling."
    )
    if any(scheme.edited for scheme in schemes):
        caption += " No D is recorded of a manifest that was edited since kdbias weights wrote it."
    return Table("Weight manifests", caption, _COLUMNS, rows, explain=True)
