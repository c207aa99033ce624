"""Which classes are rare, by a table that counts them."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.meeting import strangers
from kdbias.progress import say
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import as_strings
from kdbias.tables.parquet_file import read_schema, read_table


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
    if path is None:
        why = "--tail-from names the table whose label counts say which classes are rare"
        return Tail(np.zeros(len(names), dtype=bool), None, why)
    counts = class_counts(path, names)
    if counts.min() == counts.max():
        why = f"no tail: in {path} each of the {len(names):,} classes has {counts[0]:,} rows"
        return Tail(np.zeros(len(names), dtype=bool), counts, why)
    return Tail(tail_classes(counts), counts, None)


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
    absent = strangers(
        names, labels, "labels", ("the judged samples", str(path)), "are both of the same data?"
    )
    if absent.any():
        say(f"{absent.sum():,} of {len(names):,} classes have no row in {path}: they count as the rarest")
    found = pc.index_in(labels, value_set=names, skip_nulls=True).drop_null().to_numpy(zero_copy_only=False)
    return np.bincount(found, minlength=len(names))


def tail_classes(counts: np.ndarray) -> np.ndarray:
    """Mask of the third of the classes (rounded up) with the fewest samples; ties go by position."""
    tail = np.zeros(len(counts), dtype=bool)
    tail[np.argsort(counts, kind="stable")[: -(-len(counts) // 3)]] = True
    return tail


def _labels(path: Path) -> pa.Array:
    if path.is_dir() and (path / "density.parquet").exists():
        path = path / "density.parquet"
    if path.is_dir():
        return as_strings(EmbeddingTable.open(path).labels())
    if "label" not in read_schema(path).names:
        raise KdbiasError(f"{path} has no column 'label' to count classes by")
    return as_strings(read_table(path, ["label"])["label"])
