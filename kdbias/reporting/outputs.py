"""Gathers what the report shows: outputs of the stages, recognised by content and linked to each other."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection.recognition import recognise, recognise_quietly, stage_folders
from kdbias.measurement.files import read_uniformity
from kdbias.reporting.naming import candidates, recipes, told_apart
from kdbias.tables.csv_file import read_csv
from kdbias.tables.parquet_file import read_table
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.weighting.diagnostics import current, edited
from kdbias.weighting.frontier_figure import optimum, series

if TYPE_CHECKING:
    from kdbias.tables.density_table import DensityTable
    from kdbias.tables.embedding_table import EmbeddingTable
    from kdbias.tables.weight_manifest import WeightManifest

NATURAL = "natural"
_UNWEIGHTED = "unweighted"
_FROM_LABELS = "trained on labels"
_REPORTED = (
    *("embedding table", "density folder", "weight manifest", "frontier"),
    *("training run", "evaluation"),
)


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
    def t(self) -> float:
        return float(self.rows[0]["t"])

    @property
    def names(self) -> list[str]:
        """Its series: each scheme, and the equilibria as one."""
        return series(self.rows)

    def optimum(self, column: str) -> list[tuple[float, float]]:
        """(ESS/n, value) of the equilibria, by rising ESS."""
        return optimum(self.rows, column)


def read_frontier(folder: Path) -> Frontier:
    """What `frontier` left in a folder."""
    return Frontier(folder, read_record(folder), read_table(folder / "frontier.parquet").to_pylist())


def is_distilled(scheme: str) -> bool:
    """Whether runs of this name learnt from a teacher."""
    return not scheme.startswith(_FROM_LABELS)


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
        return self.metrics["protocol"]

    @property
    def judged(self) -> str:
        """What it judged, by name."""
        if self.run is not None:
            return self.run.path.name
        return str(input_of(self.record, "model", "paths") or self.path.name)

    @property
    def question(self) -> str:
        """What was asked of the model: evaluations that differ in it are not to be averaged."""
        config = self.record.get("config") or {}
        asked = {name: config.get(name) for name in ("options", "where", "gallery_where")}
        return json.dumps([asked, self.metrics["n"], self.metrics.get("test_data")], sort_keys=True)


@dataclass
class Outputs:
    """Everything that a report is about."""

    embeddings: list[EmbeddingTable] = field(default_factory=list)
    densities: list[Density] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    runs: list[TrainingRun] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)

    @property
    def judged_alike(self) -> list[Evaluation]:
        """The evaluations of runs that may be averaged: of a protocol those of the most frequent question."""
        asked: dict[str, Counter[str]] = {}
        of_runs = [e for e in self.evaluations if e.run is not None]
        for evaluation in of_runs:
            asked.setdefault(evaluation.protocol, Counter())[evaluation.question] += 1
        return [e for e in of_runs if e.question == asked[e.protocol].most_common(1)[0][0]]


def collect(outputs: Sequence[str | os.PathLike[str]]) -> Outputs:
    """Read any mix of stage outputs; a folder that holds several (a demo) stands for all of them.

    Unfinished outputs are listed, not read. Manifests and embedding tables that a density folder names are
    taken along where they still lie there.

    Raises:
        KdbiasError: a path is missing or no output of kdbias, or nothing finished is among them.
    """
    places = list(dict.fromkeys(place for output in outputs for place in _expand(Path(output))))
    found = Outputs()
    by_kind: dict[str, list[Path]] = {}
    for place in places:
        if place.is_dir() and read_record(place).get("status") != "finished":
            found.unfinished.append(place)
        else:
            by_kind.setdefault(recognise(place), []).append(place)
    _read_densities(by_kind, found)
    _read_embeddings(by_kind, found)
    _read_manifests(by_kind, found)
    found.frontiers = [read_frontier(place) for place in by_kind.get("frontier", [])]
    found.runs = _read_runs(by_kind.get("training run", []), found.manifests)
    found.evaluations = [
        _read_evaluation(place, found.runs, found.embeddings) for place in by_kind.get("evaluation", [])
    ]
    if not any(held for name, held in vars(found).items() if name != "unfinished"):
        named = ", ".join(str(p) for p in found.unfinished) or ", ".join(map(str, outputs))
        raise KdbiasError(f"nothing finished to report on in {named}; finish a stage first")
    return found


def _expand(place: Path) -> list[Path]:
    kind = recognise(place)
    if kind in ("demo", "outputs"):
        shown = [f for f in place.rglob("*.parquet") if "/." not in f"/{f.relative_to(place).as_posix()}"]
        files = sorted(f for f in shown if recognise_quietly(f) == "weight manifest")
        inside = [p for p in stage_folders(place) if recognise(p) != "demo"]
        return [*inside, *(f for f in files if not any(folder in f.parents for folder in inside))]
    if kind in _REPORTED:
        return [place]
    if kind == "density table" and (place.parent / RECORD).exists():
        return [place.parent]
    raise KdbiasError(
        f"{place} is {_article(kind)}, which is no output to report on; give folders of embed, uniformity, "
        "weights --frontier, train, evaluate or demo, or weight manifests"
    )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def _read_densities(by_kind: dict[str, list[Path]], found: Outputs) -> None:
    from kdbias.tables.density_table import read_density

    for place in by_kind.get("density folder", []):
        record, numbers = read_record(place), read_uniformity(place)
        found.densities.append(Density(place, record, numbers, read_density(place)))


def _read_embeddings(by_kind: dict[str, list[Path]], found: Outputs) -> None:
    from kdbias.tables.embedding_table import EmbeddingTable

    tables = [EmbeddingTable.open(p, require_finished=False) for p in by_kind.get("embedding table", [])]
    for density in found.densities:
        named = density.table.provenance.get("embeddings")
        if isinstance(named, str):
            known = input_of(density.table.provenance, "embeddings")
            tables += itertools.islice(_tables_named(named, density.path, known), 1)
    once: dict[Path, EmbeddingTable] = {}
    for table in tables:
        once.setdefault(table.path.resolve(), table)
    found.embeddings = list(once.values())


def _tables_named(named: str, record: Path, known: str | None) -> Iterator[EmbeddingTable]:
    """The embedding tables that a record may mean; one with another fingerprint is another table."""
    from kdbias.tables.embedding_table import EmbeddingTable

    for place in candidates(named, record, known is not None):
        if recognise_quietly(place) == "embedding table":
            table = EmbeddingTable.open(place, require_finished=False)
            if known in (None, table.fingerprint):
                yield table


def _read_manifests(by_kind: dict[str, list[Path]], found: Outputs) -> None:
    from kdbias.tables.weight_manifest import read_manifest

    files = {place.resolve(): read_manifest(place) for place in by_kind.get("weight manifest", [])}
    names: dict[Path, str] = {}
    for density in found.densities:
        for scheme in filter(lambda entry: entry["weights"], density.numbers["schemes"]):
            for file in itertools.islice(_manifests_named(scheme, density.path), 1):
                files.setdefault(file.path.resolve(), file)
                names[file.path.resolve()] = scheme["name"]
    others = [place for place in files if place not in names]
    names |= zip(others, told_apart(others, {*names.values()}), strict=True)
    order = [NATURAL, *(s["name"] for d in found.densities for s in d.numbers["schemes"])]
    found.manifests = [Manifest(names[place], file) for place, file in files.items()]
    found.manifests.sort(key=lambda m: order.index(m.name) if m.name in order else len(order))


def _manifests_named(scheme: dict[str, Any], record: Path) -> Iterator[WeightManifest]:
    """The manifests that a scheme of uniformity.json may mean: those of its fingerprint, where it has one."""
    from kdbias.tables.weight_manifest import read_manifest

    known = scheme["fingerprint"]
    for place in candidates(scheme["weights"], record, known is not None):
        if recognise_quietly(place) == "weight manifest":
            file = read_manifest(place)
            if known in (None, file.fingerprint):
                yield file


def input_of(record: Mapping[str, Any], role: str, kind: str = "inputs") -> str | None:
    """The fingerprint of an input in a record, or with ``kind`` "paths" where it lay; None for none."""
    return (record.get(kind) or {}).get(role)


def _read_runs(places: Sequence[Path], manifests: Sequence[Manifest]) -> list[TrainingRun]:
    records = [read_record(place) for place in places]
    names = recipes([(_scheme_of(record, manifests), record) for record in records])
    return [
        TrainingRun(place, record, name, _read_metrics(place, record))
        for place, record, name in zip(places, records, names, strict=True)
    ]


def _scheme_of(record: dict[str, Any], manifests: Sequence[Manifest]) -> str:
    fingerprint, named = input_of(record, "weights"), input_of(record, "weights", "paths")
    for manifest in manifests:
        if fingerprint and manifest.file.fingerprint == fingerprint:
            return manifest.name
    if named is not None:
        return told_apart([Path(named)], {manifest.name for manifest in manifests})[0]
    return _UNWEIGHTED if input_of(record, "embeddings") else _FROM_LABELS


def _read_metrics(folder: Path, record: dict[str, Any]) -> dict[str, list[Any]]:
    """Columns of metrics.csv; numbers as numbers, empty fields as None."""
    path = folder / "metrics.csv"
    if not path.exists():
        return {}
    require_digest(folder, record, path.name)
    return read_csv(path).to_pydict()


def _read_evaluation(
    place: Path, runs: Sequence[TrainingRun], embeddings: Sequence[EmbeddingTable]
) -> Evaluation:
    """An evaluation names its run itself, or judged an embedding table that the run, as teacher, made."""
    record, metrics = read_record(place), read_metrics(place)
    named, by = input_of(record, "model", "paths"), place
    if named is None:
        judged = input_of(record, "model")
        table = next((e for e in embeddings if e.fingerprint == judged), None)
        named = table.provenance.get("teacher") if table else None
        by = table.path if table else place
    if not isinstance(named, str):
        return Evaluation(place, record, metrics, None)
    wanted = Path(named.removeprefix("run:"))
    for here in candidates(wanted, by):
        exact = next((run for run in runs if run.path.resolve() == here.resolve()), None)
        if exact is not None:
            return Evaluation(place, record, metrics, exact)
    return Evaluation(place, record, metrics, next((run for run in runs if _moved(run.path, wanted)), None))


def _moved(path: Path, named: Path) -> bool:
    """Whether a recorded path means this one after the whole tree was moved."""
    return not named.exists() and path.parts[-2:] == named.parts[-2:]
