"""What each stage would take here: timed on a small piece of its work, and scaled to the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.advice.data import Data
from kdbias.measurement.best import search_seconds
from kdbias.measurement.passes import PassPlan
from kdbias.measurement.settings import UniformitySettings
from kdbias.sphere.workers import available_threads
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.wording import counted


@dataclass(frozen=True)
class Cost:
    """How long a stage takes.

    Attributes:
        stage: its command.
        seconds: None where nothing was timed.
        how: what the number rests on.
    """

    stage: str
    seconds: float | None
    how: str


def embedding_cost(table: EmbeddingTable) -> Cost | None:
    """What embedding these data took; None for a table that does not say."""
    record: dict[str, Any] = table.provenance
    rate = record.get("images_per_second")
    if not isinstance(rate, int | float) or rate <= 0:
        return None
    return Cost("embed", table.n / rate, f"as it ran, {rate:,.0f} images/s")


def costs(data: Data, threads: int | None, weights: bool) -> Iterator[Cost]:
    """What the stages take for these data; those that are done already, as they ran."""
    embedding = embedding_cost(data.table)
    if embedding is not None:
        yield embedding
    count = threads or available_threads()
    if data.density is None:
        settings = UniformitySettings(threads=threads)
        seconds = PassPlan(settings, "cpu", Path()).seconds(data.n, data.table.d)
        yield Cost("uniformity", seconds, f"{counted(count, 'CPU thread')}, from a timed tile")
    if weights:
        seconds = search_seconds(data.n, data.table.d, count)
        yield Cost("weights", seconds, f"{counted(count, 'CPU thread')}, from a timed tile")
    yield Cost("train", None, "as many steps as without weights; kdbias train --plan times one")
