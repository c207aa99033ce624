"""The suspects of a measurement as a list that people read, edit and give to `weights --exclude`."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.display.result import Result
from kdbias.display.table import FEW, Table, more
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.files import UNIFORMITY, read_uniformity
from kdbias.measurement.settings import SUSPECT_WORDS, SuspectsSettings
from kdbias.measurement.suspects import EXCLUDED, has_word, suspect_lines
from kdbias.tables import provenance
from kdbias.tables.columns import SUSPECT
from kdbias.tables.csv_file import csv_columns, for_people
from kdbias.tables.density_table import DensityTable, read_density
from kdbias.tables.files import atomic_path
from kdbias.tables.joins import as_strings, encode_all
from kdbias.tables.parquet_file import write_table
from kdbias.tables.run_files import claim, made_by
from kdbias.wording import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STAGE = "suspects"
_COLUMNS = ("exclude", "sample_id", "label", *SUSPECT, "log_density")


@dataclass(frozen=True, repr=False)
class SuspectsResult(Result):
    """The suspects of one data set.

    Attributes:
        density: the density table.
        table: a row a suspect, by kind (in the order of `SUSPECT_WORDS`, then near duplicates, those of a
            group together), else in the order of the data:
            ``exclude`` (bool: whether `weights --exclude` leaves it out; true of blank, dark and overexposed
            images, for people to change), ``sample_id``, ``label``, ``suspect``, ``near_duplicate_of`` (the
            first of its group, null for that itself), ``nearest_label``, ``log_density``.
        notes: what was found and what could not be judged, lines for people.
    """

    density: Path
    table: pa.Table
    notes: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The list as JSON values."""
        return {"density": str(self.density), "suspects": self.table.to_pylist(), "notes": list(self.notes)}

    def write(self, output: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the list as .csv or .parquet.

        Raises:
            KdbiasError: another kind of file, one that is there already (which may have been edited) without
                ``overwrite``, or one that is no such list.
        """
        from pyarrow import csv

        path = claim(output)
        if path.suffix not in (".csv", ".parquet") or path.is_dir():
            raise KdbiasError(f"{path}: a list of suspects is a .csv or .parquet file; name it like that")
        if path.exists():
            if path.suffix == ".csv":
                ours = csv_columns(path)[:2] == list(_COLUMNS[:2])
            else:
                ours = made_by(path, STAGE)
            if not ours:
                raise KdbiasError(f"{path} exists and is not by kdbias suspects; choose another -o")
            if not overwrite:
                raise KdbiasError(
                    f"{path} exists, and you may have edited it; choose another -o, or replace it with "
                    "--overwrite"
                )
        if path.suffix == ".csv":
            with atomic_path(path) as temporary:
                csv.write_csv(for_people(self.table), temporary)
        else:
            doc = provenance.document(STAGE, {}, {}, {"samples": self.table.num_rows}, 0.0)
            write_table(path, self.table, doc | {"density": str(self.density.resolve().parent)})
        return path

    def blocks(self) -> list[str | Table]:
        """The notes, and the first rows of the list."""
        heads = ("sample_id", "label", *SUSPECT)
        rows = [{key: row[key] or "" for key in heads} for row in self.table.slice(0, FEW).to_pylist()]
        for row in rows:
            row["suspect"] = row["suspect"] or "near-duplicate"
        under = more(self.table.num_rows, "-o suspects.csv writes them all")
        table = replace(Table.of(rows, heads), under="".join(under))
        return [*map(visible, self.notes), *([table] if rows else [])]

    def to_pandas(self) -> "pd.DataFrame":
        """The list, as `table` has it."""
        return self.table.to_pandas()

    def plot(self) -> "Figure":
        """How many suspects there are of each kind; a sample may be of several."""
        from kdbias.display import plots

        words = as_strings(self.table.column("suspect"))
        rows = [(word, {"samples": float(has_word(words, (word,)).sum())}, None) for word in SUSPECT_WORDS]
        draw = plots.dots(rows, "samples", "Suspects by kind", zero=True)
        return plots.figure(draw, height=plots.height_of(len(rows)))


@takes_settings(SuspectsSettings)
def suspects(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    settings: SuspectsSettings,
) -> SuspectsResult:
    """List the samples of a measurement that look wrong.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: a .csv or .parquet file to write the list to.
        overwrite: replace a list that is there, which may have been edited.

    Raises:
        KdbiasError: no such folder, one that an earlier version measured, or an output that is there.
    """
    table = read_density(density)
    folder = table.path.parent
    if not set(SUSPECT) <= set(table.table.column_names):
        raise KdbiasError(
            f"{table.path} was measured before kdbias looked for suspects; measure again: kdbias uniformity "
            f"EMB -o {folder} --overwrite"
        )
    notes = suspect_lines(read_uniformity(folder)) if (folder / UNIFORMITY).exists() else []
    result = SuspectsResult(table.path, _listed(table, settings.kind), tuple(notes))
    if output is not None:
        result.write(output, overwrite)
    return result


def _listed(density: DensityTable, kinds: tuple[str, ...]) -> pa.Table:
    """The rows of `SuspectsResult.table`."""
    suspect, copy_of = (as_strings(density.table.column(name)) for name in SUSPECT[:2])
    group = encode_all(pc.coalesce(copy_of, density.ids))[0]
    near = np.bincount(group)[group] > 1
    words = tuple(word for word in SUSPECT_WORDS if word in kinds) if kinds else SUSPECT_WORDS
    wanted = has_word(suspect, words) if words else np.zeros(density.n, dtype=bool)
    if not kinds or "near-duplicate" in kinds:
        wanted |= near
    rows = np.flatnonzero(wanted)
    kind = np.full(density.n, len(words))
    for place in reversed(range(len(words))):
        kind[has_word(suspect, words[place : place + 1])] = place
    # `encode_all` counts by first occurrence: groups are in the order of the data, members side by side.
    rows = pa.array(rows[np.lexsort((np.where(kind < len(words), 0, group)[rows], kind[rows]))])
    taken = density.table.select([n for n in _COLUMNS if n in density.table.column_names]).take(rows)
    exclude = pa.array(has_word(suspect, EXCLUDED)).take(rows)
    return taken.add_column(0, "exclude", exclude).select(_COLUMNS)
