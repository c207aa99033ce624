"""What a page is about, and what a section of it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdbias.display.figure import Figure, Look
from kdbias.display.table import Table
from kdbias.reporting.explorer import Explorer
from kdbias.reporting.outputs import Outputs
from kdbias.reporting.settings import ReportSettings
from kdbias.reporting.tables import Provenance
from kdbias.reporting.thumbnails import Plot, Strip


@dataclass
class Section:
    """A part of the page, in the order of its fields. `add` leaves None out.

    Attributes:
        folded: tables that are shown when they are asked for.
        explorers: maps.
    """

    id: str
    title: str
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    explorers: list[Explorer] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    images: list[Plot] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    provenances: list[Provenance] = field(default_factory=list)

    def add(self, *parts: Table | Figure | None) -> None:
        """Append what there is."""
        self.tables += [part for part in parts if isinstance(part, Table)]
        self.figures += [part for part in parts if isinstance(part, Figure)]

    @property
    def alone(self) -> str | None:
        """The one-panel figure that would stand alone in its row of two; it gets the row's whole width."""
        waiting = None
        for figure in self.figures:
            if len(figure.panels) == 1:
                waiting = None if waiting else figure.name
        return waiting

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not any(part for name, part in vars(self).items() if name not in ("id", "title"))


@dataclass(frozen=True)
class Page:
    """What a page is about, and what it may show.

    Attributes:
        found: the outputs.
        look: of each scheme, the same in all figures.
        settings: how much of it is shown.
        roots: folders that pictures may come from.
        notices: lines at the page's head, to which sections add what they could not show.
    """

    found: Outputs
    look: Mapping[str, Look]
    settings: ReportSettings
    roots: Sequence[Path]
    notices: list[str]
