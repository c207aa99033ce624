"""The options of `advise`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias import shared_options as shared
from kdbias.settings import option
from kdbias.targets.settings import Aiming


@dataclass(frozen=True, kw_only=True)
class AdviseSettings(Aiming):
    """What data are held against, and how closely they are looked at."""

    name = "advise"

    embeddings: str | None = shared.embeddings()
    group_by: tuple[str, ...] = shared.group_by(
        "say what each value of this column gains and loses; repeatable"
    )
    most: int = option(
        8192,
        "samples that are looked at closely; of more data so many are drawn",
        least=100,
        most=46_000,
    )
    threads: int | None = shared.threads(operational=False)
    seed: int = option(0, "seed of draws and permutations", least=0)
