"""What a run refuses before anything is embedded: targets and columns that later stages would refuse."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdbias.data.opening import open_data
from kdbias.errors import KdbiasError
from kdbias.pipeline.settings import RunSettings
from kdbias.pipeline.steps import Steps
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.weight_manifest import read_manifest
from kdbias.targets.columns import told_of
from kdbias.targets.described import Awaited, Described
from kdbias.targets.fit import require_alike
from kdbias.targets.opening import inputs_of
from kdbias.targets.settings import Named


@dataclass(frozen=True)
class AwaitedTeacher:
    """Who will make a table, and how: opened where the table is not there yet."""

    path: str
    settings: RunSettings

    @cached_property
    def _network(self) -> Any:
        from kdbias.embedding.inputs import open_network

        return open_network(self.settings)

    @property
    def d(self) -> int:
        """Dimensions of its vectors."""
        return self._network.dim

    @property
    def provenance(self) -> dict[str, Any]:
        """What the record will say of it."""
        made = {"preprocessing": self._network.preprocessing.to_dict()}
        return {
            "teacher": self.settings.teacher,
            "config": made,
            "inputs": {"teacher": self._network.fingerprint},
        }


def refuse_targets(steps: Steps) -> None:
    """Refuse what the stages behind the embedding would refuse of target and columns.

    Raises:
        KdbiasError: as these stages.
    """
    settings, named = steps.settings, steps.settings.named
    aimed = None if named is None or named.kind == "sphere" else named
    if aimed is None and not settings.group_by:
        return
    source = open_data(steps.data, **settings.reading, images=not settings.precomputed)
    reference = None if aimed is None else _reference(steps, aimed)
    data = Awaited(source, settings.label_column)
    # Of stored vectors, labels may lie beside them: what is said of these is left to the stages.
    unsure = settings.precomputed and source.labels is None
    for name in settings.group_by:
        if not (unsure and name == "label"):
            data.column(name)
    if aimed is not None and not (unsure and "label" in (settings.with_column, aimed.what)):
        told_of(settings, aimed, data, reference)


def _reference(steps: Steps, named: Named) -> Described | None:
    """The reference as far as it is there; None where another target is named."""
    settings, images = steps.settings, steps.images_of_target
    if images is not None:
        if os.path.realpath(images) == os.path.realpath(steps.data) and not settings.where:
            raise KdbiasError(
                f"--towards {images} are the data themselves, so natural sampling is like it already; name a "
                "sample of what the student will be used on"
            )
        if named.by is not None:
            read_manifest(named.by)
        reading = steps.reading_of_target
        return Awaited(open_data(images, **reading), reading.get("label_column"))
    inputs_of(named)
    if named.kind != "reference":
        return None
    table = EmbeddingTable.open(named.what)
    if not settings.precomputed and settings.engine is None and not steps.is_embedded:
        require_alike(table, AwaitedTeacher(steps.data, settings))
    return table
