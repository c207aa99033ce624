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
        "sample images of each kind (most crowded, most isolated, most and least drawn, near-duplicates); 0 "
        "for none, so that no picture of a person leaves with the page",
        least=0,
    )
    dots: int = option(
        10_000,
        "samples on the map, of more so many drawn at random; 0 for no map, and so no list of ids",
        least=0,
        most=50_000,
    )
    map_pictures: int = option(
        2000, "samples of the map that get a small picture, drawn at random", least=0, most=10_000
    )
    projection: str = option(
        "auto",
        "places on the map: two principal directions (pca), by neighbourhoods (tsne: a minute for 10,000 "
        "samples), or auto: tsne where two principal directions hold less than 20 % of the variance",
        choices=("auto", "pca", "tsne"),
    )
    root: str | None = option(
        None,
        "folder that holds the data: sample images come from below it or from below a folder among the "
        "outputs alone, whatever they (somebody else's, perhaps) have recorded",
        path=True,
        metavar="DIR",
    )
    overwrite: bool = option(True, "replace a page that kdbias report wrote", operational=True)
