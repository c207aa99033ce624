"""Gathers what the report shows: outputs of the stages, recognised by content and linked to each other."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection.recognition import recognise, recognise_quietly, stage_folders
from kdbias.measurement.files import read_uniformity
from kdbias.reporting.frontier import Frontier, read_frontier
from kdbias.reporting.naming import recipes, told_apart
from kdbias.reporting.places import candidates
from kdbias.tables.csv_file import read_csv
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.weighting.diagnostics import current, edited

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
        """The t of its ``log_density`` as text, "?" where it was not recorded."""
        t = self.numbers.get("t_chosen")
        return f"{t:g}" if isinstance(t, int | float) else "?"


@dataclass(frozen=True)
class Scheme:
    """A weight manifest and the name it goes by on the page."""

    name: str
    manifest: WeightManifest

    @property
    def path(self) -> Path:
        return self.manifest.path

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """ESS, largest weight and so on, of the weights in the file."""
        return current(self.manifest)

    @cached_property
    def edited(self) -> bool:
        """Whether the file is no longer what its provenance describes."""
        return edited(self.manifest, self.numbers)


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
        return str(self.metrics.get("protocol", "?"))

    @property
    def question(self) -> str:
        """What was asked of the model: evaluations that differ in it are not to be averaged."""
        config = self.record.get("config") or {}
        asked = {name: config.get(name) for name in ("options", "where", "gallery_where")}
        return json.dumps([asked, self.metrics.get("n"), self.metrics.get("test_data")], sort_keys=True)


@dataclass
class Collection:
    """Everything that a report is about."""

    embeddings: list[EmbeddingTable] = field(default_factory=list)
    densities: list[Density] = field(default_factory=list)
    schemes: list[Scheme] = field(default_factory=list)
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

    @property
    def empty(self) -> bool:
        measured = self.embeddings or self.densities or self.schemes or self.frontiers
        return not (measured or self.runs or self.evaluations)


def collect(outputs: Sequence[str | os.PathLike[str]]) -> Collection:
    """Read any mix of stage outputs; a folder that holds several (a demo) stands for all of them.

    Unfinished outputs are listed, not read. Manifests and embedding tables that a density folder names are
    taken along where they still lie there.

    Raises:
        KdbiasError: a path is missing or no output of kdbias, or nothing finished is among them.
    """
    places = list(dict.fromkeys(place for output in outputs for place in _expand(Path(output))))
    found = Collection()
    by_kind: dict[str, list[Path]] = {}
    for place in places:
        if place.is_dir() and read_record(place).get("status") != "finished":
            found.unfinished.append(place)
        else:
            by_kind.setdefault(recognise(place), []).append(place)
    _read_densities(by_kind, found)
    _read_embeddings(by_kind, found)
    _read_schemes(by_kind, found)
    found.frontiers = [read_frontier(place) for place in by_kind.get("frontier", [])]
    found.runs = _read_runs(by_kind.get("training run", []), found.schemes)
    found.evaluations = [
        _read_evaluation(place, found.runs, found.embeddings) for place in by_kind.get("evaluation", [])
    ]
    if found.empty:
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


def _read_densities(by_kind: dict[str, list[Path]], found: Collection) -> None:
    from kdbias.tables.density_table import read_density

    for place in by_kind.get("density folder", []):
        record, numbers = read_record(place), read_uniformity(place)
        found.densities.append(Density(place, record, numbers, read_density(place)))


def _read_embeddings(by_kind: dict[str, list[Path]], found: Collection) -> None:
    from kdbias.tables.embedding_table import EmbeddingTable

    places = list(by_kind.get("embedding table", []))
    for density in found.densities:
        named = density.table.provenance.get("embeddings")
        if isinstance(named, str):
            places += _measured_on(density, named)
    seen: set[Path] = set()
    for place in places:
        if place.resolve() not in seen:
            seen.add(place.resolve())
            found.embeddings.append(EmbeddingTable.open(place, require_finished=False))


def _measured_on(density: Density, named: str) -> list[Path]:
    """Where the table lies that a density names; one with another fingerprint is another table."""
    from kdbias.tables.embedding_table import EmbeddingTable

    known = (density.table.provenance.get("inputs") or {}).get("embeddings")
    for place in candidates(named, density.path, known is not None):
        if recognise_quietly(place) == "embedding table":
            table = EmbeddingTable.open(place, require_finished=False)
            if known is None or table.fingerprint == known:
                return [place]
    return []


def _read_schemes(by_kind: dict[str, list[Path]], found: Collection) -> None:
    from kdbias.tables.weight_manifest import read_manifest

    places = {place.resolve(): place for place in by_kind.get("weight manifest", [])}
    names: dict[Path, str] = {}
    for density in found.densities:
        for scheme in density.numbers.get("schemes", []):
            if not scheme.get("weights"):
                continue
            known = scheme.get("fingerprint")
            for candidate in candidates(scheme["weights"], density.path, known is not None):
                if _is_manifest(candidate, known):
                    places.setdefault(candidate.resolve(), candidate)
                    names[candidate.resolve()] = scheme["name"]
                    break
    others = [place for resolved, place in places.items() if resolved not in names]
    names |= zip((p.resolve() for p in others), told_apart(others, {*names.values()}), strict=True)
    found.schemes = [Scheme(names[resolved], read_manifest(place)) for resolved, place in places.items()]
    order = [NATURAL, *(s["name"] for d in found.densities for s in d.numbers.get("schemes", []))]
    found.schemes.sort(key=lambda s: order.index(s.name) if s.name in order else len(order))


def _is_manifest(place: Path, fingerprint: str | None) -> bool:
    """Whether a weight manifest lies here, and the recorded one where its fingerprint is known."""
    from kdbias.tables.weight_manifest import read_manifest

    if recognise_quietly(place) != "weight manifest":
        return False
    return fingerprint is None or read_manifest(place).fingerprint == fingerprint


def _read_runs(places: Sequence[Path], schemes: Sequence[Scheme]) -> list[TrainingRun]:
    records = [read_record(place) for place in places]
    names = recipes([(_scheme_of(record, schemes), record) for record in records])
    return [
        TrainingRun(place, record, name, _read_metrics(place, record))
        for place, record, name in zip(places, records, names, strict=True)
    ]


def _scheme_of(record: dict[str, Any], schemes: Sequence[Scheme]) -> str:
    fingerprint = (record.get("inputs") or {}).get("weights")
    for scheme in schemes:
        if fingerprint and scheme.manifest.fingerprint == fingerprint:
            return scheme.name
    named = (record.get("paths") or {}).get("weights")
    if isinstance(named, str):
        return told_apart([Path(named)], {scheme.name for scheme in schemes})[0]
    return _UNWEIGHTED if "embeddings" in (record.get("inputs") or {}) else _FROM_LABELS


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
    named, by = (record.get("paths") or {}).get("model"), place
    if named is None:
        judged = (record.get("inputs") or {}).get("model")
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
