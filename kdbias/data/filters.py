"""``--where col=value``: which samples of a source to keep."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.data.source import Source
from kdbias.errors import KdbiasError
from kdbias.wording import nearest

_CONDITION = re.compile(r"(?P<column>.+?)\s*(?P<sign>!=|=)\s*(?P<value>.*)", re.DOTALL)
_TRUE, _FALSE = frozenset(("true", "yes", "1")), frozenset(("false", "no", "0"))
_SHOWN = 12
_COMPARED = 10_000  # values among which one that was meant is looked for


class Table(Protocol):
    """Anything with named columns of one length."""

    def columns(self) -> dict[str, pa.Array]:
        """Column arrays by name, each with a value for every row."""


def filter_source(source: Source, where: Sequence[str]) -> Source:
    """The samples that satisfy every condition, see :func:`matching`.

    Raises:
        KdbiasError: an unknown column or a value that no sample has, or nothing left.
    """
    keep = matching(source, where)
    if keep is None:
        return source
    if not keep.any():
        raise KdbiasError(f"{source.origin}: no sample satisfies --where {' --where '.join(where)}")
    return source.select(keep)


def matching(table: Table, where: Sequence[str]) -> np.ndarray | None:
    """Which rows satisfy every condition.

    Args:
        table: its columns have n values each.
        where: "column=value" or "column!=value". Values compare as text, numbers and booleans by value
            (``yes``/``no`` are booleans too); an empty value means missing or empty. Several ``=`` on one
            column keep any of these values; all other conditions hold together.

    Returns:
        (n,) bool, or None without conditions.

    Raises:
        KdbiasError: an unknown column or a value that no row has.
    """
    columns = table.columns() if where else {}
    wanted: dict[str, np.ndarray] = {}
    others: list[np.ndarray] = []
    for condition in where:
        column, sign, value = _parse(condition)
        values = columns.get(column)
        if values is None:
            raise KdbiasError(
                f"--where {condition}: no column {column!r}; there are {', '.join(columns)}"
                + nearest(column, columns)
            )
        hit = _equals(values, value)
        if not hit.any():
            raise KdbiasError(
                f"--where {condition}: no sample has this value; {column} has {_available(values)}"
                + _nearest_value(value, values)
            )
        if sign == "=":
            wanted[column] = wanted[column] | hit if column in wanted else hit
        else:
            others.append(~hit)
    return np.logical_and.reduce([*wanted.values(), *others]) if where else None


def spelled(where: Sequence[str], types: Mapping[str, pa.DataType]) -> list[str]:
    """Conditions on columns of these types as records keep them: what means the same is spelled the same."""
    found = set()
    for condition in where:
        column, sign, value = _parse(condition)
        known = _scalar(types[column], value) if column in types and value else None
        if known is not None:
            value = str(known.as_py()).lower() if pa.types.is_boolean(known.type) else str(known.as_py())
        found.add(f"{column}{sign}{value}")
    return sorted(found)


def _parse(condition: str) -> tuple[str, str, str]:
    """Column, sign (= or !=) and value of a condition."""
    match = _CONDITION.fullmatch(condition.strip())
    if match is None:
        raise KdbiasError(f"--where {condition!r}: write column=value or column!=value")
    return match["column"], match["sign"], match["value"]


def _equals(values: pa.Array, value: str) -> np.ndarray:
    """Bool array (rows,): which values equal the text; an empty text is a missing value."""
    if value == "":
        empty = pc.is_null(values)
        if pa.types.is_large_string(values.type):
            empty = pc.or_(empty, pc.equal(values.fill_null(""), ""))
        return empty.to_numpy(zero_copy_only=False)
    wanted = _scalar(values.type, value)
    if wanted is None:
        return np.zeros(len(values), bool)
    if pa.types.is_float16(values.type):  # which Arrow does not compare
        values, wanted = values.cast(pa.float32()), wanted.cast(pa.float32())
    elif wanted.type != values.type:
        values = values.cast(wanted.type)
    return pc.equal(values, wanted).fill_null(False).to_numpy(zero_copy_only=False)


def _scalar(kind: pa.DataType, value: str) -> pa.Scalar | None:
    """A value as a column of this type holds it, text for any other type; None where it cannot."""
    try:
        if pa.types.is_boolean(kind):
            lowered = value.lower()
            return pa.scalar(lowered in _TRUE) if lowered in _TRUE | _FALSE else None
        if pa.types.is_integer(kind):
            return pa.scalar(int(value), kind)
        if pa.types.is_floating(kind):
            return pa.scalar(float(value), kind)
    except (ValueError, OverflowError):
        return None
    return pa.scalar(value, pa.large_string())


def _nearest_value(value: str, values: pa.Array) -> str:
    """The nearest text among the commonest of a column, as the end of a message."""
    if not pa.types.is_large_string(values.type):
        return ""
    return nearest(value, _by_count(values).drop_null().slice(0, _COMPARED).to_pylist())


def _by_count(values: pa.Array) -> pa.Array:
    """The distinct values, the commonest first."""
    counts = pc.value_counts(values)
    order = pc.sort_indices(counts.field("counts"), sort_keys=[("", "descending")])
    return counts.field("values").take(order)


def _available(values: pa.Array) -> str:
    """The commonest values of a column, for a message."""
    distinct = _by_count(values)
    few = ", ".join("(missing)" if v is None else str(v) for v in distinct.slice(0, _SHOWN).to_pylist())
    return few + (f", ... ({len(distinct):,} values)" if len(distinct) > _SHOWN else "")
