"""What the page says first: how far the data are from the target, their worth, what a student gained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdbias.display.quantities import write
from kdbias.reporting import tables
from kdbias.reporting.group_tables import best_scheme
from kdbias.reporting.outputs import NATURAL, Density, Outputs
from kdbias.tables.provenance import inputs_in


@dataclass(frozen=True)
class Fact:
    """A number to see first, and what it means."""

    value: str
    meaning: str


def headline(found: Outputs) -> list[Fact]:
    """What to see first; every number is read from the collected files."""
    facts: list[Fact] = []
    if found.densities:
        density = found.densities[0]
        facts.append(Fact(f"{density.table.n:,}", "samples measured"))
        target = density.numbers["target"]
        facts += _worth(found, density) if target is None else _distance(density, target)
    return [*facts, *_gain(found)]


def _distance(density: Density, target: dict[str, Any]) -> Iterator[Fact]:
    """How far the data are from the target, and what the nearest scheme removes of that."""
    schemes, what = density.numbers["schemes"], f"“{target['towards']}”"
    natural = schemes[0]["discrepancy"]
    if not target["differs"]:
        yield Fact("alike", f"the data do not differ measurably from {what}: natural sampling is the answer")
        return
    if natural["noise_ratio"] is None:
        yield Fact(write("discrepancy", natural["value"]), f"squared discrepancy of the data from {what}")
    else:
        ratio = f"{write('noise_ratio', natural['noise_ratio'])} ×"
        yield Fact(ratio, f"the noise of such a reference: how far the data are from {what}")
    name = best_scheme(density, [scheme["name"] for scheme in schemes])
    best = next((s for s in schemes if s["name"] == name), None)
    if best and (share := best["discrepancy"]["removed"]) is not None:
        cost = f"ESS/n {write('ess_share', best['ess_share'])}"
        yield Fact(write("removed", share), f"of that removed by “{best['name']}” ({cost})")


def _worth(found: Outputs, density: Density) -> Iterator[Fact]:
    """How many distinct samples the draws are worth at the chosen bandwidth, naturally and at best."""
    chosen = [row for row in tables.uniformity_rows(density) if f"{row['t']:g}" == density.bandwidth]
    t, natural = f"t = {density.bandwidth}", chosen[0]
    if natural["effective_distinct"] is None:
        return
    ceiling = write("distinct_ceiling", natural["distinct_ceiling"])
    yield Fact(
        write("effective_distinct", natural["effective_distinct"]),
        f"distinct samples they are worth as drawn naturally ({t}; ceiling {ceiling})",
    )
    reached = [
        (row["effective_distinct"], row["scheme"], row["ess_share"])
        for row in chosen[1:]
        if row["effective_distinct"] is not None
    ] or _made_from(found, density)
    if reached:
        best, scheme, ess = max(reached)
        worth = f"distinct samples under “{scheme}” ({t}; ESS/n {100 * ess:.0f} %)"
        yield Fact(write("effective_distinct", best), worth)


def _made_from(found: Outputs, density: Density) -> list[tuple[float, str, float]]:
    """(D, scheme, ESS/n) of manifests that were made from a density at its own bandwidth."""
    own = density.table.fingerprint
    return [
        (known["distinct_after"], manifest.name, manifest.numbers["ess_share"])
        for manifest in tables.unmeasured(found)
        if (known := tables.distinct(manifest)) and write("t", known["t"]) == density.bandwidth
        if inputs_in(manifest.provenance).get("density") == own
    ]


def _gain(found: Outputs) -> Iterator[Fact]:
    """What the students drawn naturally reached, and those of the best other scheme."""
    values = tables.values_by_scheme(found.judged_alike)
    for name, measure in list(tables.shown_measures(values).items())[:1]:
        means = tables.distilled_means(values[name])
        if NATURAL in means and len(means) > 1:
            best = tables.best_of({s: mean for s, mean in means.items() if s != NATURAL}, measure)[0]
            ends = [values[name][NATURAL], values[name][best]]
            change = " → ".join(measure.spread(end).replace(" ", "\u00a0") for end in ends)
            over = "mean ± standard deviation over seeds" if max(map(len, ends)) > 1 else "one seed each"
            none = "; no other sampling beats natural" if NATURAL in tables.best_of(means, measure) else ""
            yield Fact(change, f"{measure.heading}: natural → “{best}”, {over}{none}")
