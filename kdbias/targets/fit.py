"""Whether a reference can be compared with the data: by the same teacher, prepared alike, other samples."""

from typing import Any

import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import shown
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.targets.common import same_samples
from kdbias.targets.described import Made
from kdbias.wording import counted


def require_fit(table: EmbeddingTable, data: EmbeddingTable) -> list[str]:
    """Refuse a reference that cannot be compared with the data.

    Returns:
        What is odd about it, as lines.

    Raises:
        KdbiasError: as `require_alike`; the data themselves.
    """
    both = _both(table, data)
    if table.fingerprint == data.fingerprint:
        raise KdbiasError(
            f"{both} are the same table, so natural sampling is like it already; name a sample of what the "
            "student will be used on"
        )
    notes = require_alike(table, data)
    ids, known = table.ids(), data.ids()
    common = same_samples(table, data, ids.filter(pc.is_in(ids, value_set=known)))
    if len(common) == table.n == data.n:
        raise KdbiasError(
            f"{both} hold the same {table.n:,} samples, so natural sampling is like it already; name a "
            "sample of what the student will be used on"
        )
    if len(common):
        notes.append(
            f"{counted(len(common), 'sample')} of the reference ({shown(common)}) "
            f"{'is' if len(common) == 1 else 'are'} among the data, too; a reference of other samples "
            "judges more fairly"
        )
    return notes


def require_alike(table: Made, data: Made) -> list[str]:
    """Refuse a reference that was made otherwise than the data were, or will be.

    Returns:
        A line where that cannot be told.

    Raises:
        KdbiasError: another dimension, teacher or preprocessing.
    """
    both = _both(table, data)
    if table.d != data.d:
        raise KdbiasError(
            f"{both} have {table.d} and {data.d} dimensions; embed the reference with the data's teacher"
        )
    ours, theirs = (inputs_in(t.provenance) for t in (data, table))
    config, other = (_made(t) for t in (data, table))
    computed = "teacher" in ours and "teacher" in theirs
    if not computed or any(str(c.get("teacher", "")).startswith("precomputed:") for c in (config, other)):
        return [f"{both} do not both say which network made them; they must be by the same teacher"]
    if ours["teacher"] != theirs["teacher"]:
        raise KdbiasError(
            f"{both} are by different teachers ({_teacher(other, theirs)} and {_teacher(config, ours)}): "
            "their vectors do not compare; embed the reference with the data's teacher"
        )
    if config.get("preprocessing") != other.get("preprocessing"):
        raise KdbiasError(
            f"{both} were preprocessed differently ({_differing(other, config)}); embed the reference as "
            "the data were"
        )
    return []


def _both(table: Made, data: Made) -> str:
    return f"the reference {table.path} and the data {data.path}"


def _made(table: Made) -> dict[str, Any]:
    """How a table was made: its configuration and its teacher's name."""
    return {"teacher": table.provenance.get("teacher"), **options_in(table.provenance)}


def _teacher(config: dict[str, Any], inputs: dict[str, str]) -> str:
    return f"{config['teacher'] or 'unknown'}, fingerprint {inputs['teacher'][:8]}"


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The keys of the preprocessing that differ, with both values."""
    a, b = (c.get("preprocessing") or {} for c in (one, other))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return "; ".join(f"{key}: {a.get(key)} and {b.get(key)}" for key in keys)
