"""The weight manifest: how often each sample is drawn, in a file people open in pandas."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.tables.columns import MANIFEST, plain_type, refuse_own
from kdbias.tables.csv_file import DELIMITERS, read_csv
from kdbias.tables.density_table import DENSITY, SampleTable, read_samples
from kdbias.tables.joins import ColumnParts, Ids, require_unique, shown
from kdbias.tables.listing import cut_of, located, part_names
from kdbias.tables.mirrors import local_path
from kdbias.tables.parted_table import write_rows
from kdbias.tables.run_files import RECORD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Largest weights between which neither sums of weights overflow nor their inverses.
_SUMMABLE = (1e-100, 1e100)
LEAST_WEIGHT = 1e-9
"""The least weight (of mean 1) that is not 0: all below it together are not one draw in an epoch of 10^9."""


def validate_weights(
    weights: np.ndarray, ids: pa.Array | Ids | None = None, where: str = "weights"
) -> np.ndarray:
    """The weights as (n,) float64, or a refusal; huge or tiny ones come back divided by the largest.

    Raises:
        KdbiasError: a weight is negative, NaN or infinite, or all are zero.
    """
    values = np.asarray(weights, dtype=np.float64)
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        rows = np.flatnonzero(bad)
        some = ", ".join(f"{values[row]:g}" for row in rows[:3])
        names = f" (samples {shown(ids, rows)})" if ids is not None else ""
        raise KdbiasError(
            f"{where}: {len(rows):,} of {len(values):,} weights are negative or not finite: {some}{names}; "
            "every weight must be a number >= 0"
        )
    largest = values.max(initial=0.0)
    if largest == 0:
        raise KdbiasError(f"{where}: all {len(values):,} weights are zero, so nothing could be drawn")
    return values if _SUMMABLE[0] < largest < _SUMMABLE[1] else values / largest


def mean_one(weights: np.ndarray) -> np.ndarray:
    """Weights scaled to mean exactly 1 (to float64 rounding): the expected number of draws an epoch.

    What would be below `LEAST_WEIGHT`, rounding noise and powers such as 1e-300, becomes 0.
    """
    scaled = weights * (len(weights) / weights.sum())
    scaled = np.where(scaled < LEAST_WEIGHT, 0.0, scaled)
    return scaled * (len(scaled) / scaled.sum())


def never_drawn(weights: np.ndarray) -> int:
    """How many of the weights (n,) are 0."""
    return int(np.count_nonzero(weights == 0))


def write_manifest(
    path: str | os.PathLike[str],
    ids: pa.Array | Ids,
    labels: pa.Array | ColumnParts | None,
    groups: Mapping[str, pa.Array | ColumnParts],
    log_density: np.ndarray,
    weights: np.ndarray,
    doc: dict[str, Any],
    cut: Sequence[int] | None = None,
) -> None:
    """Write a weight manifest; ``weights`` (n,) are scaled to mean 1.

    Args:
        path: a file, or the folder of its parts, of which ``cut`` says how many rows each has.
    """
    require_unique(ids, "weight manifest")
    refuse_own(groups, path)
    values = mean_one(validate_weights(weights, ids))
    density = np.asarray(log_density, dtype=np.float64)

    def rows(start: int, stop: int) -> pa.Table:
        n = stop - start
        return pa.table(
            {
                "sample_id": ids.slice(start, n),
                "label": labels.slice(start, n) if labels is not None else pa.nulls(n, pa.string()),
                **{name: column.slice(start, n) for name, column in groups.items()},
                "log_density": pa.array(density[start:stop]),
                "weight": pa.array(values[start:stop]),
            }
        )

    write_rows(Path(path), Path(path), cut or cut_of(len(values)), rows, doc)


@dataclass(frozen=True, repr=False)
class WeightManifest(SampleTable):
    """A validated weight manifest, from a Parquet or CSV file.

    Attributes:
        weights: (n,) float64, mean 1, each 0 or (up to the scale) `LEAST_WEIGHT` and more.
    """

    weights: np.ndarray

    def plot(self) -> "Figure":
        """How weights are spread, and what share of the draws the most drawn samples take."""
        from kdbias.display import plots

        spread = "weight (expected draws an epoch)"
        return plots.figure(
            plots.histogram(self.weights, spread, self.path.name, logarithmic=True),
            plots.lorenz(self.weights),
        )


def read_manifest(path: str | os.PathLike[str]) -> WeightManifest:
    """Read a manifest; only ``sample_id`` and ``weight`` are needed, so a hand-made file serves too.

    Weights are scaled to mean 1 by `mean_one`. A ``.csv`` or ``.tsv`` is read likewise, and so is a folder of
    Parquet files, in the order of their names.

    Raises:
        KdbiasError: missing file or column, repeated ids, or weights that are negative, NaN or all zero.
    """
    file = local_path(path)
    if file.is_dir() and ((file / RECORD).exists() or not part_names(file, "*.parquet")):
        if located(file / DENSITY).exists():
            raise KdbiasError(
                f"{file} is a density folder, not a weight manifest; "
                f"kdbias weights {file} -o weights.parquet makes one from it"
            )
        raise KdbiasError(
            f"{file} is a folder; a weight manifest is a .parquet or .csv file, or a folder of such parts"
        )
    delimiter = DELIMITERS.get(file.suffix.lower())
    table = None if delimiter is None else read_csv(file, ("sample_id", "label"), delimiter=delimiter)
    found = read_samples(file, "a weight manifest", ("sample_id", "weight"), ("weight", "log_density"), table)
    table = found["table"]
    manifest = WeightManifest(
        **found,
        group_columns=[field.name for field in table.schema if _is_group(field)],
        weights=np.empty(0),
    )
    weights = validate_weights(manifest.numbers("weight"), manifest.id_parts, str(file))
    return replace(manifest, weights=mean_one(weights))


def _is_group(field: pa.Field) -> bool:
    """Whether a column is one to report by; what else a hand-made manifest holds is nobody's business."""
    own = field.name in MANIFEST or field.name.startswith("__index")
    return not own and plain_type(field.type) is not None
