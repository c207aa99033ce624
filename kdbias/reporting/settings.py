"""The options of `report`."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class ReportSettings(Settings):
    """What a page shows, and what it may replace."""

    name = "report"

    title: str = option("kdbias report", "heading of the page", metavar="TEXT")
    pictures: int = option(
        10,
        "sample images of each kind (most crowded, most isolated, most and least drawn); 0 for none, so that "
        "no picture of a person leaves with the page",
        least=0,
    )
    root: str | None = option(
        None,
        "folder that holds the data: sample images come from below it or from below a folder among the "
        "outputs alone, whatever they (somebody else's, perhaps) have recorded",
        path=True,
        metavar="DIR",
    )
    overwrite: bool = option(True, "replace a page that kdbias report wrote", operational=True)
