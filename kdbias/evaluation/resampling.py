"""The results of units, resampled: intervals of metrics, and of their differences between models.

``units.parquet`` holds the result of every unit, as ``evaluate`` writes it and ``compare`` reads it. Its
columns are what names a unit (``sample_id``; of a pair ``first`` and ``second``), ``result_*`` (what the
protocol's ``score`` reads), ``group_*`` (grouping columns) and ``cluster_*`` (codes of what is resampled
together).
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.progress import bar
from kdbias.tables.joins import as_strings, encode, shown
from kdbias.tables.parquet_file import read_table

Columns = Mapping[str, np.ndarray]
Score = Callable[[Columns, np.ndarray], dict[str, float]]
Part = tuple[Columns, np.ndarray | slice]  # results of some units, and their rows

LEVEL = 0.95
ALL = slice(None)  # units, as a subset
UNITS = "units.parquet"

_IDS = ("sample_id", "first", "second")
_RESULT, _GROUP, _CLUSTER = "result_", "group_", "cluster_"
_MOST_GROUPS = 256


@dataclass(frozen=True)
class Units:
    """What was judged one by one, n units.

    Attributes:
        ids: what names a unit, (n,) texts: ``sample_id``, or ``first`` and ``second`` of a pair.
        columns: results that the protocol's ``score`` reads, (n,) each.
        groups: (n,) texts of each grouping column.
        clusters: integer codes of what is resampled together, (n,) or (n, 2); None = each unit alone.
    """

    ids: Mapping[str, pa.Array]
    columns: Columns
    groups: Mapping[str, pa.Array]
    clusters: np.ndarray | None

    @property
    def n(self) -> int:
        """How many units are judged."""
        return len(next(iter(self.columns.values())))

    def table(self) -> pa.Table:
        """As ``units.parquet``."""
        codes = () if self.clusters is None else np.atleast_2d(self.clusters.T)
        return pa.table(
            {
                **self.ids,
                **{_RESULT + name: pa.array(values) for name, values in self.columns.items()},
                **{_GROUP + name: values for name, values in self.groups.items()},
                **{f"{_CLUSTER}{i}": pa.array(column) for i, column in enumerate(codes)},
            }
        )

    @classmethod
    def read(cls, folder: Path) -> Units:
        """What `table` wrote into an output folder of ``evaluate``."""
        table = read_table(folder / UNITS)

        def named(prefix: str) -> dict[str, pa.ChunkedArray]:
            return {n.removeprefix(prefix): table[n] for n in table.column_names if n.startswith(prefix)}

        codes = [values.to_numpy() for values in named(_CLUSTER).values()]
        return cls(
            {name: as_strings(table[name]) for name in table.column_names if name in _IDS},
            {name: values.to_numpy() for name, values in named(_RESULT).items()},
            {name: as_strings(values) for name, values in named(_GROUP).items()},
            None if not codes else codes[0] if len(codes) == 1 else np.stack(codes, axis=1),
        )

    def subsets(self) -> dict[tuple[str, str], np.ndarray]:
        """(column, value) of each group -> the rows of its units, ascending.

        Raises:
            KdbiasError: a column has too many values to report by.
        """
        found = {}
        for column, values in self.groups.items():
            codes, names = encode(values)
            if len(names) > _MOST_GROUPS:
                raise KdbiasError(
                    f"{column!r} has {len(names):,} values; group by a column with at most {_MOST_GROUPS}"
                )
            for code, value in enumerate(names.to_pylist()):
                found[column, value] = np.flatnonzero(codes == code)
        return found

    def places_of(self, other: Units, name: object, other_name: object) -> np.ndarray:
        """(n,) row in these of each of the other's units, by id.

        Raises:
            KdbiasError: they are not the same units, or one is listed twice.
        """
        keys = np.zeros(self.n + other.n, dtype=np.int64)
        for column, ids in self.ids.items():
            codes = pa.concat_arrays([ids, other.ids[column]]).dictionary_encode().indices
            codes = codes.to_numpy(zero_copy_only=False).astype(np.int64)
            keys = keys * (int(codes.max()) + 1) + codes
        wanted, have = keys[: self.n], keys[self.n :]
        if np.array_equal(wanted, have):
            return np.arange(self.n)
        missing = np.flatnonzero(~np.isin(wanted, have))
        if len(missing) or len(wanted) != len(have):
            absent = next(iter(self.ids.values())).take(pa.array(missing[:4]))
            raise KdbiasError(
                f"{name} judged {len(wanted):,} units, {other_name} {len(have):,}; {len(missing):,} of the "
                f"former are not among the latter ({shown(absent)}); judge both on the same test data"
            )
        order = np.argsort(wanted, kind="stable")
        places = order[np.searchsorted(wanted[order], have)]
        if len(np.unique(places)) != len(places):
            raise KdbiasError(f"{name} lists a unit twice, so the rows of {other_name} cannot be told apart")
        return places


@dataclass(frozen=True)
class Estimate:
    """A metric with its percentile interval; None where it is undefined or was not resampled."""

    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None

    def document(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        return dataclasses.asdict(self)


def resampled_weights(
    n: int, repeats: int, seed: int, clusters: np.ndarray | None = None, what: str = "intervals"
) -> Iterator[np.ndarray]:
    """How often each of n units occurs in each of ``repeats`` resamples with replacement.

    Args:
        n: number of units.
        repeats: number of resamples.
        seed: of the random generator.
        clusters: what is resampled. None: the units themselves. (n,) integer codes: whole clusters, so that
            units of one subject stay together. (n, 2) codes: both subjects of a pair are resampled; a pair
            of one subject counts as often as that subject was drawn, a pair of two subjects as often as the
            product of both counts (the vertex bootstrap of a graph, with pairs as edges).
        what: they are for, told while they are drawn.

    Yields:
        (n,) float64 weights, drawn one resample after the other.
    """
    rng = np.random.default_rng(seed)
    between = None
    if clusters is not None and clusters.ndim == 2:
        between = clusters[:, 0] != clusters[:, 1]
    total = n if clusters is None else int(clusters.max(initial=-1)) + 1
    with bar(repeats, "resamples", what) as progress:
        for _ in range(repeats):
            counts = np.bincount(rng.integers(total, size=total), minlength=total).astype(np.float64)
            if clusters is None:
                yield counts
            elif between is None:
                yield counts[clusters]
            else:
                weights = counts[clusters[:, 0]]
                np.multiply(weights, counts[clusters[:, 1]], out=weights, where=between)
                yield weights
            progress.update(1)


def resample(
    score: Score, runs: Sequence[Sequence[Part]], n: int, resamples: Iterable[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Score parts of n units, as they are and in every resample, for one run or several on the same units.

    Args:
        score: metrics of weighted units; NaN where a metric is undefined for them.
        runs: of each run the same parts: results, and their rows among the n units.
        resamples: weights of all n units, see `resampled_weights`.

    Returns:
        For each part metric -> (1 + repeats, runs) float64; the first row is of the units as they are.
    """
    kept: list[dict[str, array[float]]] = [{} for _ in runs[0]]
    for weights in chain([np.ones(n)], resamples):
        for run in runs:
            for into, (columns, rows) in zip(kept, run, strict=True):
                for name, value in score(columns, weights[rows]).items():
                    into.setdefault(name, array("d")).append(value)
    return [{name: np.array(v).reshape(-1, len(runs)) for name, v in found.items()} for found in kept]


def bootstrap(
    score: Score, columns: Columns, subsets: Sequence[np.ndarray | slice], resamples: Iterable[np.ndarray]
) -> list[dict[str, Estimate]]:
    """Score subsets of the units, each with a percentile interval from the same resamples.

    Args:
        score: metrics of weighted units; NaN where a metric is undefined for them.
        columns: per-unit results, arrays of length n.
        subsets: for each result wanted, the rows it uses.
        resamples: weights of all n units, see `resampled_weights`.

    Returns:
        One dictionary metric -> Estimate for each subset.
    """
    run = [(take(columns, rows), rows) for rows in subsets]
    return [
        {name: summarize(values[0, 0], values[1:, 0]) for name, values in found.items()}
        for found in resample(score, [run], len(next(iter(columns.values()), ())), resamples)
    ]


def summarize(value: float, draws: np.ndarray) -> Estimate:
    """The estimate from its value on the data and on resamples; NaN draws (metric undefined) are left out.

    Where more than half of the draws are NaN no interval is given.
    """
    if not np.isfinite(value):
        return Estimate(None)
    usable = draws[np.isfinite(draws)]
    if len(usable) < 2 or 2 * len(usable) < len(draws):
        return Estimate(float(value))
    low, high = np.quantile(usable, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high), float(usable.std(ddof=1)))


def difference(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> tuple[Estimate, float | None]:
    """How much the second side's mean over its runs exceeds the first's.

    With one run a side the interval is the percentile one of the resamples: it covers the choice of test
    units alone. A few runs of other training seeds cannot be resampled like units (of three, 95 % intervals
    would hold the truth in 82 to 92 %). With several the interval is value +- t sqrt(V), where V is the
    variance over resamples plus s^2 / r of each side, s^2 the variance between its r runs, and t the quantile
    at the degrees of freedom of Welch and Satterthwaite. Noise of single runs on single units is in both
    parts, so the interval errs to the wide side. A side of one run adds nothing to V.

    Args:
        a, b: (r,) metric of each run of a side over all units.
        draws: (repeats,) difference of the means of the same runs on each resample of the units.

    Returns:
        The estimate, and the two-sided p-value; None where there is no interval.
    """
    value = float(b.mean() - a.mean())
    found = summarize(value, draws)
    if found.standard_error is None:
        return found, None
    runs = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (a, b) if len(side) > 1]
    if not runs:
        usable = draws[np.isfinite(draws)]
        tail = min((usable <= 0).sum(), (usable >= 0).sum())
        return found, float(min(1.0, 2 * (tail + 1) / (len(usable) + 1)))
    from scipy.stats import t

    variance = found.standard_error**2 + sum(part for part, _ in runs)
    uncertain = sum(part**2 / freedom for part, freedom in runs)
    freedom = variance**2 / uncertain if uncertain > 0 else math.inf
    error = math.sqrt(variance)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(value) / error, freedom)) if error > 0 else float(value == 0)
    return Estimate(value, value - half, value + half, error), p_value


def take(columns: Columns, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
    """The rows of every column."""
    return {name: values[rows] for name, values in columns.items()}


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Mean under weights; NaN where all weights are zero."""
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else float("nan")
