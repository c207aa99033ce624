"""``units.parquet``: the result of every unit, as ``evaluate`` writes it and ``compare`` reads it.

Its columns are what names a unit (``sample_id``; of a pair ``first`` and ``second``), ``result_*`` (what the
protocol's ``score`` reads), ``group_*`` (grouping columns) and ``cluster_*`` (codes of what is resampled
together).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.evaluation.task import Outcome
from kdbias.tables.joins import as_strings, encode, shown

UNITS = "units.parquet"

_IDS = ("sample_id", "first", "second")
_RESULT, _GROUP, _CLUSTER = "result_", "group_", "cluster_"
_MOST_GROUPS = 256


def unit_table(outcome: Outcome, group_by: Sequence[str]) -> pa.Table:
    columns: dict[str, Any] = dict(outcome.ids)
    columns |= {_RESULT + name: pa.array(values) for name, values in outcome.columns.items()}
    columns |= {_GROUP + name: values for name, values in groups_of(outcome, group_by).items()}
    if outcome.clusters is not None:
        for i, codes in enumerate(np.atleast_2d(outcome.clusters.T)):
            columns[f"{_CLUSTER}{i}"] = pa.array(codes)
    return pa.table(columns)


def groups_of(outcome: Outcome, group_by: Sequence[str]) -> dict[str, pa.Array]:
    """The values of each column to report by, those that the protocol always reports among them."""
    wanted = list(dict.fromkeys([*group_by, *outcome.always_grouped]))
    for name in wanted:
        if name not in outcome.groups:
            raise KdbiasError(
                f"cannot group by {name!r}; there is {', '.join(outcome.groups) or 'no group column'}"
            )
    return {name: outcome.groups[name] for name in wanted}


def stored_groups(units: pa.Table) -> dict[str, pa.Array]:
    return {name: as_strings(values) for name, values in _stripped(units, _GROUP).items()}


def stored_results(units: pa.Table) -> dict[str, np.ndarray]:
    return {name: values.to_numpy() for name, values in _stripped(units, _RESULT).items()}


def stored_clusters(units: pa.Table) -> np.ndarray | None:
    """Codes as in :class:`kdbias.evaluation.task.Outcome`."""
    columns = [values.to_numpy() for values in _stripped(units, _CLUSTER).values()]
    if not columns:
        return None
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


def _stripped(units: pa.Table, prefix: str) -> dict[str, pa.ChunkedArray]:
    return {n.removeprefix(prefix): units[n] for n in units.column_names if n.startswith(prefix)}


def subsets_of(
    groups: Mapping[str, pa.Array],
) -> tuple[list[tuple[str, str]], list[np.ndarray | None]]:
    """What is scored: everything (None), then the rows of each value of each grouping column.

    Returns:
        (column, value) of each group, and one subset more: rows of the units, None first.
    """
    keys: list[tuple[str, str]] = []
    subsets: list[np.ndarray | None] = [None]
    for column, values in groups.items():
        codes, names = encode(values)
        if len(names) > _MOST_GROUPS:
            raise KdbiasError(
                f"{column!r} has {len(names):,} values; group by a column with at most {_MOST_GROUPS}"
            )
        for code, value in enumerate(names.to_pylist()):
            keys.append((column, value))
            subsets.append(np.flatnonzero(codes == code))
    return keys, subsets


def places_in(base: pa.Table, units: pa.Table, base_name: object, name: object) -> np.ndarray:
    """Row in the base of every unit, by id.

    Raises:
        KdbiasError: they are not the same units, or one is listed twice.
    """
    keys = np.zeros(base.num_rows + units.num_rows, dtype=np.int64)
    for column in base.column_names:
        if column in _IDS:
            both = pa.concat_arrays([as_strings(table[column]) for table in (base, units)])
            codes = both.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
            keys = keys * (int(codes.max()) + 1) + codes
    wanted, have = keys[: base.num_rows], keys[base.num_rows :]
    if np.array_equal(wanted, have):
        return np.arange(base.num_rows)
    missing = np.flatnonzero(~np.isin(wanted, have))
    if len(missing) or len(wanted) != len(have):
        ids = next(base[column] for column in base.column_names if column in _IDS)
        raise KdbiasError(
            f"{base_name} judged {len(wanted):,} units, {name} {len(have):,}; {len(missing):,} of the "
            f"former are not among the latter ({shown(as_strings(ids).take(pa.array(missing[:4])))}); "
            "judge both on the same test data"
        )
    order = np.argsort(wanted, kind="stable")
    places = order[np.searchsorted(wanted[order], have)]
    if len(np.unique(places)) != len(places):
        raise KdbiasError(f"{base_name} lists a unit twice, so the rows of {name} cannot be told apart")
    return places
