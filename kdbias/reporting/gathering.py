"""Gathers what the report shows: outputs of the stages, recognised by content and linked to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.inspection.recognition import recognise, recognise_quietly, stage_folders
from kdbias.measurement.files import read_uniformity
from kdbias.reporting.outputs import (
    FROM_LABELS,
    NATURAL,
    Density,
    Evaluation,
    Manifest,
    Outputs,
    TrainingRun,
    read_frontier,
)
from kdbias.tables.csv_file import read_csv
from kdbias.tables.listing import LISTING
from kdbias.tables.mirrors import local_path
from kdbias.tables.places import candidates
from kdbias.tables.provenance import inputs_in, options_in, paths_in
from kdbias.tables.run_record import RECORD, read_record, require_digest
from kdbias.training.settings import TrainingSettings

if TYPE_CHECKING:
    from kdbias.tables.embedding_table import EmbeddingTable
    from kdbias.tables.weight_manifest import WeightManifest

_Opened = TypeVar("_Opened", "EmbeddingTable", "WeightManifest")
_UNWEIGHTED = "unweighted"
_REPORTED = (
    *("embedding table", "density folder", "weight manifest", "frontier"),
    *("training run", "evaluation", "study"),
)
_SEVERAL = ("demo", "run", "outputs")
"""What holds outputs of several stages."""

_PLAIN = ("student", "loss", "epochs", "data", "embeddings", "weights")  # options and inputs of a training


def collect(outputs: Sequence[str | os.PathLike[str]]) -> Outputs:
    """Read any mix of stage outputs; a folder that holds several (a demo) stands for all of them.

    Unfinished outputs are listed, not read. Manifests and embedding tables that a density folder names are
    taken along where they still lie there.

    Raises:
        KdbiasError: a path is missing or no output of kdbias, or nothing finished is among them.
    """
    from kdbias.tables.density_table import read_density

    found = Outputs()
    by_kind = _by_kind(outputs, found)
    found.densities = [
        Density(place, read_record(place), read_uniformity(place), read_density(place))
        for place in by_kind.get("density folder", [])
    ]
    _read_embeddings(by_kind, found)
    _read_manifests(by_kind, found)
    found.frontiers = [read_frontier(place) for place in by_kind.get("frontier", [])]
    found.runs = _read_runs(by_kind.get("training run", []), found.manifests)
    found.evaluations = [
        _read_evaluation(place, found.runs, found.embeddings) for place in by_kind.get("evaluation", [])
    ]
    if by_kind.get("study"):
        from kdbias.reporting.study_section import read_study_output

        found.studies = [read_study_output(place, read_record(place)) for place in by_kind["study"]]
    if not any(held for name, held in vars(found).items() if name != "unfinished"):
        named = ", ".join(str(p) for p in found.unfinished) or ", ".join(map(str, outputs))
        raise KdbiasError(f"nothing finished to report on in {named}; finish a stage first")
    return found


def _by_kind(outputs: Sequence[str | os.PathLike[str]], found: Outputs) -> dict[str, list[Path]]:
    """The finished outputs by what they are; the others are noted in ``found``."""
    by_kind: dict[str, list[Path]] = {}
    for place in dict.fromkeys(place for output in outputs for place in _expand(Path(output))):
        if (place / RECORD).exists() and not _is_finished(place):
            found.unfinished.append(place)
        else:
            by_kind.setdefault(recognise(place), []).append(place)
    return by_kind


def _is_finished(folder: Path) -> bool:
    """Whether an output is whole; of a study, whether some of its runs are finished."""
    record = read_record(folder)
    return record.get("status") == "finished" or (
        record["stage"] == "study" and (folder / "study.json").exists()
    )


def _expand(place: Path) -> list[Path]:
    """The outputs that a path stands for: itself, or those inside; KdbiasError for anything else."""
    kind = recognise(place)
    if kind in _SEVERAL:
        inside = [p for p in stage_folders(place) if recognise(p) not in _SEVERAL]
        return [*inside, *(f for f in _manifests_below(place) if not set(inside) & set(f.parents))]
    if kind in _REPORTED:
        return [place]
    if kind == "density table" and (place.parent / RECORD).exists():
        return [place.parent]
    raise KdbiasError(
        f"{place} ({kind}) is no output to report on; give folders of embed, uniformity, weights --frontier, "
        "train, evaluate, study or demo, or weight manifests"
    )


def _manifests_below(place: Path) -> list[Path]:
    """The weight manifests in a folder and below, files or folders of parts; none of what is hidden."""
    shown = (f for f in place.rglob("*.parquet") if "/." not in f"/{f.relative_to(place).as_posix()}")
    tables = {f.parent if (f.parent / LISTING).exists() else f for f in shown}
    return sorted(f for f in tables if recognise_quietly(f) == "weight manifest")


def _read_embeddings(by_kind: dict[str, list[Path]], found: Outputs) -> None:
    """Add the embedding tables that were named, and those that densities were computed from."""
    from kdbias.tables.embedding_table import EmbeddingTable

    opened = partial(EmbeddingTable.open, require_finished=False)
    tables = list(map(opened, by_kind.get("embedding table", [])))
    for density in found.densities:
        made_from = density.table.provenance
        named, known = made_from.get("embeddings"), inputs_in(made_from).get("embeddings")
        tables += _recorded(named, density.path, known, "embedding table", opened)
    found.embeddings = list({table.path.resolve(): table for table in reversed(tables)}.values())[::-1]


def _recorded(
    named: object, record: Path, known: str | None, kind: str, opened: Callable[[Path], _Opened]
) -> list[_Opened]:
    """The output that a record means, if it is found; one with another fingerprint is another one."""
    for place in candidates(named, record, known is not None) if named and isinstance(named, str) else ():
        if recognise_quietly(place) == kind and known in (None, (found := opened(place)).fingerprint):
            return [found]
    return []


def _read_manifests(by_kind: dict[str, list[Path]], found: Outputs) -> None:
    """Add the manifests that were named, and those that densities measured, each with its name."""
    from kdbias.tables.weight_manifest import read_manifest

    files = {place.resolve(): read_manifest(place) for place in by_kind.get("weight manifest", [])}
    names: dict[Path, str] = {}
    schemes = [(scheme, density.path) for density in found.densities for scheme in density.numbers["schemes"]]
    for scheme, record in schemes:
        where = (scheme["weights"], record, scheme["fingerprint"])
        for file in _recorded(*where, "weight manifest", read_manifest):
            files.setdefault(file.path.resolve(), file)
            names[file.path.resolve()] = scheme["name"]
    others = [place for place in files if place not in names]
    names |= zip(others, told_apart(others, {*names.values()}), strict=True)
    order = [NATURAL, *(scheme["name"] for scheme, _ in schemes)]
    found.manifests = [Manifest(names[place], file) for place, file in files.items()]
    found.manifests.sort(key=lambda m: order.index(m.name) if m.name in order else len(order))


def _read_runs(places: Sequence[Path], manifests: Sequence[Manifest]) -> list[TrainingRun]:
    """The training runs, each with a name of its own."""
    records = [read_record(place) for place in places]
    names = recipes([(_scheme_of(record, manifests), record) for record in records])
    return [
        TrainingRun(place, record, name, _read_metrics(place, record))
        for place, record, name in zip(places, records, names, strict=True)
    ]


def _scheme_of(record: dict[str, Any], manifests: Sequence[Manifest]) -> str:
    """The name of what a run drew by."""
    fingerprint, named = inputs_in(record).get("weights"), paths_in(record).get("weights")
    for manifest in manifests:
        if fingerprint and manifest.file.fingerprint == fingerprint:
            return manifest.name
    if named is not None:
        return told_apart([Path(named)], {manifest.name for manifest in manifests})[0]
    return _UNWEIGHTED if inputs_in(record).get("embeddings") else FROM_LABELS


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
    named, by = paths_in(record).get("model"), place
    if named is None:
        judged = inputs_in(record).get("model")
        table = next((e for e in embeddings if e.fingerprint == judged), None)
        named = table.provenance.get("teacher") if table else None
        by = table.path if table else place
    if not isinstance(named, str):
        return Evaluation(place, record, metrics, None)
    wanted = local_path(named.removeprefix("run:"))
    judged_by = [
        run for here in candidates(wanted, by) for run in runs if run.path.resolve() == here.resolve()
    ]
    if not wanted.exists():  # the whole tree was moved
        judged_by += [run for run in runs if run.path.parts[-2:] == wanted.parts[-2:]]
    return Evaluation(place, record, metrics, judged_by[0] if judged_by else None)


def told_apart(places: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """The stem of each file, with as many of its folders as tell it from the others and from ``taken``."""
    parts = [place.resolve().with_suffix("").parts for place in places]
    names = []
    for i, own in enumerate(parts):
        others = parts[:i] + parts[i + 1 :]
        depth = 1
        while depth < len(own) and (
            "/".join(own[-depth:]) in taken or any(other[-depth:] == own[-depth:] for other in others)
        ):
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def recipes(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A name for the recipe of each run, given its scheme and its record; runs that share it are seeds.

    It is the scheme, with as many options and inputs as tell its recipes apart.
    """
    facts = [_facts(record) for _, record in runs]
    alike: dict[str, list[dict[str, str]]] = {}
    for (scheme, _), own in zip(runs, facts, strict=True):
        alike.setdefault(scheme, []).append(own)
    keys = {scheme: _telling(of_scheme) for scheme, of_scheme in alike.items()}
    names = []
    for (scheme, _), own in zip(runs, facts, strict=True):
        told = ", ".join(own.get(key, f"no {key}") for key in keys[scheme])
        names.append(f"{scheme} ({told})" if told else scheme)
    return names


def _telling(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Few keys by whose values all recipes that differ can be told apart, the plainest ones first."""
    keys = sorted(set().union(*facts), key=lambda key: (key not in _PLAIN, key))
    chosen: list[str] = []

    def told(by: Sequence[str]) -> int:
        return len({tuple(own.get(key) for key in by) for own in facts})

    for key in keys:
        if told(chosen) < told(keys) and told([*chosen, key]) > told(chosen):
            chosen.append(key)
    return chosen


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """What makes a training but its seed, each as the text that tells it from another."""
    paths = paths_in(record)
    facts = {
        key: f"{key} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (TrainingSettings.usual() | options_in(record)).items()
        if key != "seed"
    }
    for role, fingerprint in inputs_in(record).items():
        named = f"{Path(paths[role]).name} " if isinstance(paths.get(role), str) else ""
        facts[role] = f"{role} {named}{fingerprint[:6]}"
    return facts
