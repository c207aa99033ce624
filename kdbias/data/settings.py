"""How a user says which columns and rows of a data set to read: shared by all stages that read images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from kdbias.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class Reading(Settings):
    """The options of `kdbias.open_data`."""

    id_column: str | None = option(
        None, "column with unique sample ids", metavar="NAME", shown="sample_id, else path"
    )
    label_column: str | None = option(
        None, "column with the identity or class", metavar="NAME", shown="label"
    )
    path_column: str | None = option(None, "column with image paths", metavar="NAME", shown="path")
    image_column: str | None = option(None, "column with image bytes", metavar="NAME", shown="image")
    where: tuple[str, ...] = option(
        (), "keep matching samples, e.g. split=train; repeatable", metavar="COLUMN=VALUE"
    )
    root: str | None = option(
        None, "data root for relative paths", path=True, metavar="DIR", shown="the data's own"
    )

    @property
    def reading(self) -> dict[str, Any]:
        """These options by name, as `kdbias.open_data` takes them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Reading)}
