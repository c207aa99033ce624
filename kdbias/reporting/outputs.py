"""What the report shows: outputs of the stages, each with what is read of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.evaluation.settings import EvaluateSettings, options_of
from kdbias.tables.documents import require_shape
from kdbias.tables.parquet_file import read_table
from kdbias.tables.provenance import options_in, paths_in
from kdbias.tables.run_record import RECORD, read_record
from kdbias.weighting.diagnostics import current, edited

if TYPE_CHECKING:
    from kdbias.studies.comparisons import CaseRows
    from kdbias.tables.density_table import DensityTable
    from kdbias.tables.embedding_table import EmbeddingTable
    from kdbias.tables.weight_manifest import WeightManifest

NATURAL = "natural"
FROM_LABELS = "trained on labels"


@dataclass(frozen=True)
class Density:
    """An output of ``kdbias uniformity``: its numbers (uniformity.json) and its table."""

    path: Path
    record: dict[str, Any]
    numbers: dict[str, Any]
    table: DensityTable

    @property
    def bandwidth(self) -> str:
        """The t of its ``log_density`` as text."""
        return f"{self.numbers['t_chosen']:g}"


@dataclass(frozen=True)
class Manifest:
    """A weight manifest and the name it goes by on the page."""

    name: str
    file: WeightManifest

    @property
    def path(self) -> Path:
        """Where the manifest is."""
        return self.file.path

    @property
    def provenance(self) -> dict[str, Any]:
        """How it was made."""
        return self.file.provenance

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """ESS, largest weight and so on, of the weights in the file."""
        return current(self.file)

    @cached_property
    def edited(self) -> bool:
        """Whether the file is no longer what its provenance describes."""
        return edited(self.file, self.numbers)


@dataclass(frozen=True)
class Frontier:
    """An output of ``kdbias weights --frontier``: a row a scheme, by falling effective sample size."""

    path: Path
    record: dict[str, Any]
    rows: Sequence[Mapping[str, Any]]

    @property
    def t(self) -> float | Sequence[float]:
        """The bandwidth, or several whose kernels are averaged."""
        return self.record["config"]["t"]


def read_frontier(folder: Path) -> Frontier:
    """What `frontier` left in a folder."""
    record = read_record(folder)
    require_shape(
        record,
        {"config": {"t": (float, [float])}, "target?": ({"towards": str, "noise": float}, None)},
        folder / RECORD,
    )
    return Frontier(folder, record, read_table(folder / "frontier.parquet").to_pylist())


def is_distilled(scheme: str) -> bool:
    """Whether runs of this name learnt from a teacher."""
    return not scheme.startswith(FROM_LABELS)


@dataclass(frozen=True)
class TrainingRun:
    """A training run; ``scheme`` names the manifest that it drew by, and what sets runs of it apart.

    Runs of one ``scheme`` differ in nothing but the seed. Without a manifest it says whether a teacher
    taught it.
    """

    path: Path
    record: dict[str, Any]
    scheme: str
    metrics: dict[str, list[Any]]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, with the scheme of the run it judged (None = not one of the collected runs)."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    run: TrainingRun | None

    @property
    def protocol(self) -> str:
        """How it judged."""
        return self.metrics["protocol"]

    @property
    def judged(self) -> str:
        """What it judged, by name."""
        if self.run is not None:
            return self.run.path.name
        return str(paths_in(self.record).get("model") or self.path.name)

    @property
    def question(self) -> str:
        """What was asked of the model: evaluations that differ in it are not to be averaged."""
        config = EvaluateSettings.usual() | options_in(self.record)
        asked = [options_of(self.protocol, config), config["where"], config["gallery_where"]]
        return json.dumps([*asked, self.metrics["n"], self.metrics.get("test_data")], sort_keys=True)


@dataclass(frozen=True)
class StudyOutput:
    """An output of ``kdbias study``: its record, study.json and the finished runs of each case and round."""

    path: Path
    record: dict[str, Any]
    document: dict[str, Any]
    cases: tuple[CaseRows, ...]


@dataclass
class Outputs:
    """Everything that a report is about."""

    embeddings: list[EmbeddingTable] = field(default_factory=list)
    densities: list[Density] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    runs: list[TrainingRun] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    studies: list[StudyOutput] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)

    @property
    def judged_alike(self) -> list[Evaluation]:
        """The evaluations of runs that may be averaged: of a protocol those of the most frequent question."""
        asked: dict[str, Counter[str]] = {}
        of_runs = [e for e in self.evaluations if e.run is not None]
        for evaluation in of_runs:
            asked.setdefault(evaluation.protocol, Counter())[evaluation.question] += 1
        return [e for e in of_runs if e.question == asked[e.protocol].most_common(1)[0][0]]
