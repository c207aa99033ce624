"""Columns in which data and reference differ, though weights by the teacher's space leave them so."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import percent
from kdbias.tables.joins import encode_all, shown
from kdbias.targets.shares import Shares, comparable, share_rows

_HARDLY = 0.2  # of the way to the reference's shares


def reference_shares(target: Mapping[str, Any] | None, column: str) -> Shares | None:
    """The share of each value of a column in the reference, of a manifest's ``target``; None if unknown."""
    pairs = ((target or {}).get("shares") or {}).get(column)
    return None if pairs is None else {value: share for value, share in pairs}


def blind_spots(
    target: Mapping[str, Any] | None, columns: Iterable[tuple[str, pa.Array]], weights: np.ndarray
) -> list[str]:
    """A line for each column that weights towards a reference leave as it is, or that no weight can mend.

    Args:
        target: of the manifest.
        columns: name and (n,) values.
        weights: (n,) with mean 1.
    """
    found = []
    for name, values in columns:
        wanted = reference_shares(target, name)
        if target is not None and wanted is not None:
            found += _of_column(name, values, weights, wanted, target)
    return found


def _of_column(
    name: str, values: pa.Array, weights: np.ndarray, wanted: Shares, target: Mapping[str, Any]
) -> list[str]:
    codes, texts = encode_all(values)
    before, after = (_shares(codes, texts, w) for w in (np.ones(len(codes)), weights))
    if not comparable(before, wanted):
        return []
    rows = share_rows(before, len(codes), wanted, target["effective_size"])
    lines = [_absent(name, rows, before, wanted)]
    beyond = [row for row in rows if row["balance"] and row["value"] in before]
    if beyond and name != target["with"] and _left(rows, before, after, wanted, target):
        worst = max(beyond, key=lambda row: abs(row["share"] - row["share_reference"]))["value"]
        shares = [percent(s.get(worst, 0.0)) for s in (before, after, wanted)]
        why = "do not differ measurably" if target["bound"] == "natural" else "hardly differ by it"
        lines.append(
            f"{name} {worst or '(none)'} has {shares[0]} of the samples, {shares[1]} of the draws and "
            f"{shares[2]} of the reference: in the teacher's space they {why}; --with {name} matches it "
            "together with the embedding"
        )
    return [line for line in lines if line]


def _absent(name: str, rows: Iterable[Mapping[str, Any]], before: Shares, wanted: Shares) -> str:
    """Of the reference's values that the data lack; empty where there are none."""
    absent = [v for row in rows if (v := row["value"]) is not None and v not in before and wanted[v] > 0]
    if not absent:
        return ""
    return (
        f"{name} {shown(pa.array(absent))} ({percent(sum(wanted[text] for text in absent))} of the "
        "reference) does not occur in the data: no weights can bring it in"
    )


def _left(
    rows: Iterable[Mapping[str, Any]],
    before: Shares,
    after: Shares,
    wanted: Shares,
    target: Mapping[str, Any],
) -> bool:
    """Whether weights leave a column's shares about where they were."""
    every = [row["value"] for row in rows]
    start, end = (sum(abs(s.get(v, 0.0) - wanted.get(v, 0.0)) for v in every) for s in (before, after))
    return target["bound"] == "natural" or end >= (1 - _HARDLY) * start


def _shares(codes: np.ndarray, texts: pa.Array, weights: np.ndarray) -> Shares:
    mass = np.bincount(codes, weights=weights) / weights.sum()
    return dict(zip(texts.to_pylist(), mass.tolist(), strict=True))
