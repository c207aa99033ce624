"""A study's data set made ready: images at the student's size, the teacher, its embeddings of all samples.

Everything lies in one folder whose name ends in a digest of what it was made from, so that a changed
description, data file or teacher makes a new folder and finds the old one again when it is changed back::

    prepared.parquet    images at the student's size, all columns, and `study_part` (train or test)
    teacher/            the run of a teacher that the study trains
    raw/  all/          its embeddings as computed; the same with the column `study_part`
    density/            of all samples, where a judge asks for it
"""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.data.opening import open_data
from kdbias.data.source import Source
from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import FILES, TABLES, input_fingerprints, network_fingerprint
from kdbias.evaluation.settings import READING
from kdbias.studies.settings import DataSet, Judge, Machine
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import EmbeddingTable, write_embedding_table
from kdbias.tables.files import atomic_path
from kdbias.tables.joins import align
from kdbias.tables.parquet_file import parquet_writer
from kdbias.teachers import PRECOMPUTED
from kdbias.wording import counted

PART = "study_part"
_GROUP_ROWS = 1000


@dataclass(frozen=True)
class Prepared:
    """Where a prepared data set lies; `key` is the digest in the folder's name.

    judged_with   judge -> fingerprints of the files and data that it reads besides the study's own tables
    """

    folder: Path
    key: str
    data: DataSet
    judged_with: dict[str, dict[str, str]]

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
    def density(self) -> Path:
        """Density folder of all of them."""
        return self.folder / "density"

    @property
    def test_where(self) -> list[str]:
        """Which of `images` the students are judged on."""
        return [f"{PART}=test"] if self.data.image_size else list(self.data.test_where)

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


def locate(data: DataSet, out: Path) -> Prepared:
    """Where the data set belongs: by the content of data and teacher, wherever these lie; reads no image.

    Raises:
        KdbiasError: the data, the teacher or a file that a judge reads cannot be opened.
    """
    source = open_source(expand(data.source), data.id_column, data.label_column)
    made_from = {
        "source": source.fingerprint,
        "teacher": data.teacher
        and network_fingerprint(expand(data.teacher), {"device": "cpu", "id_column": data.id_column}),
        "train_teacher": data.train_teacher,
        "image_size": data.image_size,
        "holdout": [data.holdout, data.holdout_seed],
        "where": [list(data.train_where), list(data.test_where)],
        "measure": data.measure,
    }
    key = fingerprints.of_json(made_from)[:8]
    judged_with = {judge.name: _judged_with(judge) for judge in data.judge.values()}
    return Prepared(out / "data" / f"{data.name}-{key}", key, data, judged_with)


def _judged_with(judge: Judge) -> dict[str, str]:
    """Fingerprints of what a judge reads beside the embeddings."""
    named = {role: judge.options.get(role) for role in (*FILES, *TABLES)}
    paths = {r: expand(p) for r, p in named.items() if isinstance(p, str) and not p.startswith("@")}
    found = input_fingerprints(paths)
    if judge.data is not None:
        reading = {name: judge.options[name] for name in READING if name in judge.options}
        found["data"] = open_data(expand(judge.data), **reading).fingerprint
    return found


def parts_of(source: Source, data: DataSet) -> np.ndarray:
    """(n,) texts: train, test, or empty for samples that are neither."""
    from kdbias.data.filters import matching

    train, test = matching(source, data.train_where), matching(source, data.test_where)
    train = np.ones(source.n, bool) if train is None else train
    test = np.zeros(source.n, bool) if test is None else test
    if data.holdout is not None:
        rows = np.flatnonzero(train)
        rng = np.random.default_rng(data.holdout_seed)
        held_out = rng.choice(rows, round(data.holdout * len(rows)), replace=False)
        train[held_out], test[held_out] = False, True
    if (train & test).any():
        both = counted(int((train & test).sum()), "sample", "is/are")
        raise KdbiasError(f"data.{data.name}: {both} both train and test")
    return np.select([train, test], ["train", "test"], "")


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
        write_images(folder / "prepared.parquet", source, part, data.image_size)
    if data.train_teacher is not None:
        where = [f"{PART}=train"] if data.image_size else list(data.train_where)
        options = {"loss": "softmax", **data.train_teacher, **machine.training, **prepared.columns}
        kdbias.train(prepared.images, folder / "teacher", where=where, **options)
    _embed(prepared, machine)
    _with_parts(EmbeddingTable.open(folder / "raw"), source, part, prepared.table)
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
    """Density of all samples, where a judge asks for it."""
    import kdbias

    data = prepared.data
    if any("@density" in judge.options.values() for judge in data.judge.values()):
        options = {"rectification": "none", "threads": machine.threads, **data.measure}
        kdbias.uniformity(prepared.table, prepared.density, **options)


def _with_parts(raw: EmbeddingTable, source: Source, part: np.ndarray, out: Path) -> None:
    """The table's samples that are train or test, with the column that says which."""
    own = part[align(raw.ids(), source.ids, f"embedding table {raw.path}", source.origin)]
    keep = np.flatnonzero(own != "")
    inputs = {"raw": raw.fingerprint, "parts": fingerprints.of_json(own.tolist())}
    write_rows(out, raw, keep, inputs, {PART: _texts(own[keep])})


def _texts(values: np.ndarray) -> pa.Array:
    """Texts as a column."""
    return pa.array(values.tolist(), pa.large_string())


def write_rows(
    out: Path,
    table: EmbeddingTable,
    rows: np.ndarray,
    inputs: dict[str, str],
    more: dict[str, pa.Array] | None = None,
) -> None:
    """Write these rows (int, ascending) of an embedding table as another, `more` columns in place of PART."""
    taken = pa.array(rows)
    groups = {name: table.column(name).take(taken) for name in table.group_columns if name != PART}
    vectors, labels = table.vectors(np.float16)[rows], table.labels().take(taken)
    write_embedding_table(out, table.ids().take(taken), vectors, labels, groups | (more or {}), inputs=inputs)


def write_images(path: Path, source: Source, part: np.ndarray, size: str | int) -> None:
    """Train and test images at the student's size as PNG, so that no run decodes and shrinks them again."""
    from PIL import Image

    from kdbias.teachers.preprocessing import Preprocessing
    from kdbias.training.settings import TrainingSettings

    if path.exists():
        return
    shape = TrainingSettings.read(None, {"image_size": size}).image_size
    assert shape is not None
    shrink = Preprocessing(size=shape)
    rows = np.flatnonzero(part != "")
    kept = source.select(rows)
    columns: dict[str, Any] = {"sample_id": kept.ids}
    if kept.labels is not None:
        columns["label"] = kept.labels
    plain = pa.table(columns | kept.groups | {PART: _texts(part[rows])})
    schema = plain.schema.append(pa.field("image", pa.binary()))
    with parquet_writer(path, schema) as writer:
        for start in range(0, kept.n, _GROUP_ROWS):
            block = plain.slice(start, _GROUP_ROWS)
            images = []
            for row in range(start, start + block.num_rows):
                pixels = shrink.apply(shrink.decode(kept.read(row)))
                grey = bool((pixels == pixels[:, :, :1]).all())
                file = io.BytesIO()
                Image.fromarray(pixels[:, :, 0] if grey else pixels).save(file, "PNG", compress_level=1)
                images.append(file.getvalue())
            writer.write_table(block.append_column(schema.field("image"), pa.array(images, pa.binary())))
