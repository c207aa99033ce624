"""A study's data set made ready: images at the student's size, the teacher, its embeddings of all samples.

Everything lies in one folder whose name ends in a digest of what it was made from, so that a changed
description, data file or teacher makes a new folder and finds the old one again when it is changed back::

    prepared.parquet    images at the student's size, all columns, and `study_part` (train or test)
    teacher/            the run of a teacher that the study trains
    raw/  all/          its embeddings as computed; of train and test, with the column `study_part`
    reserve/            of the samples that are kept for references
    reference-NAME-*/   samples of these, or of another data set's
    density/            of all samples, where a judge asks for it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.evaluation.inputs import FILES, TABLES, input_fingerprints
from kdbias.evaluation.settings import READING
from kdbias.studies.images import read_rows, write_images
from kdbias.studies.samples import PART, RESERVE, TRAIN, ReferenceTable, parts_of, texts, write_rows
from kdbias.studies.settings import DataSet, Judge, Machine
from kdbias.studies.sources import (
    about_extract,
    embed_extract,
    expand,
    extract,
    open_source,
    teacher_fingerprint,
)
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import write_text
from kdbias.tables.joins import align
from kdbias.teachers import PRECOMPUTED

AIM = ("towards", "with_column", "cluster_by")
"""Options that say what is measured against, which takes a folder of its own."""


@dataclass(frozen=True)
class Prepared:
    """Where a prepared data set lies; `key` is the digest in the folder's name.

    judged_with   judge -> fingerprints of the files and data that it reads besides the study's own tables
    references    name -> where it lies and what it is drawn from
    sources       the other data sets from which references are drawn
    """

    folder: Path
    key: str
    data: DataSet
    judged_with: dict[str, dict[str, str]]
    references: dict[str, ReferenceTable] = field(default_factory=dict)
    sources: tuple[Prepared, ...] = ()

    @property
    def images(self) -> str:
        """What students are trained on and judged with."""
        return str(self.folder / "prepared.parquet") if self.data.image_size else self.source

    @property
    def source(self) -> str:
        """The data, with $VARIABLES expanded."""
        return expand(self.data.source)

    @property
    def teacher(self) -> str:
        """Spec of the teacher."""
        if self.data.train_teacher is not None:
            return f"run:{self.folder / 'teacher'}"
        return expand(self.data.teacher or "", "teacher")

    @property
    def table(self) -> Path:
        """Embedding table of all train and test samples, with their part."""
        return self.folder / "all"

    @property
    def reserve(self) -> Path:
        """Embedding table of the samples that are kept for references."""
        return self.folder / "reserve"

    @property
    def density(self) -> Path:
        """Density folder of all of them."""
        return self.folder / "density"

    @property
    def test_where(self) -> list[str]:
        """Which of `images` the students are judged on."""
        return [f"{PART}=test"] if self.data.image_size else list(self.data.test_where)

    @property
    def measure(self) -> dict[str, Any]:
        """Options of `kdbias.uniformity`, but for its target."""
        return {name: value for name, value in self.data.measure.items() if name not in AIM}

    @property
    def columns(self) -> dict[str, Any]:
        """The options by which the images are read."""
        return {} if self.data.image_size else self.data.columns


def locate(data: DataSet, out: Path, others: Mapping[str, DataSet] | None = None) -> Prepared:
    """Where the data set belongs: by the content of data and teacher, wherever these lie; reads no image.

    `others` are those by name from which its references may be drawn.

    Raises:
        KdbiasError: the data, the teacher or a file that a judge reads cannot be opened.
    """
    source = open_source(data.source, data)
    made_from: dict[str, Any] = {
        "source": source.fingerprint,
        "teacher": data.teacher and teacher_fingerprint(data.teacher, data),
        "train_teacher": data.train_teacher,
        "image_size": data.image_size,
        "holdout": [data.holdout, data.holdout_seed],
        "where": [list(data.train_where), list(data.test_where)],
        "measure": data.measure,
    }
    if data.reserves:  # these count where they are used, so that the others' folders stay what they were
        kept = [data.reserve, data.reserve_by, data.reserve_seed, list(data.reference_where)]
        made_from["reserve"] = kept
    if data.copies is not None:
        made_from["copies"] = data.copies.record()
    if data.extracted:
        made_from["extract"] = about_extract(data)
    key = fingerprints.of_json(made_from)[:8]
    judged_with = {judge.name: _judged_with(judge) for judge in data.judge.values()}
    own = Prepared(out / "data" / f"{data.name}-{key}", key, data, judged_with)
    named = {r.source: others[r.source] for r in data.reference.values() if r.source and others}
    sources = {name: locate(replace(other, reference={}), out) for name, other in named.items()}
    references = {}
    for name, wanted in data.reference.items():
        of = own if wanted.source is None else sources[wanted.source]
        digest = fingerprints.of_json([of.key, wanted.draw])[:8]
        table = of.reserve if wanted.source is None else of.table
        references[name] = ReferenceTable(own.folder / f"reference-{name}-{digest}", table, wanted)
    return replace(own, references=references, sources=tuple(sources.values()))


def _judged_with(judge: Judge) -> dict[str, str]:
    """Fingerprints of what a judge reads beside the embeddings."""
    named = {role: judge.options.get(role) for role in (*FILES, *TABLES)}
    paths = {r: expand(p, r) for r, p in named.items() if isinstance(p, str) and not p.startswith("@")}
    found = input_fingerprints(paths)
    if judge.data is not None:
        reading = {name: judge.options[name] for name in READING if name in judge.options}
        found["data"] = open_data(expand(judge.data), **reading).fingerprint
    return found


def prepare(prepared: Prepared, machine: Machine) -> None:
    """Make what is missing of a data set; a call on a finished one is quick."""
    import kdbias

    data, folder = prepared.data, prepared.folder
    done = folder / "prepared.ok"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if data.extracted:
        source, part = extract(data)
    else:
        source = open_source(data.source, data)
        part = parts_of(source, data)
    if data.image_size:
        images = folder / "prepared.parquet"
        write_images(images, source, part, data.image_size, data.copies)
        part = np.where(read_rows(images, source.ids), part, "")
    if data.train_teacher is not None:
        where = [f"{PART}={TRAIN}"] if data.image_size else list(data.train_where)
        options = {"loss": "softmax", **data.train_teacher, **machine.training, **prepared.columns}
        kdbias.train(prepared.images, folder / "teacher", where=where, **options)
    if data.extracted and data.train_teacher is None:
        with_part = source.select(part != "")
        embed_extract(folder / "raw", data, with_part, part[part != ""], machine)
    else:
        _embed(prepared, machine)
    _with_parts(prepared, source, part)
    write_text(done, "finished\n")


def _embed(prepared: Prepared, machine: Machine) -> None:
    """A teacher of the study sees what it was trained on; any other the source, at a size of its own."""
    import kdbias

    data = prepared.data
    trained = data.train_teacher is not None
    images, columns = (prepared.images, prepared.columns) if trained else (prepared.source, data.columns)
    # Stored vectors lie in the order of the whole data.
    stored = prepared.teacher.startswith(f"{PRECOMPUTED}:")
    options = {"same_order": True} if stored else machine.embedding
    kdbias.embed(images, prepared.folder / "raw", teacher=prepared.teacher, **columns, **options)


def measure_all(prepared: Prepared, machine: Machine) -> None:
    """Draw the references; density of all samples, where a judge asks for it."""
    import kdbias

    for reference in prepared.references.values():
        reference.write()
    data = prepared.data
    if any("@density" in judge.options.values() for judge in data.judge.values()):
        options = {"rectification": "none", "threads": machine.threads, **prepared.measure}
        kdbias.uniformity(prepared.table, prepared.density, **options)


def _with_parts(prepared: Prepared, source: Source, part: np.ndarray) -> None:
    """The table's samples that are train or test, with the column that says which; those for references."""
    raw = EmbeddingTable.open(prepared.folder / "raw")
    if prepared.data.copies is None and not prepared.data.extracted:
        own = part[align(raw.ids(), source.ids, f"embedding table {raw.path}", source.origin)]
    else:  # of the images that the study prepared, which may be copies
        own = np.array(raw.column(PART).to_pylist())
    inputs = {"raw": raw.fingerprint, "parts": fingerprints.of_json(own.tolist())}
    keep = np.flatnonzero((own != "") & (own != RESERVE))
    write_rows(prepared.table, raw, keep, inputs, {PART: texts(own[keep])})
    if prepared.data.reserves:
        write_rows(prepared.reserve, raw, np.flatnonzero(own == RESERVE), inputs)
