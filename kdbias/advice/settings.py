"""The options of `advise`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias.device import MOST_PARALLEL
from kdbias.settings import option
from kdbias.targets.settings import Aiming


@dataclass(frozen=True, kw_only=True)
class AdviseSettings(Aiming):
    """What data are held against, and how closely they are looked at."""

    name = "advise"

    embeddings: str | None = option(
        None, "embedding table", path=True, metavar="EMB", shown="the one that DENSITY was made from"
    )
    group_by: tuple[str, ...] = option(
        (), "say what each value of this column gains and loses; repeatable", metavar="COLUMN"
    )
    most: int = option(
        8192,
        "samples that are looked at closely; of more data so many are drawn",
        least=100,
        most=46_000,
    )
    threads: int | None = option(None, "CPU threads", shown="all", least=1, most=MOST_PARALLEL)
    seed: int = option(0, "seed of draws and permutations", least=0)
