"""What the page says before all: what to do, by `advise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbias.advice.commands import Places
from kdbias.advice.settings import AdviseSettings
from kdbias.advice.stage import advice_on
from kdbias.errors import KdbiasError
from kdbias.reporting.outputs import Outputs


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
        advice = advice_on(density.path, AdviseSettings(), Places([m.path for m in found.manifests]))
    except KdbiasError as error:
        return Verdict(f"no verdict: {error}", [], [])
    said = [line.partition(": ") for line in advice.lines()[: -len(advice.commands) or None]]
    return Verdict(
        advice.verdict,
        [(topic, text) for topic, _, text in said if topic != "verdict"],
        advice.commands,
    )
