"""What the page says before all: what to do, by `advise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kdbias
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
    """The advice on the first density; None without one, or where no advice can be given."""
    advise = getattr(kdbias, "advise", None)
    if advise is None:
        return None
    if not found.densities:
        return None
    try:
        advice = advise(found.densities[0].path)
    except KdbiasError:
        return None
    said = [line.partition(": ") for line in advice.lines()[: -len(advice.commands) or None]]
    return Verdict(
        advice.verdict,
        [(topic, text) for topic, _, text in said if topic != "verdict"],
        advice.commands,
    )
