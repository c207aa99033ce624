"""Whether two tables speak of the same people, cameras, classes and groups.

Values are compared as texts. Tables of two origins spell one thing in two ways (``0`` and ``00``, ``1`` and
``1.0``, ``C2`` and ``c2``), and what never meets is silently another thing: an exclusion that excludes
nothing, a class without an answer.
"""

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.evaluation.task import Embeddings
from kdbias.progress import say
from kdbias.sphere.vectors import row_digests
from kdbias.tables.joins import align, as_strings, shown


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
