"""What `uniformity` leaves in its folder, and reading it back to add schemes."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.measurement.density import Bandwidths, Measured
from kdbias.measurement.distribution import Sampling
from kdbias.measurement.shape import SHAPE
from kdbias.progress import say
from kdbias.scratch import name_of
from kdbias.tables.columns import SUSPECT, WITNESS, require_numbers
from kdbias.tables.density_table import DENSITY, potential_column, read_density
from kdbias.tables.documents import read_document
from kdbias.tables.files import MEND
from kdbias.tables.joins import ColumnParts, Ids
from kdbias.tables.listing import located
from kdbias.tables.parquet_file import floats
from kdbias.tables.parted_table import read_columns, read_ids, write_rows
from kdbias.wording import counted

UNIFORMITY = "uniformity.json"
NEIGHBORS = "neighbors.parquet"
SCHEMES = "schemes.parquet"
INTERVALS = "intervals.parquet"
_FILES = (DENSITY, SCHEMES, NEIGHBORS, INTERVALS)
TABLES = (*_FILES, *(file.removesuffix(".parquet") for file in _FILES))
"""Names of the tables in a folder: files or, of many samples, folders of parts."""
_ROWS = 16_384


@dataclass(frozen=True)
class Sheet:
    """What all tables of a measurement have: ids, how they are cut into parts, and where they come from.

    Attributes:
        out: the folder to write into.
        ids: of the samples.
        cut: rows of each part, where there are so many that a table is written in parts.
        doc: provenance.
    """

    out: Path
    ids: Ids
    cut: Sequence[int]
    doc: dict[str, Any]

    def write(
        self,
        name: str,
        columns: Callable[[int, int], dict[str, pa.Array]],
        apart: Sequence[str] = (),
        **how: Any,
    ) -> None:
        """Write a table: ``sample_id``, and what ``columns`` gives of the rows from one up to another."""

        def rows(start: int, stop: int) -> pa.Table:
            return pa.table({"sample_id": self.ids.slice(start, stop - start), **columns(start, stop)})

        file = self.out / name
        write_rows(file, file.with_suffix(""), self.cut, rows, self.doc, apart, **how)


def write_measured(
    sheet: Sheet,
    labels: ColumnParts,
    groups: Mapping[str, ColumnParts],
    measured: Measured,
    witness: np.ndarray | None,
) -> None:
    """Write ``density.parquet`` (columns by the contract, section 3; ``witness`` where there is a target)."""
    originals = sheet.ids.others(measured.first)

    def columns(start: int, stop: int) -> dict[str, pa.Array]:
        n, rows = stop - start, slice(start, stop)
        return {
            "label": labels.slice(start, n),
            **{name: values.slice(start, n) for name, values in groups.items()},
            "knn_distance": floats(measured.knn_distance[rows]),
            **{
                potential_column(t): pa.array(measured.natural[i, rows])
                for i, t in enumerate(measured.bandwidths.values)
            },
            "log_density": floats(measured.log_density[rows]),
            "duplicate_of": originals.slice(start, n),
            "near_duplicates": pa.array(measured.near_duplicates[rows]),
            **{name: values.slice(start, n) for name, values in measured.suspects.items()},
            **({} if witness is None else {WITNESS: pa.array(witness[rows])}),
        }

    sheet.write(DENSITY, columns, apart=(WITNESS,))


def write_samplings(sheet: Sheet, measured: Measured, samplings: Sequence[Sampling]) -> None:
    """Write ``schemes.parquet``: what adding schemes or groups later needs, and what plots of schemes show.

    Columns: ``sample_id``, ``hardness``, ``nearest_distance`` (to the nearest different vector), and for each
    scheme ``weight NAME`` (mean 1), ``log_density NAME`` (at the chosen bandwidth; null where the potential
    is below the smallest float) and, with a target, ``witness NAME``.
    """
    n = len(sheet.ids)

    def columns(start: int, stop: int) -> dict[str, pa.Array]:
        rows = slice(start, stop)
        found: dict[str, Any] = {
            "hardness": floats(measured.hardness[rows]),
            "nearest_distance": floats(measured.nearest[rows]),
        }
        for sampling in samplings:
            found[f"weight {sampling.name}"] = pa.array(sampling.p[rows] * n)
            found[f"log_density {sampling.name}"] = floats(sampling.log_density[rows])
            if sampling.witness is not None:
                found[f"witness {sampling.name}"] = pa.array(sampling.witness[rows])
        return found

    sheet.write(SCHEMES, columns)


def read_uniformity(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``uniformity.json`` of a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    file = Path(out) / UNIFORMITY
    document = read_document(file, SHAPE)
    swept = [[entry["t"] for entry in scheme["bandwidths"]] for scheme in document["schemes"]]
    if not swept or document["t_chosen"] not in swept[0] or any(ts != swept[0] for ts in swept):
        raise KdbiasError(f"{file}: its schemes lack bandwidths or differ in them; {MEND}")
    document.setdefault("target", None)  # measured before there were targets
    document.setdefault("suspects", None)
    for scheme in document["schemes"]:
        scheme.setdefault("discrepancy", None)
        if (scheme["discrepancy"] is None) != (document["target"] is None):
            raise KdbiasError(f"{file}: scheme {scheme['name']!r} and the target do not go together; {MEND}")
        for rows in scheme["groups"].values():
            for row in rows:
                row.setdefault("witness", None)
    return document


def read_measured(out: Path, document: dict[str, Any], ids: pa.Array | Ids) -> Measured:
    """The measurement that lies in ``out``, for the samples ``ids`` in their order."""
    density, file = read_density(out), located(out / SCHEMES)
    _require_same(ids, density.id_parts, density.path)
    _require_same(ids, read_ids(file), file)
    stored = read_columns(file, ["hardness", "nearest_distance"])
    require_numbers(stored, file, ["hardness", "nearest_distance"])
    values = [float(entry["t"]) for entry in document["schemes"][0]["bandwidths"]]
    return Measured(
        Bandwidths(values, float(document["t_chosen"]), document["bandwidth_rule"]),
        natural=np.stack([density.potential(t) for t in values]),
        knn_distance=density.numbers("knn_distance"),
        nearest=stored.column("nearest_distance").to_numpy(),
        first=density.first_equal,
        near_duplicates=density.table.column("near_duplicates").to_numpy(),
        hardness=stored.column("hardness").to_numpy(),
        log_density=density.numbers("log_density"),
        suspects={name: density.column_parts(name) for name in SUSPECT if name in density.table.column_names},
    )


def read_samplings(out: Path, document: dict[str, Any]) -> dict[str, Sampling]:
    """The schemes measured so far, by name, in their order."""
    kinds = ["weight", "log_density", *([WITNESS] if document["target"] else [])]
    names = [f"{what} {entry['name']}" for entry in document["schemes"] for what in kinds]
    stored = read_columns(located(out / SCHEMES), names)
    samplings = {}
    for entry in document["schemes"]:
        p = stored.column(f"weight {entry['name']}").to_numpy()
        density = stored.column(f"log_density {entry['name']}").to_numpy()
        known = {
            name: entry[name] for name in ("name", "weights", "fingerprint", "bandwidths", "discrepancy")
        }
        if document["target"]:
            known[WITNESS] = stored.column(f"{WITNESS} {entry['name']}").to_numpy()
        samplings[entry["name"]] = Sampling(p=p / p.sum(), log_density=density, **known)
    return samplings


def not_measured(out: Path, added: list[Sampling], document: dict[str, Any]) -> list[Sampling]:
    """Those that are not measured yet; raises KdbiasError where one is called as one from another file.

    A file beside the folder belongs to it: it takes the place of one by its name from where they lay before.
    """
    entries = {entry["name"]: entry for entry in document["schemes"]}
    fresh = [s for s in added if s.fingerprint != entries.get(s.name, {}).get("fingerprint")]
    for sampling in fresh:
        before = entries.get(sampling.name, {}).get("weights")
        now = os.path.abspath(str(sampling.weights))
        if before is None or name_of(before) == name_of(now):
            continue
        if Path(before).name == Path(now).name and Path(now).parent == Path(os.path.abspath(out)).parent:
            say(f"{out}: the scheme {sampling.name!r} from {before} is replaced by {sampling.weights}")
        else:
            raise KdbiasError(
                f"{out} has a scheme {sampling.name!r} from {before} already; rename {sampling.weights}"
            )
    return fresh


def write_neighbors(sheet: Sheet, neighbors: np.ndarray, cosines: np.ndarray) -> None:
    """Write ``neighbors.parquet``: each sample's k nearest others, nearest first.

    Columns: ``sample_id``; ``neighbors`` (k int32 or int64: row numbers within this file); ``cosines`` (k
    float32).
    """
    k = neighbors.shape[1]
    integer = pa.int32() if len(sheet.ids) < 2**31 else pa.int64()

    def columns(start: int, stop: int) -> dict[str, pa.Array]:
        rows = slice(start, stop)
        positions = pa.array(neighbors[rows].reshape(-1), integer)
        return {
            "neighbors": pa.FixedSizeListArray.from_arrays(positions, k),
            "cosines": pa.FixedSizeListArray.from_arrays(pa.array(cosines[rows].reshape(-1)), k),
        }

    sheet.write(NEIGHBORS, columns, group=_ROWS, compression="NONE", use_dictionary=False)


def write_intervals(sheet: Sheet, bandwidths: Sequence[float], half_widths: np.ndarray) -> None:
    """Write ``intervals.parquet``: how far each estimated natural potential may be off.

    Columns: ``sample_id``, and for each bandwidth ``half_width_tT``: the exact potential lies that near with
    the probability ``coverage`` of ``uniformity.json``.
    """

    def columns(start: int, stop: int) -> dict[str, pa.Array]:
        widths = zip(bandwidths, half_widths, strict=True)
        return {f"half_width_t{t:g}": pa.array(row[start:stop]) for t, row in widths}

    sheet.write(INTERVALS, columns)


def read_neighbors(out: Path) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Sample ids (n,), positions (n, k) int64 and cosines (n, k) float32 of ``neighbors.parquet``."""
    file = located(out / NEIGHBORS)
    if not file.exists():
        raise KdbiasError(f"{out} holds no {NEIGHBORS}; measure with --keep-neighbors")
    table = read_columns(file, ["neighbors", "cosines"]).combine_chunks()
    positions, cosines = (table.column(name).combine_chunks() for name in ("neighbors", "cosines"))
    k = positions.type.list_size
    return (
        read_ids(file).array(),
        positions.flatten().to_numpy().astype(np.int64).reshape(-1, k),
        cosines.flatten().to_numpy().reshape(-1, k),
    )


def anew(embeddings: object, out: object) -> str:
    """The command that measures a table again, in place of what a folder holds."""
    return f"kdbias uniformity {embeddings} -o {out} --overwrite"


def require_neighbors(out: Path) -> None:
    """Refuse a folder that was measured without keeping the neighbours."""
    if not located(out / NEIGHBORS).exists():
        raise KdbiasError(
            f"{out} was measured without --keep-neighbors, so its neighbours are gone; measure again with "
            "--keep-neighbors --overwrite"
        )


def stored_cosines(out: Path) -> np.ndarray | None:
    """The (n, k) cosines of ``neighbors.parquet``; None where the neighbours were not kept."""
    return read_neighbors(out)[2] if located(out / NEIGHBORS).exists() else None


def _require_same(ids: pa.Array | Ids, stored: Ids, where: Path) -> None:
    """Refuse ids (n,) that are not the stored ones in their order."""
    if not Ids.of(ids).same(stored):
        raise KdbiasError(
            f"{where} holds {counted(len(stored), 'sample')} that are not the embedding table's {len(ids):,} "
            "in its order; measure again with --overwrite"
        )
