"""The options of `demo`."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias import shared_options as shared
from kdbias.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """How large a demo is, and where it computes. A folder keeps its size; more seeds add students."""

    name = "demo"

    seeds: int = option(
        3, "students for each weight manifest, trained with seeds 0, 1, ...", least=1, operational=True
    )
    quick: bool = option(False, "a small size that ends in half a minute and proves nothing")
    device: str = shared.device("of teacher and students")
    threads: int = shared.threads(
        "CPU threads of a training run; such small networks gain nothing from more", 1
    )
