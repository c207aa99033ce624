"""Which values of a column the data have too few or too many of, and whether the embedding shows it."""

from typing import Any

import numpy as np

from kdbias.sphere.equilibrium.kernel_matrix import LADDER, kernel_tile
from kdbias.sphere.equilibrium.target import Target
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import encode_all
from kdbias.targets.opening import OpenTarget
from kdbias.targets.shares import comparable, share_rows

_SAMPLES = 2000


def compare_columns(
    table: EmbeddingTable,
    x: np.ndarray,
    opened: OpenTarget,
    target: Target,
    seed: int,
) -> dict[str, Any]:
    """``columns`` and ``blind`` of ``target`` in ``uniformity.json``.

    Columns of a reference are those that it shares with the data (label and groups, with a value in common);
    of a ``balanced`` target, its own and that of ``--with``. A value is ``short`` or
    ``over-full`` where chance does not explain its share (`share_rows`). A column is blind where a value is,
    and yet data re-weighted to the target's shares of it would move by less than the reference's noise:
    whoever matches in this embedding leaves such a column as it is.

    Args:
        x: (n, d) float32 unit rows of the table.
        seed: of the samples that blindness is judged on.
    """
    columns, blind = {}, []
    for name in _names(table, opened):
        codes, names = encode_all(table.column(name))
        texts = names.to_pylist()
        known = dict(zip(texts, (np.bincount(codes) / len(codes)).tolist(), strict=True))
        wanted = opened.shares(name)
        if opened.table is None:
            wanted = dict(zip(texts, np.bincount(codes, weights=opened.masses).tolist(), strict=True))
        if wanted is None or not comparable(known, wanted):
            continue
        columns[name] = rows = share_rows(known, len(codes), wanted, target.size if opened.size else None)
        if any(row["balance"] for row in rows) and name != opened.column:
            shares = np.array([wanted.get(text, 0.0) for text in texts])
            if moved(x, codes, shares, seed) < target.noise:
                blind.append(name)
    return {"columns": columns, "blind": blind}


def _names(table: EmbeddingTable, opened: OpenTarget) -> list[str]:
    if opened.table is not None:
        return ["label", *table.group_columns]
    if opened.masses is None:
        return []
    return list(dict.fromkeys(filter(None, [opened.named.what, opened.column])))


def moved(x: np.ndarray, codes: np.ndarray, shares: np.ndarray, seed: int = 0) -> float:
    """Squared discrepancy between data as they come and re-weighted to other shares of a column's values.

    Estimated without bias, through the mean kernel over `LADDER`, on some 2,000 samples, the same number a
    value; values of a single sample are left out.

    Args:
        x: (n, d) float32 unit rows.
        codes: (n,) the value of each, 0 ... V - 1.
        shares: (V,) >= 0, the other shares.
    """
    count = np.bincount(codes, minlength=len(shares))
    kept = np.flatnonzero(count > 1)
    wanted = shares[kept]
    if len(kept) < 2 or wanted.sum() <= 0:
        return 0.0
    rng = np.random.default_rng(seed)
    most = max(2, _SAMPLES // len(kept))
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(count)
    drawn = [
        rng.choice(order[ends[value] - count[value] : ends[value]], min(count[value], most), replace=False)
        for value in kept
    ]
    sizes = np.array([len(rows) for rows in drawn])
    some = x[np.concatenate(drawn)]
    kernel = kernel_tile(some, some, LADDER)
    np.fill_diagonal(kernel, 0)
    starts = np.cumsum(sizes) - sizes
    sums = np.add.reduceat(np.add.reduceat(kernel, starts, axis=0, dtype=np.float64), starts, axis=1)
    means = sums / (np.outer(sizes, sizes) - np.diag(sizes))
    shift = wanted / wanted.sum() - count[kept] / count[kept].sum()
    return float(shift @ means @ shift)
