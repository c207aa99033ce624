"""What the page says before all: what to do, by `advise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbias.advice.commands import Places
from kdbias.advice.settings import AdviseSettings
from kdbias.advice.stage import advice_on
from kdbias.errors import KdbiasError
from kdbias.reporting.outputs import Density, Outputs, input_of
from kdbias.sphere.equilibrium.kernel_matrix import LADDER

_USUAL = {"method": "matched", "t": list(LADDER), "temper": 1.0, "clip": None, "mix": 0.0, "cap": None}
_USUAL |= {"collapse": "exact", "near": None, "suspects": None, "penalty": "square", "stop": "noise"}
"""What weights that an advice speaks of are made with, whatever their floor."""


@dataclass(frozen=True)
class Verdict:
    """An advice as the page shows it.

    Attributes:
        line: what to do.
        facts: (topic, text) of each further line.
        commands: to type next.
    """

    line: str
    facts: Sequence[tuple[str, str]]
    commands: Sequence[str]


def verdict(found: Outputs) -> Verdict | None:
    """The advice on the first density, or why there is none; None without a density."""
    if not found.densities:
        return None
    density = found.densities[0]
    try:
        advice = advice_on(density.path, AdviseSettings(), _places(found, density))
    except KdbiasError as error:
        return Verdict(f"no verdict: {error}", [], [])
    said = [line.partition(": ") for line in advice.lines()[: -len(advice.commands) or None]]
    return Verdict(
        advice.verdict,
        [(topic, text) for topic, _, text in said if topic != "verdict"],
        advice.commands,
    )


def _places(found: Outputs, density: Density) -> Places:
    """The manifest on the page that is the advised one, at its own floor; none of others, which are not."""
    target = density.numbers["target"]
    asked = None if target is None else (target["fingerprints"], target["with"], target["cluster_by"])
    for manifest in found.manifests:
        record, config = manifest.provenance, manifest.provenance.get("config") or {}
        of_it = input_of(record, "density") == density.table.fingerprint and not manifest.edited
        towards = (record.get("inputs") or {}).items()
        given = {name: value for name, value in towards if name.startswith("towards")}
        usual = all(config.get(name, value) == value for name, value in _USUAL.items())
        if of_it and usual and asked == (given, config.get("with_column"), config.get("cluster_by")):
            return Places(manifest.path, config["min_ess"] or 0.0)
    return Places()
