"""What the columns and ids of data and of a reference say of a target; no vector is looked at.

`kdbias run` asks this before anything is embedded, of the data themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.errors import KdbiasError
from kdbias.sphere.equilibrium.target import Codes, balanced_masses, effective_size
from kdbias.tables.csv_file import DELIMITERS, read_csv
from kdbias.tables.joins import align, as_strings, encode, shown
from kdbias.tables.parquet_file import read_table
from kdbias.tables.weight_manifest import read_manifest
from kdbias.targets.clusters import cluster_codes, clusters_of
from kdbias.targets.described import Described
from kdbias.targets.settings import Aiming, Named
from kdbias.wording import counted

FEW = 100
"""References that say no more than so few independent samples are said to be small."""


@dataclass(frozen=True)
class Told:
    """What is known of a target beside its vectors; attributes as of `OpenTarget`."""

    masses: np.ndarray | None = None
    codes: Codes | None = None
    clusters: Codes | None = None
    clustered: str | None = None
    notes: tuple[str, ...] = ()


def told_of(aim: Aiming, named: Named, data: Described, reference: Described | None) -> Told:
    """What columns and ids say of ``balanced``, or of a reference.

    Raises:
        KdbiasError: a column that is not there or has one value; shares or weights that cannot be read, or
            leave a value or a sample out; a reference of one sample.
    """
    if reference is None:
        own = None if aim.with_column is None else _values(data, aim.with_column)[0]
        return Told(_balanced(named, data), None if own is None else (own, own))
    if reference.n < 2:
        raise KdbiasError(f"the reference {reference.path} has a single sample; give some hundreds")
    masses = codes = clusters = None
    notes: list[str] = []
    if named.by is not None:
        manifest = read_manifest(named.by)
        whose = f"reference {reference.path}", f"its weights {named.by}"
        weights = manifest.weights[align(reference.ids(), manifest.id_parts, *whose)]
        masses = weights / weights.sum()
    if aim.with_column is not None:
        codes, notes = _both(data, reference, aim.with_column)
    clustered, said = clusters_of(data, reference, aim.cluster_by)
    if clustered is not None:
        clusters = cluster_codes(data, reference, clustered)
        notes += [said] if said else []
    worth = effective_size(reference.n, masses, None if clusters is None else clusters[1])
    if worth < FEW:
        small = (
            f"a reference of {counted(reference.n, 'sample')}{worth_told(reference.n, worth)} is small: only "
            "large differences show against it; some hundreds are better"
        )
        notes.insert(0, small)
    return Told(masses, codes, clusters, clustered, tuple(notes))


def worth_told(size: int | None, worth: float | None) -> str:
    """After the number of a reference's samples: how many independent ones they are worth, if fewer.

    Args:
        size: its samples; None without a reference.
        worth: its effective size, `Target.size`.
    """
    less = size is not None and worth is not None and round(worth) < size
    return f", worth {worth:,.0f} independent ones" if less else ""


def _values(table: Described, column: str) -> tuple[np.ndarray, pa.Array]:
    """Codes (n,) of a column, -1 for no value, and its values.

    Raises:
        KdbiasError: there is no such column, or it has a single value.
    """
    codes, names = encode(as_strings(table.column(column)))
    if len(names) < 2:
        found = f"the value {names[0].as_py()!r} alone" if len(names) else "no values"
        raise KdbiasError(f"{table.path}: column {column!r} has {found}; a column of two or more is needed")
    return codes, names


def _balanced(named: Named, data: Described) -> np.ndarray:
    codes, names = _values(data, named.what)
    if named.by is None:
        return balanced_masses(codes)
    shares = _shares(named.by, named.what)
    texts = names.to_pylist()
    unknown = [value for value in shares if value not in texts and shares[value]]
    left_out = [value for value in texts if value not in shares]
    if unknown or left_out:
        fault = (
            f"shares for {shown(pa.array(unknown))}, which no sample of {data.path} has"
            if unknown
            else f"no share for {shown(pa.array(left_out))}"
        )
        raise KdbiasError(
            f"{named.by} gives {fault}; give each value of {named.what!r} a share >= 0 (the data have: "
            f"{shown(names)})"
        )
    return balanced_masses(codes, [shares[value] for value in texts])


def _shares(path: str | os.PathLike[str], column: str) -> dict[str, float]:
    """The share of each value, from a table with a column of values and ``share``."""
    delimiter = DELIMITERS.get(Path(path).suffix.lower())
    table = read_table(path) if delimiter is None else read_csv(path, (column,), delimiter=delimiter)
    missing = [name for name in (column, "share") if name not in table.column_names]
    if missing:
        raise KdbiasError(
            f"{path} lacks the column(s) {', '.join(missing)} (it has: {', '.join(table.column_names)}); a "
            f"table of shares has {column} and share"
        )
    values = as_strings(table.column(column))
    try:
        shares = table.column("share").cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        raise KdbiasError(f"{path}: a share is no number ({error})") from None
    if len(pc.unique(values)) != len(values) or values.null_count:
        raise KdbiasError(f"{path}: a value of {column!r} is missing or occurs twice")
    if not (np.isfinite(shares) & (shares >= 0)).all() or not shares.any():
        raise KdbiasError(f"{path}: shares must be numbers >= 0, not all 0, got {shares.tolist()[:5]}")
    return dict(zip(values.to_pylist(), shares.tolist(), strict=True))


def _both(data: Described, table: Described, column: str) -> tuple[Codes, list[str]]:
    """A column's codes in data and reference, by one set of values, and what is odd about them."""
    if column not in ("label", *table.group_columns):
        raise KdbiasError(
            f"the reference {table.path} has no column {column!r}, so it cannot be compared with the data's; "
            f"it has: {', '.join(['label', *table.group_columns])}"
        )
    ours, known = _values(data, column)
    _, names = encode(as_strings(table.column(column)))
    if not len(names):
        raise KdbiasError(f"the reference {table.path} has no value in column {column!r} to compare")
    absent = names.filter(pc.invert(pc.is_in(names, value_set=known)))
    codes = encode(as_strings(table.column(column)), pa.concat_arrays([known, absent]))[0]
    notes = []
    if len(absent):
        share = float((codes >= len(known)).mean())
        notes.append(
            f"{column} {shown(absent)} of the reference ({share:.1%} of it) does not occur in the data: no "
            "weights can bring it in"
        )
    return (ours, codes), notes
