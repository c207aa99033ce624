"""Who is drawn, before and after: a row a value of a column, with intervals and the target's share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import NONE, percent, write
from kdbias.display.table import Cell, Table
from kdbias.reporting.outputs import NATURAL, Density
from kdbias.tables.joins import encode_all
from kdbias.tables.telling import telling

MOST_VALUES = 200  # a column with more is no group
_BALANCE = "over-full or short by more than sampling explains"
_CARRIED = 0.499  # ESS/n: a floor of one half, met but for rounding
_Z = 1.959964  # of a 95 % interval


def telling_columns(density: Density) -> list[str]:
    """Columns that name groups, those in which something is off against the target first."""
    table, aimed = density.table, (density.numbers["target"] or {}).get("columns") or {}
    named = [("label", table.labels), *((name, table.table.column(name)) for name in table.group_columns)]
    found = []
    for name in telling(named)[0]:
        names = encode_all(dict(named)[name])[1]
        if len(names) <= MOST_VALUES and len(names) - names.null_count >= 2:
            found.append(name)
    return sorted(found, key=lambda name: (name not in aimed, not _off(aimed.get(name, ()))))


def _off(rows: Any) -> bool:
    return any(row["balance"] for row in rows)


def best_scheme(density: Density, weights: Collection[str]) -> str | None:
    """The collected scheme that is nearest the target, else whose draws are worth most; None without.

    One whose draws few samples carry (ESS/n below a half) comes after all others.
    """
    others = [name for name in weights if name != NATURAL]
    measured = {s["name"]: s for s in density.numbers["schemes"] if s["name"] in others}
    worth = {name: _worth(density, scheme) for name, scheme in measured.items()}
    known = {name: value for name, value in worth.items() if value is not None}
    carried = {name: measured[name]["ess_share"] >= _CARRIED for name in known}
    best = max(known, key=lambda name: (carried[name], known[name]), default=None)
    return best or next(iter(others), None)


def _worth(density: Density, scheme: Mapping[str, Any]) -> float | None:
    """What a scheme removes of the way to the target, without one its D at the chosen bandwidth."""
    if density.numbers["target"] is not None:
        return (scheme["discrepancy"] or {}).get("removed")
    chosen = (b for b in scheme["bandwidths"] if f"{b['t']:g}" == density.bandwidth)
    return next((b["effective_distinct"] for b in chosen), None)


def group_table(density: Density, column: str, weights: Mapping[str, np.ndarray]) -> Table:
    """A row a value, by falling number of samples: its share of the draws before, after, and in the target.

    Args:
        column: "label" or a group column.
        weights: the scheme of "after", -> (n,) weights; at most one, none without weights.
    """
    codes, names = encode_all(_column(density, column))
    texts = [value or "(none)" for value in names.to_pylist()]
    count, n = np.bincount(codes, minlength=len(texts)), len(codes)
    target = density.numbers["target"] or {}
    aimed = {row["value"] or "(none)": row for row in (target.get("columns") or {}).get(column, ())}
    size = target.get("size") and target["effective_size"]
    after = {scheme: _drawn(codes, w, len(texts)) for scheme, w in weights.items()}
    crowded = _means(codes, density.table.numbers("log_density"), len(texts))

    def wanted(value: str) -> list[Cell]:
        row = aimed.get(value, {"share_reference": 0.0, "balance": None})
        return [_share(row["share_reference"], size), Cell(row["balance"] or "")] if aimed else []

    rows = []
    for i in sorted(range(len(texts)), key=lambda i: (-count[i], texts[i])):
        row = [Cell(texts[i]), Cell(f"{count[i]:,}", True), _share(count[i] / n, n)]
        row += [_share(share[i], worth[i]) for share, worth in after.values()]
        rows.append([*row, *wanted(texts[i]), _density(crowded[i])])
    for value in (value for value in aimed if value not in texts):
        none = [Cell(percent(0.0), True) for _ in after]
        row = [Cell(value), Cell("0", True), _share(0.0, n), *none, *wanted(value)]
        rows.append([*row, Cell(NONE, True)])
    heads = _heads(column, after, bool(aimed), density.bandwidth)
    return Table(f"Who is drawn, by {column}", _caption(bool(after), bool(aimed), size), heads, rows)


def _column(density: Density, name: str) -> pa.Array:
    """The (n,) values of "label" or a group column."""
    return density.table.labels if name == "label" else density.table.table.column(name)


def _heads(column: str, after: Collection[str], aimed: bool, bandwidth: str) -> list[tuple[str, str]]:
    """Headings of `group_table`, each with what it means."""
    return [
        *((column, ""), ("samples", ""), ("before", "share of natural sampling's draws")),
        *((f"after: {scheme}", "share of the draws under these weights") for scheme in after),
        *([("target", "share of the target"), ("balance", _BALANCE)] if aimed else []),
        ("log density", f"mean log of the potential at t = {bandwidth}; higher = crowded"),
    ]


def _caption(after: bool, wanted: bool, size: float | None) -> str:
    """What the columns are, and what their intervals say."""
    parts = ["before = as the data come"]
    parts += ["after = in the draws under the weights"] * after
    parts += ["target = in what the student will be used on"] * wanted
    carry = " (after: as many as carry the draws)" if after else ""
    exact = " The target's shares are exact." if wanted and not size else ""
    text = f"{'; '.join(parts)}. In brackets 95 % intervals (Wilson) for so many samples{carry}.{exact}"
    return text[0].upper() + text[1:]


def _drawn(codes: np.ndarray, w: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the draws (V,), and of how many equal samples each would be as uncertain (V,)."""
    total, squares = w.sum(), float(w @ w)
    share = np.bincount(codes, weights=w, minlength=values) / total
    own = np.bincount(codes, weights=w**2, minlength=values)
    error = (own * (1 - share) ** 2 + (squares - own) * share**2) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        worth = np.where(error > 0, share * (1 - share) / error, total**2 / squares)
    return share, worth


def _share(share: float, size: float | None) -> Cell:
    """A share with its interval, of a sample of this size; without one, exactly known."""
    if not size:
        return Cell(percent(share), True)
    low, high = wilson(share, size)
    return Cell(f"{percent(share)} [{100 * low:.1f}, {100 * high:.1f}]", True)


def _density(value: float) -> Cell:
    """A mean log density; none where it is not finite."""
    return Cell(write("log_density", value if np.isfinite(value) else None), True)


def wilson(share: float, size: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, 0 to 1, seen in ``size`` samples (a whole number or not)."""
    z = _Z**2 / size
    middle = (share + z / 2) / (1 + z)
    half = np.sqrt(z * (share * (1 - share) + z / 4)) / (1 + z)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _means(codes: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """(V,) mean of the known values of each code; NaN where there are none."""
    known = np.isfinite(values)
    sums = np.bincount(codes[known], weights=values[known], minlength=count)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(codes[known], minlength=count)
