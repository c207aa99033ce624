"""Columns in which data and reference differ, though weights by the teacher's space leave them so."""

from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.display.quantities import percent
from kdbias.tables.joins import as_strings, shown

_LEVEL = 1e-3  # of a column, whatever its number of values: a difference beyond it is no accident
_HARDLY = 0.2  # of the way to the reference's shares

Shares = dict[str | None, float]


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
            found += _of_column(name, as_strings(values), weights, wanted, target)
    return found


def _of_column(
    name: str, values: pa.Array, weights: np.ndarray, wanted: Shares, target: Mapping[str, Any]
) -> list[str]:
    encoded = pc.dictionary_encode(values, null_encoding="encode")
    codes, texts = encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()
    n, size = len(codes), target["effective_size"]
    before = dict(zip(texts, np.bincount(codes) / n, strict=True))
    after = dict(zip(texts, np.bincount(codes, weights=weights) / weights.sum(), strict=True))
    if not any(text is not None and wanted.get(text) for text in texts):
        return []  # names of samples or of persons, not of groups
    every = list({**before, **wanted})
    lines = []
    absent = [text for text in every if text not in before and text is not None and wanted[text] > 0]
    if absent:
        share = percent(sum(wanted[text] for text in absent))
        lines.append(
            f"{name} {shown(pa.array(absent))} ({share} of the reference) does not occur in the data: no "
            "weights can bring it in"
        )
    limit = NormalDist().inv_cdf(1 - _LEVEL / 2 / len(every))

    def off(text: str | None) -> bool:
        """Whether two samples of one law would hardly differ so."""
        a, b = before.get(text, 0.0), wanted.get(text, 0.0)
        pooled = (a * n + b * size) / (n + size)
        return abs(a - b) > limit * np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / size))

    beyond = [text for text in texts if off(text)]
    if not beyond or name == target["with"]:
        return lines
    start, end = (sum(abs(s.get(v, 0.0) - wanted.get(v, 0.0)) for v in every) for s in (before, after))
    if target["bound"] != "natural" and end < (1 - _HARDLY) * start:
        return lines
    worst = max(beyond, key=lambda text: abs(before[text] - wanted.get(text, 0.0)))
    shares = [percent(s.get(worst, 0.0)) for s in (before, after, wanted)]
    why = "do not differ measurably" if target["bound"] == "natural" else "hardly differ by it"
    lines.append(
        f"{name} {worst or '(none)'} has {shares[0]} of the samples, {shares[1]} of the draws and "
        f"{shares[2]} of the reference: in the teacher's space they {why}; --with {name} matches it together "
        "with the embedding"
    )
    return lines
