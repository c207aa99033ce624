"""What an evaluation reads: fingerprints, embeddings of a model that has none yet, which classes are rare.

And whether two tables speak of the same people, cameras, classes and groups. Values are compared as texts.
Tables of two origins spell one thing in two ways (``0`` and ``00``, ``1`` and ``1.0``, ``C2`` and ``c2``),
and what never meets is silently another thing: an exclusion that excludes nothing, a class without an answer.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.settings import READING, EvaluateSettings
from kdbias.evaluation.task import Embeddings
from kdbias.progress import say
from kdbias.sphere.vectors import row_digests
from kdbias.tables import fingerprints
from kdbias.tables.density_table import DENSITY
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.files import nearest_path
from kdbias.tables.joins import align, as_strings, encode, shown
from kdbias.tables.listing import head_of, located
from kdbias.tables.parquet_file import read_provenance, read_schema
from kdbias.tables.parted_table import read_columns
from kdbias.tables.run_record import RECORD, read_record

FILES = ("pairs", "templates", "detector_scores")
TABLES = ("reference", "gallery", "tail_from", "density")
"""Options of :func:`kdbias.evaluate` that name what it reads beside the judged embeddings."""


def input_fingerprints(paths: Mapping[str, str | os.PathLike[str]]) -> dict[str, str]:
    """Of each input in FILES and TABLES that is given, by the option that names it."""
    return {role: fingerprint(path, role) for role, path in paths.items()}


def model_inputs(
    model: str | os.PathLike[str], settings: EvaluateSettings
) -> tuple[dict[str, str], dict[str, pa.DataType]]:
    """What is judged, a table or a network and its data: fingerprints, and the types of its columns.

    Raises:
        KdbiasError: there is no such table, network or data.
    """
    if settings.data is None:
        if not Path(model).exists():
            raise KdbiasError(
                f"{model} is no embedding table; to judge a teacher spec or a run give --data DATA too"
                + nearest_path(model)
            )
        return {"model": fingerprint(model)}, column_types(model)
    from kdbias.data.opening import open_data
    from kdbias.teachers.spec import PRECOMPUTED, parse_spec

    spec, given = teacher_spec(model), settings.embedding
    parse_spec(spec)
    reading = {name: given[name] for name in READING if name in given}
    source = open_data(settings.data, **reading, images=not spec.startswith(f"{PRECOMPUTED}:"))
    return {"model": network_fingerprint(spec, given), "data": source.fingerprint}, source.types()


def column_types(path: str | os.PathLike[str]) -> dict[str, pa.DataType]:
    """The type of each column of an embedding table."""
    schema = read_schema(EmbeddingTable.open(path).parts[0])
    return dict(zip(schema.names, schema.types, strict=True))


def teacher_spec(model: str | os.PathLike[str]) -> str:
    """A folder that `kdbias train` wrote may be named alone."""
    return f"run:{model}" if (Path(model) / RECORD).exists() else str(model)


def network_fingerprint(spec: str, embedding: Mapping[str, Any]) -> str:
    """The teacher's own: files that the spec does not name, such as a side-car, count as well."""
    from kdbias import progress
    from kdbias.device import resolve_device
    from kdbias.teachers import open_teacher
    from kdbias.teachers.spec import PRECOMPUTED

    if spec.startswith(f"{PRECOMPUTED}:"):
        from kdbias.teachers.precomputed import open_precomputed

        return open_precomputed(spec.partition(":")[2], embedding.get("id_column")).fingerprint
    device = resolve_device(embedding.get("device") or "auto")
    with progress.quiet():  # what there is to say of it is said when it embeds
        return open_teacher(spec, device=device, output=embedding.get("teacher_output")).fingerprint


def fingerprint(path: str | os.PathLike[str], role: str = "model") -> str:
    """Of an embedding table, of a density table or other file or, for FILES, of all files below a folder.

    Raises:
        KdbiasError: there is none, or it is a training run.
    """
    path = Path(path)
    if role in FILES and not path.exists():
        raise KdbiasError(f"{path}: no such file; --{role.replace('_', '-')} names one{nearest_path(path)}")
    if path.is_file():
        return fingerprints.of_file(path)
    if role in FILES:
        files = sorted(file for file in (*path.glob("*"), *path.glob("*/*")) if file.is_file())
        return fingerprints.of_json([[str(f.relative_to(path)), fingerprints.of_file(f)] for f in files])
    if (file := head_of(located(path / DENSITY))).is_file():
        return fingerprints.of_file(file)
    record = read_record(path) if (path / RECORD).exists() else {}
    if record.get("stage") == "train":
        raise KdbiasError(
            f"{path} is a training run, not an embedding table; give --data DATA to embed with it"
        )
    return EmbeddingTable.open(path).fingerprint


def rows_fingerprint(columns: Sequence[pa.Array | np.ndarray]) -> dict[str, Any]:
    """Number and digest of rows of texts or numbers, whatever their order."""
    values = [as_strings(c) if isinstance(c, pa.Array) else c for c in columns]
    table = pa.table(values, names=[str(i) for i in range(len(values))])
    table = table.sort_by([(name, "ascending") for name in table.column_names])
    return {"n": table.num_rows, "digest": fingerprints.of_table(table)}


def origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Where an input lies and, for a table that kdbias made, the stage and the options that made it."""
    record = Path(path) / RECORD
    made: Mapping[str, Any] = {}
    if record.is_file() or Path(path).suffix == ".parquet":
        made = (read_record(path) if record.is_file() else read_provenance(head_of(Path(path)))) or {}
    return {"path": str(path), "stage": made.get("stage"), "config": made.get("config")}


def embed_model(model: str | os.PathLike[str], out: Path, settings: EvaluateSettings) -> Path:
    """Embed the settings' data with a model into a table; with a gallery from the same data all of it."""
    from kdbias.embedding.stage import embed

    where = () if settings.gallery_where else settings.where
    embed(str(settings.data), out, teacher=teacher_spec(model), where=where, **settings.embedding)
    return out


@dataclass(frozen=True)
class Tail:
    """The rare ones of C classes.

    Attributes:
        mask: (C,) bool.
        counts: (C,) int64 rows of each class in the table that says which are rare, None without a table.
        none_why: why no class is rare, None where some are.
    """

    mask: np.ndarray
    counts: np.ndarray | None
    none_why: str | None


def tail_of(path: str | os.PathLike[str] | None, names: pa.Array) -> Tail:
    """Which classes are rare: the third of them (rounded up) with the fewest rows in a table.

    Args:
        path: the table, see :func:`class_counts`; None: no class is rare.
        names: (C,) labels.
    """
    counts = None if path is None else class_counts(path, names)
    if counts is None:
        why = "--tail-from names the table whose label counts say which classes are rare"
    elif counts.min() == counts.max():
        why = f"no tail: in {path} each of the {len(names):,} classes has {counts[0]:,} rows"
    else:
        return Tail(tail_classes(counts), counts, None)
    return Tail(np.zeros(len(names), dtype=bool), counts, why)


def class_counts(path: str | os.PathLike[str], names: pa.Array) -> np.ndarray:
    """How many rows of a table have each label.

    Args:
        path: an embedding table, a density table or a weight manifest (rows are counted, not weights), or
            any Parquet file with a column ``label``.
        names: (C,) labels to count.

    Returns:
        (C,) int64 counts, 0 for a label that the table does not have.

    Raises:
        KdbiasError: the table has no labels, none of these, or spells one otherwise.
    """
    labels = _labels(Path(path))
    where = ("the judged samples", str(path))
    absent = strangers(names, labels, "labels", where, "are both of the same data?")
    if absent.any():
        say(f"{absent.sum():,} of {len(names):,} classes have no row in {path}: they count as the rarest")
    codes, _ = encode(labels, names)
    return np.bincount(codes[codes >= 0], minlength=len(names))


def tail_classes(counts: np.ndarray) -> np.ndarray:
    """Mask of the third of the classes (rounded up) with the fewest samples; ties go by position."""
    tail = np.zeros(len(counts), dtype=bool)
    tail[np.argsort(counts, kind="stable")[: -(-len(counts) // 3)]] = True
    return tail


def _labels(path: Path) -> pa.Array:
    """Labels of a table's samples, large_string (rows,)."""
    if path.is_dir() and not (file := located(path / DENSITY)).exists():
        return as_strings(EmbeddingTable.open(path).labels())
    path = file if path.is_dir() else path
    if "label" not in read_schema(head_of(path)).names:
        raise KdbiasError(f"{path} has no column 'label' to count classes by")
    return as_strings(read_columns(path, ["label"])["label"])


def strangers(
    mine: pa.Array, theirs: pa.Array, what: str, where: tuple[str, str], way_out: str
) -> np.ndarray:
    """Which rows hold a value that the other table has nowhere.

    Args:
        mine, theirs: (n,) and (m,) values of the two tables; null is no value.
        what: their name in the plural; where: the tables' names; way_out: what to do where none meets.

    Returns:
        (n,) bool.

    Raises:
        KdbiasError: no value occurs in both, or two differ in their spelling alone.
    """
    first, second = (pc.unique(as_strings(values).drop_null()) for values in (mine, theirs))
    unmet = [
        one.filter(pc.invert(pc.is_in(one, value_set=other)))
        for one, other in ((first, second), (second, first))
    ]
    if len(first) and len(second) and len(unmet[0]) == len(first):
        raise KdbiasError(
            f"none of the {len(first):,} {what} of {where[0]} ({shown(first)}) occurs among the "
            f"{len(second):,} of {where[1]} ({shown(second)}); {way_out}"
        )
    spelled = {_spelling(value): value for value in unmet[1].to_pylist()}
    for value in unmet[0].to_pylist():
        if (other := spelled.get(_spelling(value))) is not None:
            raise KdbiasError(
                f"{what}: {value!r} in {where[0]} and {other!r} in {where[1]} differ in their spelling "
                "alone; spell them alike in both tables"
            )
    return pc.is_in(as_strings(mine), value_set=unmet[0]).to_numpy(zero_copy_only=False)


def refuse_two_spellings(values: Iterable[str], what: str) -> None:
    """Raises KdbiasError where two of different values differ in their spelling alone."""
    seen: dict[str, str] = {}
    for value in values:
        other = seen.setdefault(_spelling(value), value)
        if other != value:
            raise KdbiasError(f"{what} has both {other!r} and {value!r}; spell them alike")


def rows_in(model: Embeddings, gallery: Embeddings) -> np.ndarray:
    """(n,) row of the gallery that is the judged sample itself, by id; -1 where it is not there.

    Says how many samples may be there under another id, where they would be their own answer: those with the
    very vector of a row.

    Raises:
        KdbiasError: see :func:`compare_labels`.
    """
    rows = align(model.ids, gallery.ids, "the model", gallery.name, allow_missing=True)
    compare_labels(model, gallery, rows)
    absent = np.flatnonzero(rows < 0)
    if len(absent):
        digests = row_digests(gallery.vectors)[:, 0]
        twins = np.isin(row_digests(model.vectors[absent])[:, 0], digests)
        if twins.any():
            say(
                f"{twins.sum():,} of {model.n:,} judged samples have the very vector of a gallery sample of "
                f"another id ({shown(model.ids.take(pa.array(absent[twins][:4])))}): where that is the same "
                "image, the figures flatter; give it the same id"
            )
    return rows


def compare_labels(model: Embeddings, other: Embeddings, rows: np.ndarray) -> None:
    """Look whether rows of two tables that share an id share the label, as far as both have one.

    Args:
        rows: (n,) row of ``other`` of each of the model's, -1 for none.

    Raises:
        KdbiasError: none does: the ids are those of other samples. Where some do not, it is said.
    """
    at = np.flatnonzero(rows >= 0)
    equal = pc.equal(model.labels.take(pa.array(at)), other.labels.take(pa.array(rows[at])))
    known, same = len(equal) - equal.null_count, pc.sum(equal).as_py() or 0
    if known == same:
        return
    differing = model.ids.take(pa.array(at)).filter(pc.fill_null(pc.invert(equal), False))
    text = (
        f"{known - same:,} of {known:,} ids that {model.name} and {other.name} share have another label "
        f"there ({shown(differing)})"
    )
    if not same and known > 1:
        raise KdbiasError(f"{text}; an id must name the same sample in both")
    say(f"{text}; they are taken for the same samples")


def _spelling(value: str) -> str:
    """What is left of a value without case, blanks around it, leading zeros, and zeros after the point."""
    text = re.sub(r"^([+-]?\d+)\.0+$", r"\1", value.strip().casefold())
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", text)
