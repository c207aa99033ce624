"""The map to explore: where some samples lie, what they are, and every number that may colour them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.display.figure import LIGHT
from kdbias.display.quantities import percent
from kdbias.reporting.group_tables import telling_columns
from kdbias.reporting.outputs import NATURAL, Density
from kdbias.reporting.projection import Places, placed
from kdbias.reporting.sheets import Sheets
from kdbias.reporting.thumbnails import coded
from kdbias.tables.columns import SUSPECT
from kdbias.tables.joins import encode_all
from kdbias.wording import counted, cut, visible

# Isolated to crowded: the more crowded, the more it stands out from the page. Drawn less to drawn more, short
# to over-full: pairs of hues that the colour-blind tell apart too. No strong colour means two things.
SCALES = {
    "density": {
        "light": ("#b5dcb0", "#62b6bd", "#2b7fb8", "#253a94", "#10104a"),
        "dark": ("#2c4468", "#2b7fb8", "#41b6c4", "#a5dcb8", "#f8fcd0"),
    },
    "weight": {
        "light": ("#1f5fc4", "#7ba5dd", "#a8a8a4", "#e79a4d", "#c2410c"),
        "dark": ("#5a9cf5", "#4a6fa5", "#6a6a68", "#b8722e", "#ff9340"),
    },
    "witness": {
        "light": ("#137a4b", "#7dbb98", "#a8a8a4", "#b79ad6", "#6b2fb0"),
        "dark": ("#35c583", "#3c8260", "#6a6a68", "#8664b0", "#c79bff"),
    },
}
_WIDEST = 16.0  # weights beyond this factor share the end colours
_GRID = 65_535
_LETTERS = 1_500_000  # of ids and labels at most on a page; long ones leave fewer dots
_ODD = SUSPECT[:2]  # columns that say what of a few samples is odd
_LONGEST = 120  # letters of a group's value


@dataclass(frozen=True)
class Explorer:
    """A map for the page.

    Attributes:
        id: of its section, unique within the page.
        title, caption: what it shows, and what it cannot show.
        document: what its script reads, JSON values.
    """

    id: str
    title: str
    caption: str
    document: dict[str, Any]


def shown_rows(density: Density, most: int) -> np.ndarray:
    """(m,) ascending rows of the samples on the map: all, or ``most`` drawn at random; fewer of long ids."""
    n, table = density.table.n, density.table.table
    odd = [pc.unique(table[name]) for name in _ODD if name in table.column_names]
    letters = sum(int(a.nbytes) for a in (density.table.ids, density.table.labels, *odd)) / n
    most = min(most, max(1, int(_LETTERS / letters)))
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def explorer(
    name: str,
    density: Density,
    rows: np.ndarray,
    x: np.ndarray,
    weights: Mapping[str, np.ndarray],
    projection: str,
    sheets: Sheets | None,
) -> Explorer:
    """The map of some samples.

    Args:
        name: unique within the page.
        rows: (m,) of the density table.
        x: (m, d) their unit vectors, d at least 2.
        weights: scheme -> (n,) weights of all samples, mean 1.
        projection: "auto", "pca" or "tsne".
        sheets: pictures of some of them; None for none.
    """
    places = placed(x, projection)
    ids = [visible(value) for value in density.table.ids.take(pa.array(rows)).to_pylist()]
    prefix = _common(ids)
    document = {
        "prefix": prefix,
        "ids": [value[len(prefix) :] for value in ids],
        **_coordinates(places.xy),
        "fields": [_field(rows, *field) for field in _fields(density, weights)],
        "columns": _columns(density, rows),
        "pictures": None if sheets is None else sheets.document,
        "scales": SCALES,
        "hues": len(LIGHT) - 1,
        "light": {"--ink": "#000000", "--faint": "#a9a59d", **{f"--s{i}": c for i, c in enumerate(LIGHT)}},
    }
    return Explorer(name, "Map of the samples", _caption(density, rows, places, sheets), document)


def _common(texts: Sequence[str]) -> str:
    """What all of several texts begin with; nothing of one alone."""
    first, last = min(texts), max(texts)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same] if len(texts) > 1 else ""


def _caption(density: Density, rows: np.ndarray, places: Places, sheets: Sheets | None) -> str:
    """How many samples it shows, how they are placed, which have pictures."""
    n = density.table.n
    if len(rows) < n:
        shown = f"{len(rows):,} of {n:,} samples, drawn at random ({percent(len(rows) / n)})."
    else:
        shown = f"All {counted(n, 'sample')}."
    parts = [shown, places.caption()]
    if density.table.witness is not None:
        parts.append(
            "Witness: by how much the data are denser where a sample lies than the target; above 0 they are "
            "over-full of its like, below 0 short of it."
        )
    if sheets is not None and sheets.count < len(rows):
        parts.append(f"{counted(sheets.count, 'sample')} drawn at random {_have(sheets.count)} a picture.")
    return " ".join(parts)


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _coordinates(xy: np.ndarray) -> dict[str, str]:
    """Places as whole numbers from 0 to 65,535, the same scale on both axes, the picture in the middle."""
    low, high = xy.min(0), xy.max(0)
    size = float((high - low).max()) or 1.0
    inside = (xy - (low + high) / 2) / size + 0.5
    return {axis: coded(np.rint(inside[:, i] * _GRID), "<u2") for i, axis in enumerate("xy")}


def _fields(density: Density, weights: Mapping[str, np.ndarray]) -> list[tuple[str, str, np.ndarray]]:
    """(kind, name, (n,) values) of what may colour the map."""
    found = [("density", "log density", density.table.numbers("log_density"))]
    if density.table.witness is not None:
        found.append(("witness", "witness", density.table.witness))
    varied = [(s, w) for s, w in weights.items() if s != NATURAL and w.max() > w.min()]
    return found + [("weight", visible(scheme), w) for scheme, w in varied]


def _field(rows: np.ndarray, kind: str, name: str, values: np.ndarray) -> dict[str, Any]:
    """One number of every sample on the map, between which ends its colours run, and what those ends mean."""
    own = values[rows].astype(np.float64)
    low, high = ends(kind, own)
    if kind == "density":
        label, least, most = "density", f"isolated ({low:.2f})", f"crowded ({high:.2f})"
    elif kind == "witness":
        label, least, most = "witness (against the target)", "short", "over-full"
    else:
        label = f"weight: {name}"
        least, most = f"drawn less (÷{2**-low:.3g})", f"drawn more (×{2**high:.3g})"
    about = {"kind": kind, "name": name, "label": label, "least": least, "most": most}
    return {**about, "low": low, "high": high, "values": coded(own, "<f4")}


def ends(kind: str, values: np.ndarray) -> tuple[float, float]:
    """Between which values the colours run: log density, witness (0 in the middle), or log2 of the weight.

    All but the furthest hundredth at each end are told apart.
    """
    known = values[np.isfinite(values)]
    if kind == "weight":
        positive = known[known > 0]
        most = np.abs(np.log2(np.quantile(positive, [0.01, 0.99]))).max() if len(positive) else 0.0
        span = float(np.clip(most, 0.1, np.log2(_WIDEST)))
        return -span, span
    if not len(known):
        return 0.0, 1.0
    if kind == "witness":
        most = float(np.quantile(np.abs(known), 0.99)) or 1.0
        return -most, most
    low, high = map(float, np.quantile(known, [0.01, 0.99]))
    return (low, high) if high > low else (low, low + 1.0)


def _columns(density: Density, rows: np.ndarray) -> Sequence[dict[str, Any]]:
    """Label, groups and what is suspect of the samples on the map; those that name groups may colour it."""
    table, telling = density.table, telling_columns(density)
    found = []
    for name in ["label", *table.group_columns, *_ODD]:
        if name in _ODD and name not in table.table.column_names:
            continue
        if name not in ("label", *_ODD) and name not in telling:
            continue
        values = table.labels if name == "label" else table.table.column(name)
        codes, names = encode_all(values.take(pa.array(rows)))
        if len(names) > _GRID or names.null_count == len(names):
            continue
        texts = [None if v is None else visible(cut(v, _LONGEST)) for v in names.to_pylist()]
        about: dict[str, Any] = {"name": visible(name.replace("_", " ") if name in _ODD else name)}
        about |= {"colours": name in (*telling, SUSPECT[0]), "quiet": name in _ODD}  # quiet: told where it is
        found.append({**about, "values": texts, "codes": coded(codes, "<u2")})
    return found
