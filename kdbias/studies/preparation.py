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

import functools
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.demonstration.digits import near_duplicate
from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import FILES, TABLES, input_fingerprints, network_fingerprint
from kdbias.evaluation.settings import READING
from kdbias.studies.biases import Copies
from kdbias.studies.draws import require_enough
from kdbias.studies.samples import COPY, PART, RESERVE, TRAIN, ReferenceTable, parts_of, texts, write_rows
from kdbias.studies.settings import DataSet, Judge, Machine
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import atomic_path
from kdbias.tables.joins import align
from kdbias.tables.parquet_file import parquet_writer
from kdbias.teachers import PRECOMPUTED

AIM = ("towards", "with_column", "cluster_by")
"""Options that say what is measured against, which takes a folder of its own."""
_GROUP_ROWS = 1000


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
        return expand(self.data.teacher or "")

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


def expand(text: str) -> str:
    """A text of the description with its $VARIABLES; one that is not set is refused."""
    found = os.path.expandvars(text)
    if "$" in found:
        raise KdbiasError(f"{text}: an environment variable in it is not set")
    return found


@functools.lru_cache(maxsize=1)
def open_source(source: str, id_column: str | None, label_column: str | None) -> Source:
    """The data of a study, kept until another is opened; a new study clears it, as files may have changed."""
    return open_data(source, id_column=id_column, label_column=label_column)


def locate(data: DataSet, out: Path, others: Mapping[str, DataSet] | None = None) -> Prepared:
    """Where the data set belongs: by the content of data and teacher, wherever these lie; reads no image.

    `others` are those by name from which its references may be drawn.

    Raises:
        KdbiasError: the data, the teacher or a file that a judge reads cannot be opened.
    """
    source = open_source(expand(data.source), data.id_column, data.label_column)
    made_from: dict[str, Any] = {
        "source": source.fingerprint,
        "teacher": data.teacher
        and network_fingerprint(expand(data.teacher), {"device": "cpu", "id_column": data.id_column}),
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
    paths = {r: expand(p) for r, p in named.items() if isinstance(p, str) and not p.startswith("@")}
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
    source = open_source(prepared.source, data.id_column, data.label_column)
    part = parts_of(source, data)
    if data.image_size:
        write_images(folder / "prepared.parquet", source, part, data.image_size, data.copies)
    if data.train_teacher is not None:
        where = [f"{PART}={TRAIN}"] if data.image_size else list(data.train_where)
        options = {"loss": "softmax", **data.train_teacher, **machine.training, **prepared.columns}
        kdbias.train(prepared.images, folder / "teacher", where=where, **options)
    _embed(prepared, machine)
    _with_parts(prepared, source, part)
    with atomic_path(done) as temporary:
        temporary.write_text("finished\n")


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
    if prepared.data.copies is None:
        own = part[align(raw.ids(), source.ids, f"embedding table {raw.path}", source.origin)]
    else:  # copies are in the images alone
        own = np.array(raw.column(PART).to_pylist())
    inputs = {"raw": raw.fingerprint, "parts": fingerprints.of_json(own.tolist())}
    keep = np.flatnonzero((own != "") & (own != RESERVE))
    write_rows(prepared.table, raw, keep, inputs, {PART: texts(own[keep])})
    if prepared.data.reserves:
        write_rows(prepared.reserve, raw, np.flatnonzero(own == RESERVE), inputs)


def write_images(
    path: Path, source: Source, part: np.ndarray, size: str | int, copies: Copies | None = None
) -> None:
    """The images at the student's size as PNG, so that no run decodes and shrinks them again; copies last."""
    from kdbias.teachers.preprocessing import Preprocessing
    from kdbias.training.settings import TrainingSettings

    if path.exists():
        return
    shape = TrainingSettings.read(None, {"image_size": size}).image_size
    assert shape is not None
    shrink = Preprocessing(size=shape)
    rows = np.flatnonzero(part != "")
    numbers = np.zeros(len(rows), int)  # of a copy, from 1
    if copies is not None:
        rows, numbers = _with_copies(rows, numbers, part, copies)
    kept = source.select(rows)
    columns: dict[str, Any] = {"sample_id": _numbered(kept.ids, numbers)}
    if kept.labels is not None:
        columns["label"] = kept.labels
    own = np.where(numbers > 0, COPY, part[rows])
    plain = pa.table(columns | kept.groups | {PART: texts(own)})
    schema = plain.schema.append(pa.field("image", pa.binary()))
    with parquet_writer(path, schema) as writer:
        for start in range(0, kept.n, _GROUP_ROWS):
            block = plain.slice(start, _GROUP_ROWS)
            images = []
            for row in range(start, start + block.num_rows):
                pixels = shrink.apply(shrink.decode(kept.read(row)))
                if numbers[row]:
                    assert copies is not None
                    rng = np.random.default_rng([copies.seed, int(rows[row]), int(numbers[row])])
                    pixels = near_duplicate(pixels, rng)
                images.append(_png(pixels))
            writer.write_table(block.append_column(schema.field("image"), pa.array(images, pa.binary())))


def _with_copies(
    rows: np.ndarray, numbers: np.ndarray, part: np.ndarray, copies: Copies
) -> tuple[np.ndarray, np.ndarray]:
    """The rows, then those of the originals, each as often as it is copied, with the copies' numbers."""
    train = np.flatnonzero(part == TRAIN)
    require_enough(copies.originals, len(train), "originals of copies", copies.place)
    chosen = np.sort(np.random.default_rng(copies.seed).choice(train, copies.originals, replace=False))
    more = np.tile(np.arange(1, copies.each + 1), len(chosen))
    return np.concatenate([rows, np.repeat(chosen, copies.each)]), np.concatenate([numbers, more])


def _numbered(ids: pa.Array, numbers: np.ndarray) -> pa.Array:
    """Ids; those of copies with their number."""
    pairs = zip(ids.to_pylist(), numbers.tolist(), strict=True)
    return pa.array([f"{name}-copy{k:03d}" if k else name for name, k in pairs], ids.type)


def _png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG of uint8 pixels (h, w, 3), grey where all channels agree."""
    from PIL import Image

    grey = bool((pixels == pixels[:, :, :1]).all())
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
