"""The commands to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.advice.data import Data, near
from kdbias.advice.finding import Finding
from kdbias.advice.settings import AdviseSettings
from kdbias.command_lines import command_line
from kdbias.data.settings import Reading
from kdbias.embedding.settings import EmbedSettings
from kdbias.evaluation.settings import CompareSettings, EvaluateSettings, Fidelity
from kdbias.measurement.settings import IMAGE_WORDS, SuspectsSettings, UniformitySettings
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.provenance import options_in
from kdbias.targets.settings import Aiming
from kdbias.training.settings import TrainingSettings
from kdbias.weighting.settings import WeightsSettings

_STORED = "precomputed:"


@dataclass(frozen=True)
class Places:
    """What is there already.

    Attributes:
        weights: manifests, of which one may be of the advised draws.
        again: the command that would name a target; None for the separate stages.
    """

    weights: Sequence[Path] = ()
    again: str | None = None

    @property
    def assumed(self) -> Path | None:
        """The manifest of a run that was told of no target."""
        return self.weights[0] if self.again is not None else None


def commands(found: Finding, aim: Aiming | None, places: Places) -> Iterator[str]:
    """Command lines for a shell; words in capitals stand for what is not known."""
    data, choice = found.data, found.choice
    yield from _suspects(data)
    if choice == "unknown":
        yield from _naming(data, places)
        yield f"{_train(data, None, 'student')}   # meanwhile"
        return
    if choice == "natural":
        yield _train(data, None, "student")
        return
    manifest = Path("weights.parquet") if found.written is None else found.written.path
    if found.written is None:
        yield from _weights(data, aim)
    yield _train(data, manifest, "student")
    own = f"kdbias.ManifestSampler.from_manifest({near(manifest)!r}, dataset)"
    yield f"# or in your own trainer, of an ImageFolder or a list of ids: sampler = {own}"
    if choice == "compare":
        yield f"{_train(data, None, 'student-natural')}   # beside it"
        yield from _judged(found, aim)


def _suspects(data: Data) -> Iterator[str]:
    """How to look through suspect images, where there are any."""
    if data.density is None or not set((data.suspects or {}).get("words", ())) & set(IMAGE_WORDS):
        return
    folder = near(data.density.path.parent)
    listing = command_line("suspects", folder, "suspects.csv", SuspectsSettings, {})
    yield f"{listing}   # look through it: kdbias weights --exclude suspects.csv"


def _weights(data: Data, aim: Aiming | None) -> Iterator[str]:
    """The manifest towards the target."""
    if aim is None:
        return
    options = _aiming(aim)
    density: Any = data.named
    if data.density is None:
        density = Path("density")
        yield command_line("uniformity", data.named, density, UniformitySettings, options)
    yield command_line("weights", density, "weights.parquet", WeightsSettings, options)


def _train(data: Data, weights: Path | None, output: str) -> str:
    source, reading = _made_from(data.table)
    options = reading | {"embeddings": near(data.table.path), "weights": weights and near(weights)}
    return command_line("train", source, output, TrainingSettings, options)


def _judged(found: Finding, aim: Aiming | None) -> Iterator[str]:
    """How both students are judged: by their distance to the teacher, without labels; and a small trial."""
    reference = None if found.against is None else found.against.opened.table
    table, note = found.data.table, "seen in training: better on images held out, embedded by the teacher"
    if reference is not None:
        table, note = reference, "the weights were matched to these images: better on others like them"
    source, reading = _made_from(table)
    options = reading | {"protocol": Fidelity.name, "reference": near(table.path)}
    for student, score, end in (
        ("student-natural", "score-natural", f"   # {note}"),
        ("student", "score", ""),
    ):
        asked = {"data": source} | options
        yield command_line("evaluate", f"run:{student}", score, EvaluateSettings, asked) + end
    yield command_line("compare", "score-natural", None, CompareSettings, {"to": "score"})
    yield "# your own students: python:FILE.py:FACTORY for run:...; or embedding tables, without --data"
    told = found.against is not None and found.against.remembered is not None
    aimed = {} if told or aim is None else _aiming(aim)
    pilot = command_line("advise", near(found.data.named), None, AdviseSettings, aimed)
    yield f"{pilot} --pilot 10m -o pilot   # or at once, by small students"


def _aiming(aim: Aiming) -> dict[str, Any]:
    """A target as options."""
    return {declared.name: getattr(aim, declared.name) for declared in Aiming.declared()}


def _naming(data: Data, places: Places) -> Iterator[str]:
    """How a target is named; a file of vectors is of its own samples, so its table comes first."""
    record = data.table.provenance
    teacher = record.get("teacher") or "TEACHER"
    stored = teacher.startswith(_STORED)
    if stored or places.again is None:
        config = options_in(record)
        names = ("precision", "store", "flip")
        usual = EmbedSettings.usual()
        options = {name: config[name] for name in names if config.get(name) not in (None, usual.get(name))}
        options = {"teacher": f"{_STORED}ITS_FILE" if stored else teacher} | options
        yield command_line("embed", "DEPLOYED/", "deployed", EmbedSettings, options)
    if places.again is None:
        yield f"kdbias advise {shlex.quote(str(data.named))} --towards deployed"
    else:
        yield f"{places.again}   # makes again what that changes"


def _made_from(table: EmbeddingTable) -> tuple[str, dict[str, Any]]:
    """The data that embeddings are of, and how they were read."""
    record = table.provenance
    config = options_in(record)
    names = [declared.name for declared in Reading.declared() if declared.name != "root"]
    reading = {name: config.get(name) for name in names}
    reading["where"] = tuple(reading["where"] or ())
    return record.get("data") or "DATA", reading | {"root": record.get("root")}
