"""What a manifest changes: who is drawn more, who less, and what that does to groups."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.distribution import hardness_quarters
from kdbias.measurement.files import SCHEMES
from kdbias.tables.csv_file import csv_columns, for_people
from kdbias.tables.density_table import DENSITY, read_density
from kdbias.tables.files import atomic_path
from kdbias.tables.joins import align, as_strings, encode_all
from kdbias.tables.listing import located
from kdbias.tables.mirrors import local_path
from kdbias.tables.parquet_file import floats
from kdbias.tables.parted_table import read_columns, read_ids
from kdbias.tables.places import candidates
from kdbias.tables.provenance import inputs_in
from kdbias.tables.run_files import claim
from kdbias.tables.telling import left_out, no_groups
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.targets.shares import comparable
from kdbias.weighting.blind_spots import blind_spots, reference_shares
from kdbias.weighting.settings import ChangesSettings
from kdbias.wording import nearest, visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Changes(Result):
    """Flat tables about one manifest, before (natural sampling) and after.

    Attributes:
        manifest: the manifest's path.
        groups: a row for each value of each group column and of the label, by falling number of samples, then
            by value (null last): column, value, samples, share_before and share_after (of the draws),
            share_reference (of the reference that the manifest was matched to, null where that is unknown),
            weight (after / before), ess_after (of the group's own samples), log_density_before (mean over
            samples) and log_density_after (mean over draws).
        hardness: a row for each quarter of the samples by hardness (1 - cosine to the label's other samples):
            quarter, from_hardness, to_hardness, samples, share_before, share_after; no rows without labels.
        samples: the most and the least drawn, no sample in both: change ("most" | "least"), sample_id, label,
            weight and log_density. Of equal weights the most isolated count as drawn more, the most crowded
            as drawn less, then the first by id.
        notes: a line for each column in which data and reference differ though the weights leave it so.
    """

    manifest: Path
    groups: pa.Table
    hardness: pa.Table
    samples: pa.Table
    notes: tuple[str, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """The tables as JSON values."""
        tables = {name: table.to_pylist() for name, table in self._tables().items()}
        return tables | {"manifest": str(self.manifest), "notes": list(self.notes)}

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write groups.csv, hardness.csv and samples.csv into ``folder``.

        Raises:
            KdbiasError: a file lies there, or in the folder one of these names that is not such a table.
        """
        from pyarrow import csv

        folder = local_path(folder)
        if folder.exists() and not folder.is_dir():
            names = ", ".join(f"{name}.csv" for name in self._tables())
            raise KdbiasError(f"{folder} is a file; -o names a folder for {names}: choose another -o")
        written = []
        for name, table in self._tables().items():
            path = claim(folder / f"{name}.csv")
            earlier = [column for column in table.column_names if column != _REFERENCE]
            if path.exists() and csv_columns(path) not in (table.column_names, earlier):
                raise KdbiasError(f"{path} exists and is not by kdbias changes; choose another -o")
            written.append(path)
        for path, table in zip(written, self._tables().values(), strict=True):
            with atomic_path(path) as temporary:
                csv.write_csv(for_people(table), temporary)
        return written

    _between = "\n\n"

    def blocks(self) -> list[str | Table]:
        """The tables: one a column, its rarest values cut, then hardness and samples."""
        parts: list[str | Table] = [visible(f"{self.manifest}: what it changes")]
        reasons = dict[str, str]()
        for column in pc.unique(self.groups.column("column")).to_pylist():
            rows = self.groups.filter(pc.equal(self.groups.column("column"), column)).drop_columns("column")
            sizes = rows.column("samples").to_pylist()
            why = no_groups(sizes, sum(sizes))
            if why is None:
                parts.append(_shown(rows, value=column).cut("-o DIR writes them all"))
            else:
                reasons[column] = why
        parts += filter(None, [left_out(reasons)])
        others = (self.hardness, self.samples)
        notes = ["\n".join(map(visible, self.notes))] if self.notes else []
        return [*parts, *(_shown(table) for table in others if table.num_rows), *notes]

    def to_pandas(self) -> "pd.DataFrame":
        """The groups, as `groups` has them."""
        return self.groups.to_pandas()

    def plot(self) -> "Figure":
        """Shares of the draws before and after, of the largest values of each column that has several.

        Raises:
            KdbiasError: there is none.
        """
        from kdbias.display import plots

        kinds = {"share_before": "before", "share_after": "after", "share_reference": "target"}
        columns = dict[str, list[dict[str, Any]]]()
        for row in self.groups.to_pylist():
            columns.setdefault(row["column"], []).append(row)
        columns = {name: rows for name, rows in columns.items() if len(rows) > 1}
        if not columns:
            raise KdbiasError(f"{self.manifest} has neither labels nor columns of several values")
        draws = []
        for column, rows in columns.items():
            known = [key for key in kinds if any(row[key] is not None for row in rows)]
            named = [
                (row["value"] or "(none)", {kinds[k]: plots.percent(row[k]) for k in known}, None)
                for row in rows
            ]
            draws.append(plots.dots(named, "share of the draws (%)", column))
        return plots.figure(*draws, height=plots.height_of(max(map(len, columns.values()))), legend=3)

    def _tables(self) -> dict[str, pa.Table]:
        return {"groups": self.groups, "hardness": self.hardness, "samples": self.samples}


@takes_settings(ChangesSettings)
def what_changed(
    manifest: str | os.PathLike[str],
    density: str | os.PathLike[str] | None = None,
    *,
    settings: ChangesSettings,
) -> Changes:
    """Compare a weight manifest with natural sampling.

    Args:
        manifest: the weight manifest.
        density: the folder that ``uniformity`` wrote, for the hardness; by default the manifest names it.

    Raises:
        KdbiasError: no such manifest or column.
    """
    stored = read_manifest(manifest)
    known = stored.group_columns + (["label"] if "label" in stored.table.column_names else [])
    columns = known if settings.group_by is None else settings.group_by
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise KdbiasError(
            f"{stored.path} has no column {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
            + nearest(unknown[0], known)
        )
    log_density, target = _log_density(stored), stored.provenance.get("target")
    return Changes(
        manifest=stored.path,
        groups=pa.concat_tables(
            [_GROUPS.empty_table(), *(_by_value(stored, name, log_density, target) for name in columns)]
        ),
        hardness=_by_hardness(stored, _hardness(stored, density)),
        samples=_extremes(stored, log_density, settings.top),
        notes=tuple(blind_spots(target, [(c, stored.table.column(c)) for c in columns], stored.weights)),
    )


def _numbers(*names: str) -> list[tuple[str, pa.DataType]]:
    """Float64 columns of these names."""
    return [(name, pa.float64()) for name in names]


_REFERENCE = "share_reference"
_GROUPS = pa.schema(
    [
        *(("column", pa.string()), ("value", pa.large_string()), ("samples", pa.int64())),
        *_numbers("share_before", "share_after", _REFERENCE, "weight"),
        *_numbers("ess_after", "log_density_before", "log_density_after"),
    ]
)
_HARDNESS = pa.schema(
    [
        *(("quarter", pa.string()), *_numbers("from_hardness", "to_hardness")),
        *(("samples", pa.int64()), *_numbers("share_before", "share_after")),
    ]
)


def _by_value(
    stored: WeightManifest, column: str, log_density: np.ndarray, target: dict[str, Any] | None
) -> pa.Table:
    """Rows of `Changes.groups` for one column; a row of its own for nulls, if the column has others."""
    codes, names = encode_all(stored.table.column(column))
    w, n = stored.weights, stored.n
    if len(names) == 1 and not names[0].is_valid:
        return _GROUPS.empty_table()
    size = np.bincount(codes, minlength=len(names))
    mass = np.bincount(codes, weights=w, minlength=len(names))
    squares = np.bincount(codes, weights=w**2, minlength=len(names))
    before = np.bincount(codes, weights=log_density, minlength=len(names)) / size
    drawn = np.bincount(codes, weights=w * log_density, minlength=len(names))
    with np.errstate(divide="ignore", invalid="ignore"):
        ess = np.where(squares > 0, mass**2 / squares, 0.0)
        after = drawn / mass
    by_name = pc.sort_indices(names).to_numpy()
    order = by_name[np.argsort(-size[by_name], kind="stable")]
    wanted, texts = reference_shares(target, column), names.take(pa.array(order))
    if not comparable(dict.fromkeys(names.to_pylist(), 1.0), wanted):
        wanted = None  # another set of names altogether, as of splits
    columns = {
        "column": pa.array([column] * len(order), pa.string()),
        "value": texts.cast(pa.large_string()),
        "samples": size[order],
        "share_before": size[order] / n,
        "share_after": mass[order] / n,
        _REFERENCE: [None if wanted is None else wanted.get(text, 0.0) for text in texts.to_pylist()],
        "weight": mass[order] / size[order],
        "ess_after": ess[order],
        "log_density_before": floats(before[order]),
        "log_density_after": floats(after[order]),
    }
    return pa.table(columns, schema=_GROUPS)


def _by_hardness(stored: WeightManifest, hardness: np.ndarray) -> pa.Table:
    """Samples of each quarter of hardness (n,), and their share before and after."""
    quarters = hardness_quarters(hardness)
    known = sum(map(len, quarters))
    masses = [float(stored.weights[quarter].sum()) for quarter in quarters]
    rows = [
        {
            "quarter": name,
            "from_hardness": float(hardness[quarter[0]]),
            "to_hardness": float(hardness[quarter[-1]]),
            "samples": len(quarter),
            "share_before": len(quarter) / known,
            "share_after": mass / sum(masses) if sum(masses) > 0 else None,
        }
        for name, quarter, mass in zip(("easiest", "2", "3", "hardest"), quarters, masses, strict=False)
    ]
    return pa.Table.from_pylist(rows, schema=_HARDNESS)


def _extremes(stored: WeightManifest, log_density: np.ndarray, top: int) -> pa.Table:
    """The most and the least drawn samples, ``top`` of each or half of all."""
    table = pa.table(
        {
            "sample_id": as_strings(stored.ids),
            "label": stored.labels,
            "weight": stored.weights,
            "log_density": floats(log_density),
        }
    )
    parts = []
    for change, order, crowded, count in (
        ("most", "descending", "ascending", (stored.n + 1) // 2),
        ("least", "ascending", "descending", stored.n // 2),
    ):
        keys = [("weight", order), ("log_density", crowded), ("sample_id", "ascending")]
        rows = table.take(pc.select_k_unstable(table, min(top, count), keys))
        parts.append(rows.add_column(0, "change", pa.array([change] * rows.num_rows)))
    return pa.concat_tables(parts)


def _log_density(stored: WeightManifest) -> np.ndarray:
    """(n,) natural log density, NaN where a hand-made manifest has none."""
    if "log_density" not in stored.table.column_names:
        return np.full(stored.n, np.nan)
    return stored.numbers("log_density")


def _hardness(stored: WeightManifest, density: str | os.PathLike[str] | None) -> np.ndarray:
    """(n,) hardness as ``uniformity`` measured it, NaN where its folder is not at hand."""
    folder = density if density is not None else _density_of(stored)
    if folder is None:
        return np.full(stored.n, np.nan)
    folder = local_path(folder)
    file = located((folder if folder.is_dir() else folder.parent) / SCHEMES)
    if not file.exists():
        if density is not None:
            raise KdbiasError(f"{density} holds no {SCHEMES}; make it with kdbias uniformity")
        return np.full(stored.n, np.nan)
    measured = read_columns(file, ["hardness"]).column(0).to_numpy().astype(np.float64)
    return measured[align(stored.id_parts, read_ids(file), str(stored.path), str(file))]


def _density_of(stored: WeightManifest) -> str | os.PathLike[str] | None:
    """The folder that weights were made from, also where the two were moved; None where it is not known."""
    recorded, known = stored.provenance.get("density"), inputs_in(stored.provenance).get("density")
    if recorded is None or local_path(recorded).exists():
        return recorded
    places = (
        place for place in candidates(recorded, stored.path, known=True) if located(place / DENSITY).exists()
    )
    return next((place for place in places if read_density(place).fingerprint == known), None)


def _shown(table: pa.Table, **headings: str) -> Table:
    """A table for people; what has no value or label is said to have none."""
    texts = [name for name in ("value", "label") if name in table.column_names]
    rows = [row | {name: row[name] or "(none)" for name in texts} for row in table.to_pylist()]
    unknown = [_REFERENCE] if all(row.get(_REFERENCE) is None for row in rows) else []
    shown = [name for name in table.column_names if name not in unknown]
    return Table.of(rows, shown, headings=headings)
