"""Joins by sample id; stages never rely on the order of rows."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.wording import counted

_SHOWN = 3


def as_strings(values: pa.Array | pa.ChunkedArray | Sequence[object]) -> pa.Array:
    """One contiguous large_string array, of Arrow columns or of any sequence (list, NumPy, pandas)."""
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        values = pa.array(values if hasattr(values, "dtype") else list(values))
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(
            [chunk.cast(pa.large_string()) for chunk in values.chunks] or [pa.array([], pa.large_string())]
        )
    return values if pa.types.is_large_string(values.type) else values.cast(pa.large_string())


def require_unique(ids: pa.Array, where: str) -> None:
    """Refuse null or repeated ids, naming some of them."""
    ids = as_strings(ids)
    if ids.null_count:
        raise KdbiasError(
            f"{where}: {counted(ids.null_count, 'row', 'has/have')} no sample_id; every row needs one"
        )
    distinct = pc.count_distinct(ids).as_py()
    if distinct == len(ids):
        return
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    raise KdbiasError(
        f"{where}: {counted(len(repeated), 'sample_id value', 'occurs/occur')} more than once "
        f"({shown(repeated)}); ids must be unique: choose another --id-column or drop the repeated rows"
    )


def align(
    ids_wanted: pa.Array, ids_have: pa.Array, what: str, where: str, allow_missing: bool = False
) -> np.ndarray:
    """Row of each wanted id.

    Args:
        ids_wanted: (m,) strings.
        ids_have: (n,) unique strings.
        what: what the wanted ids belong to, for the message ("weights").
        where: what is searched ("embedding table /data/emb").
        allow_missing: give -1 for a missing id instead of raising.

    Returns:
        (m,) int64 positions in ``ids_have``.

    Raises:
        KdbiasError: ids are missing; the message has both counts and a few of them.
    """
    wanted, have = as_strings(ids_wanted), as_strings(ids_have)
    require_unique(have, where)
    if wanted.null_count:
        raise KdbiasError(
            f"{what}: {counted(wanted.null_count, 'row', 'has/have')} no sample_id; every row needs one"
        )
    rows = pc.index_in(wanted, value_set=have)
    if rows.null_count and not allow_missing:
        missing = wanted.filter(pc.is_null(rows))
        raise KdbiasError(
            f"{rows.null_count:,} of the {len(wanted):,} ids of {what} are not among the "
            f"{counted(len(have), 'id')} of {where} ({shown(missing)}); are they from the same data?"
        )
    return rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def encode(values: pa.Array, names: pa.Array | None = None) -> tuple[np.ndarray, pa.Array]:
    """Integer codes of strings by sorted value, -1 for null (or for a value not among ``names``)."""
    values = as_strings(values)
    if names is None:
        names = pc.unique(values.drop_null())
        names = names.take(pc.sort_indices(names))
    codes = pc.index_in(values, value_set=names, skip_nulls=True)
    codes = codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, names


def encode_all(values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Integer codes of strings (n,), and the values as they first occur, null among them."""
    found = pc.dictionary_encode(as_strings(values), null_encoding="encode")
    return found.indices.to_numpy(zero_copy_only=False), found.dictionary


def shown(values: pa.Array, rows: np.ndarray | None = None) -> str:
    """A few values for a message, those of the rows (m,) where they are given."""
    values = values if rows is None else values.take(pa.array(rows[: _SHOWN + 1]))
    few = ", ".join(repr(v) for v in values.slice(0, _SHOWN).to_pylist())
    return few + (", ..." if len(values) > _SHOWN else "")
