"""Where a study's samples come from: its source, a part of it, and a deployment that lies elsewhere.

Of a data set with `samples` or a `deployment` an *extract* is made: the samples that take part, those of the
deployment after those of the source, their ids with a prefix.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.opening import open_data
from kdbias.data.source import Images, Source, joined
from kdbias.embedding.parts import FAILURES
from kdbias.errors import KdbiasError
from kdbias.evaluation.inputs import network_fingerprint
from kdbias.placing import placed
from kdbias.progress import say
from kdbias.studies.biases import Read
from kdbias.studies.images import png
from kdbias.studies.samples import PART, TEST, keep_references, parts_of, satisfying, texts
from kdbias.studies.settings import DataSet, Machine
from kdbias.tables import fingerprints
from kdbias.tables.embedding_table import write_embedding_table
from kdbias.tables.files import remove
from kdbias.tables.joins import require_unique
from kdbias.tables.parquet_file import parquet_writer, read_table
from kdbias.tables.run_record import RECORD
from kdbias.teachers import PRECOMPUTED
from kdbias.teachers.precomputed import open_precomputed
from kdbias.wording import counted

DEPLOYED = "deployment/"
"""What the ids of a deployment's samples begin with."""
_GROUP_ROWS = 256


def expand(text: str, name: str = "data") -> str:
    """A text of the description with its $VARIABLES; one that is not set is refused.

    Args:
        name: what it is, by which a place in a store is brought here, see `placed`.
    """
    found = os.path.expandvars(text)
    if "$" in found:
        raise KdbiasError(f"{text}: an environment variable in it is not set")
    return placed(name, found)


@functools.lru_cache(maxsize=2)
def _opened(source: str, columns: tuple[tuple[str, Any], ...]) -> Source:
    return open_data(source, **dict(columns))


def open_source(source: str, read: Read) -> Source:
    """The data of a study, kept until two others are opened; see `forget_sources`."""
    columns = read.columns
    if "root" in columns:
        columns["root"] = expand(columns["root"], "root")
    return _opened(expand(source), tuple(columns.items()))


def forget_sources() -> None:
    """Read the data anew when they are opened next, as files may have changed."""
    _opened.cache_clear()


def teacher_fingerprint(spec: str, read: Read) -> str:
    """Of a teacher; stored vectors are found by the data's own column of ids, those of a table by its own."""
    found = expand(spec, "teacher")
    return network_fingerprint(found, {"device": "cpu", "id_column": _id_column(found, read)})


def _id_column(spec: str, read: Read) -> str | None:
    """The column of ids of stored vectors; None for the usual ones, as kdbias's own tables have."""
    folder = Path(spec.partition(":")[2])
    return None if (folder / RECORD).exists() else read.id_column


def about_extract(data: DataSet) -> list[Any]:
    """What decides an extract, beside the source, its teacher and the conditions on its samples."""
    about: list[Any] = [data.samples, data.samples_seed]
    aim = data.deployment
    if aim is not None:
        deployed = open_source(aim.source, aim).fingerprint
        teacher = aim.teacher and teacher_fingerprint(aim.teacher, aim)
        about += [deployed, teacher, list(aim.where), aim.samples, aim.seed]
    return about


def extract(data: DataSet) -> tuple[Source, np.ndarray]:
    """The samples of the source, then those of the deployment, and the part (n,) of each; "" for none.

    Samples that an embedding table of kdbias lacks because their images could not be read take no part.

    Raises:
        KdbiasError: fewer samples than asked for.
    """
    source = open_source(data.source, data)
    part = _embedded(source, parts_of(source, data), data.teacher)
    part = _some(part, data.samples, data.samples_seed, f"data.{data.name}")
    aim = data.deployment
    if aim is None:
        return source, part
    deployed = open_source(aim.source, aim)
    place = f"data.{data.name}.deployment"
    own = np.where(satisfying(deployed, aim.where, True), TEST, "")
    own = _some(_embedded(deployed, own, aim.teacher), aim.samples, aim.seed, place)
    return _joined(source, deployed), np.concatenate([part, keep_references(deployed, data, own)])


def _embedded(source: Source, part: np.ndarray, teacher: str | None) -> np.ndarray:
    """The parts, without those samples that could not be embedded when the stored table was made."""
    failures = Path(expand(teacher or "", "teacher").partition(":")[2]) / FAILURES
    if not (teacher or "").startswith(f"{PRECOMPUTED}:") or not failures.is_file():
        return part
    lost = pc.is_in(source.ids, value_set=read_table(failures, ["sample_id"]).column(0).combine_chunks())
    gone = lost.to_numpy(zero_copy_only=False) & (part != "")
    if gone.any():
        say(f"{source.origin}: {counted(int(gone.sum()), 'sample')} of {failures} take no part")
    return np.where(gone, "", part)


def _some(part: np.ndarray, samples: int | None, seed: int, place: str) -> np.ndarray:
    """The parts of so many samples, drawn at random; of others ""."""
    rows = np.flatnonzero(part != "")
    if samples is None:
        return part
    if samples > len(rows):
        raise KdbiasError(f"{place}: asks for {samples:,} samples; there are {len(rows):,}")
    kept = np.zeros(len(part), bool)
    kept[np.random.default_rng(seed).choice(rows, samples, replace=False)] = True
    return np.where(kept, part, "")


@dataclass(frozen=True)
class _BothImages:
    """The images of two sources, one after the other."""

    sources: tuple[Source, Source]

    def _of(self, row: int) -> tuple[Source, int]:
        first, second = self.sources
        return (first, row) if row < first.n else (second, row - first.n)

    def read(self, row: int) -> bytes | np.ndarray:
        """As `Images.read`."""
        source, own = self._of(row)
        return source.read(own)

    def location(self, row: int) -> str:
        """As `Images.location`."""
        source, own = self._of(row)
        return source.location(own)


def _joined(source: Source, deployed: Source) -> Source:
    """Both as one source; a column that one of them lacks is null there."""
    both, rows = (source, deployed), source.n + deployed.n
    names = dict.fromkeys((*source.groups, *deployed.groups))
    images: Images = _BothImages(both)
    ids = pa.concat_arrays([source.ids, joined(DEPLOYED, deployed.ids)])
    require_unique(ids, f"{source.origin} and {deployed.origin}")
    return Source(
        kind="extract",
        origin=f"{source.origin} and {deployed.origin}",
        ids=ids,
        labels=_column([each.labels for each in both], both),
        groups={name: _column([each.groups.get(name) for each in both], both) for name in names},
        images=images,
        fingerprint=fingerprints.of_json([each.fingerprint for each in both]),
        total=rows,
    )


def _column(found: Sequence[pa.Array | None], both: Sequence[Source]) -> pa.Array:
    """One column of both sources, as texts where its types differ; None where neither has it."""
    kinds = {array.type for array in found if array is not None}
    if not kinds:
        return None
    kind = kinds.pop() if len(kinds) == 1 else pa.large_string()
    return pa.concat_arrays(
        [
            pa.nulls(each.n, kind) if array is None else pc.cast(array, kind)
            for array, each in zip(found, both, strict=True)
        ]
    )


def embed_extract(out: Path, data: DataSet, source: Source, part: np.ndarray, machine: Machine) -> None:
    """The teacher's vectors of an extract's samples, as an embedding table with the column `study_part`.

    Args:
        source: the extract's samples that take part.
        part: (n,) of each.
    """
    import kdbias

    assert data.teacher is not None
    if not data.teacher.startswith(f"{PRECOMPUTED}:"):
        originals = out.parent / "originals.parquet"
        _write_originals(originals, source, part)
        kdbias.embed(originals, out, teacher=expand(data.teacher, "teacher"), **machine.embedding)
        remove(originals)
        return
    aim, own = data.deployment, open_source(data.source, data)
    deployed = source.positions >= own.n
    vectors = [_stored(data.teacher, data, own.select(source.positions[~deployed]), out.parent)]
    if aim is not None:
        other = open_source(aim.source, aim).select(source.positions[deployed] - own.n)
        vectors.append(_stored(aim.teacher or "", aim, other, out.parent))
    groups = source.groups | {PART: texts(part)}
    inputs = {"data": source.fingerprint, "part": fingerprints.of_json(part.tolist())}
    write_embedding_table(out, source.ids, np.concatenate(vectors), source.labels, groups, inputs=inputs)


def _stored(spec: str, read: Read, source: Source, folder: Path) -> np.ndarray:
    """(n, d) stored vectors of a source's samples: by id, of an array without ids by position."""
    found = expand(spec, "teacher")
    stored = open_precomputed(found.partition(":")[2], _id_column(found, read))
    vectors, rows = stored.within_reach(stored.rows_for(source, same_order=True), folder)
    return np.asarray(vectors[rows])


def _write_originals(path: Path, source: Source, part: np.ndarray) -> None:
    """The images of an extract as they come, for a teacher that has a size of its own."""
    columns: dict[str, Any] = {"sample_id": source.ids}
    if source.labels is not None:
        columns["label"] = source.labels
    plain = pa.table(columns | source.groups | {PART: texts(part)})
    schema = plain.schema.append(pa.field("image", pa.binary()))
    with parquet_writer(path, schema) as writer:
        for start in range(0, source.n, _GROUP_ROWS):
            block = plain.slice(start, _GROUP_ROWS)
            images = (source.read(row) for row in range(start, start + block.num_rows))
            stored = [image if isinstance(image, bytes) else png(image) for image in images]
            writer.write_table(block.append_column(schema.field("image"), pa.array(stored, pa.binary())))
