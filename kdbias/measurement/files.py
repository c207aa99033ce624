"""What `uniformity` leaves in its folder, and reading it back to add schemes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.measurement.density import Bandwidths, Measured
from kdbias.measurement.distribution import Sampling
from kdbias.progress import say
from kdbias.scratch import name_of
from kdbias.tables import provenance
from kdbias.tables.columns import SUSPECT, WITNESS, require_numbers
from kdbias.tables.density_table import DENSITY, potential_column, read_density, write_density
from kdbias.tables.documents import read_document
from kdbias.tables.files import MEND
from kdbias.tables.parquet_file import floats, parquet_writer, read_table, write_table
from kdbias.wording import counted

UNIFORMITY = "uniformity.json"
NEIGHBORS = "neighbors.parquet"
SCHEMES = "schemes.parquet"
INTERVALS = "intervals.parquet"
_ROWS = 16_384
_NUMBER = (float, None)
_GROUP = {
    "value": (str, None),
    **dict.fromkeys(("count", "share", "mass"), float),
    **dict.fromkeys(("log_density", "witness?"), _NUMBER),
}
_INTERVAL = ([float], None)
_DISCREPANCY = {
    "value": float,
    **dict.fromkeys(("unbiased", "standard_error", "noise_ratio", "removed"), _NUMBER),
    **dict.fromkeys(("rectification", "p_value"), _NUMBER),
    **dict.fromkeys(("interval", "removed_interval"), _INTERVAL),
    **dict.fromkeys(("rectification_reason", "reason"), (str, None)),
}
_TARGET = {
    **dict.fromkeys(("towards", "kind"), str),
    "size": (int, None),
    "effective_size": _NUMBER,
    "fingerprints": {str: str},
    "kernel": [float],
    **dict.fromkeys(("with", "cluster_by?"), (str, None)),
    **dict.fromkeys(("constant", "noise"), float),
    "test": (
        {
            **dict.fromkeys(("p_value", "statistic", "effect", "null_mean", "null_95"), float),
            **dict.fromkeys(("data", "reference"), int),
        },
        None,
    ),
    "differs": bool,
    "notes": [str],
    "columns": {
        str: [{**dict.fromkeys(("value", "balance"), (str, None)), "share": float, "share_reference": float}]
    },
    "blind": [str],
    "needed": (int, None),
    "best": {
        **dict.fromkeys(("energy", "natural_energy", "gap", "ess_share"), _NUMBER),
        "reason": (str, None),
    },
}
_BANDWIDTH = {
    "t": float,
    **dict.fromkeys(("uniformity", "null", "excess", "energy", "effective_distinct"), _NUMBER),
    **dict.fromkeys(("distinct_ceiling", "rectification", "standard_error"), _NUMBER),
    "rectification_reason": (str, None),
}
_SCHEME = {
    "name": str,
    "weights": (str, None),
    "fingerprint": (str, None),
    "ess": float,
    **dict.fromkeys(("ess_share", "top_mass", "max_weight"), float),
    **dict.fromkeys(("effective_identities", "vendi_score", "koleo_entropy"), _NUMBER),
    "groups": {str: [_GROUP]},
    "hardness": ({"easy": float, "hard": float}, None),
    "discrepancy?": (_DISCREPANCY, None),
    "bandwidths": [_BANDWIDTH],
}
_SEARCH = {
    "kind": str,
    "k": (int, None),
    "recall": _NUMBER,
    **dict.fromkeys(("probes?", "cells?", "landmarks?", "queries?"), int),
    "rms_relative_error?": [[float]],
    "spearman?": [[float]],
}
_SUSPECTS = {
    "seen": int,
    "words": {str: int},
    "near": dict.fromkeys(("groups", "samples", "largest"), int),
    "labels": dict.fromkeys(("judged", "misfit"), int),
}
_SHAPE = {
    "n": int,
    "d": int,
    "t_chosen": float,
    "bandwidth_rule": object,
    "search": _SEARCH,
    "estimator": {"kind": str, "exponent": _NUMBER},
    "intrinsic_dimension": _NUMBER,
    "duplicates": {"exact_duplicates": int, "near_duplicates": int},
    "best": [{"t": float, "energy": _NUMBER, "gap": _NUMBER, "reason": (str, None)}],
    "target?": (_TARGET, None),
    "suspects?": (_SUSPECTS, None),
    "schemes": [_SCHEME],
}


def write_measured(
    out: Path,
    ids: pa.Array,
    labels: pa.Array,
    groups: Mapping[str, pa.Array],
    measured: Measured,
    witness: np.ndarray | None,
    doc: dict[str, Any],
) -> None:
    """Write ``density.parquet`` (columns by the contract, section 3; ``witness`` where there is a target)."""
    repeats = measured.first != np.arange(len(measured.first))
    columns = {
        "sample_id": ids,
        "label": labels,
        **groups,
        "knn_distance": floats(measured.knn_distance),
        **{
            potential_column(t): pa.array(measured.natural[i])
            for i, t in enumerate(measured.bandwidths.values)
        },
        "log_density": floats(measured.log_density),
        "duplicate_of": ids.take(pa.array(measured.first, mask=~repeats)),
        "near_duplicates": pa.array(measured.near_duplicates),
        **measured.suspects,
        **({} if witness is None else {WITNESS: pa.array(witness)}),
    }
    write_density(out / DENSITY, pa.table(columns), doc)


def write_samplings(
    out: Path, ids: pa.Array, measured: Measured, samplings: Sequence[Sampling], doc: dict[str, Any]
) -> None:
    """Write ``schemes.parquet``: what adding schemes or groups later needs, and what plots of schemes show.

    Columns: ``sample_id``, ``hardness``, ``nearest_distance`` (to the nearest different vector), and for each
    scheme ``weight NAME`` (mean 1), ``log_density NAME`` (at the chosen bandwidth; null where the potential
    is below the smallest float) and, with a target, ``witness NAME``.
    """
    n = len(ids)
    columns: dict[str, Any] = {
        "sample_id": ids,
        "hardness": floats(measured.hardness),
        "nearest_distance": floats(measured.nearest),
    }
    for sampling in samplings:
        columns[f"weight {sampling.name}"] = pa.array(sampling.p * n)
        columns[f"log_density {sampling.name}"] = floats(sampling.log_density)
        if sampling.witness is not None:
            columns[f"witness {sampling.name}"] = pa.array(sampling.witness)
    write_table(out / SCHEMES, pa.table(columns), doc)


def read_uniformity(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``uniformity.json`` of a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    file = Path(out) / UNIFORMITY
    document = read_document(file, _SHAPE)
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


def read_measured(out: Path, document: dict[str, Any], ids: pa.Array) -> Measured:
    """The measurement that lies in ``out``, for the samples ``ids`` in their order."""
    density = read_density(out)
    _require_same(ids, density.ids, density.path)
    stored = read_table(out / SCHEMES, ["sample_id", "hardness", "nearest_distance"])
    require_numbers(stored, out / SCHEMES, ["hardness", "nearest_distance"])
    _require_same(ids, stored.column("sample_id").combine_chunks(), out / SCHEMES)
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
        suspects={name: density.table.column(name) for name in SUSPECT if name in density.table.column_names},
    )


def read_samplings(out: Path, document: dict[str, Any]) -> dict[str, Sampling]:
    """The schemes measured so far, by name, in their order."""
    kinds = ["weight", "log_density", *([WITNESS] if document["target"] else [])]
    stored = read_table(
        out / SCHEMES, [f"{what} {entry['name']}" for entry in document["schemes"] for what in kinds]
    )
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


def write_neighbors(
    out: Path, ids: pa.Array, neighbors: np.ndarray, cosines: np.ndarray, doc: dict[str, Any]
) -> None:
    """Write ``neighbors.parquet``: each sample's k nearest others, nearest first.

    Columns: ``sample_id``; ``neighbors`` (k int32 or int64: row numbers within this file); ``cosines`` (k
    float32).
    """
    k = neighbors.shape[1]
    integer = pa.int32() if len(ids) < 2**31 else pa.int64()
    schema = pa.schema(
        [
            ("sample_id", ids.type),
            ("neighbors", pa.list_(integer, k)),
            ("cosines", pa.list_(pa.float32(), k)),
        ],
        metadata=provenance.metadata(doc),
    )
    with parquet_writer(out / NEIGHBORS, schema, compression="NONE", use_dictionary=False) as writer:
        for start in range(0, len(ids), _ROWS):
            rows = slice(start, start + _ROWS)
            positions = pa.array(neighbors[rows].reshape(-1), integer)
            columns = [
                ids.slice(start, _ROWS),
                pa.FixedSizeListArray.from_arrays(positions, k),
                pa.FixedSizeListArray.from_arrays(pa.array(cosines[rows].reshape(-1)), k),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def write_intervals(
    out: Path, ids: pa.Array, bandwidths: Sequence[float], half_widths: np.ndarray, doc: dict[str, Any]
) -> None:
    """Write ``intervals.parquet``: how far each estimated natural potential may be off.

    Columns: ``sample_id``, and for each bandwidth ``half_width_tT``: the exact potential lies that near with
    the probability ``coverage`` of ``uniformity.json``.
    """
    columns = {f"half_width_t{t:g}": pa.array(row) for t, row in zip(bandwidths, half_widths, strict=True)}
    write_table(out / INTERVALS, pa.table({"sample_id": ids, **columns}), doc)


def read_neighbors(out: Path) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Sample ids (n,), positions (n, k) int64 and cosines (n, k) float32 of ``neighbors.parquet``."""
    file = out / NEIGHBORS
    if not file.exists():
        raise KdbiasError(f"{out} holds no {NEIGHBORS}; measure with --keep-neighbors")
    table = read_table(file, ["sample_id", "neighbors", "cosines"]).combine_chunks()
    positions, cosines = (table.column(name).combine_chunks() for name in ("neighbors", "cosines"))
    k = positions.type.list_size
    return (
        table.column("sample_id").combine_chunks(),
        positions.flatten().to_numpy().astype(np.int64).reshape(-1, k),
        cosines.flatten().to_numpy().reshape(-1, k),
    )


def anew(embeddings: object, out: object) -> str:
    """The command that measures a table again, in place of what a folder holds."""
    return f"kdbias uniformity {embeddings} -o {out} --overwrite"


def require_neighbors(out: Path) -> None:
    """Refuse a folder that was measured without keeping the neighbours."""
    if not (out / NEIGHBORS).exists():
        raise KdbiasError(
            f"{out} was measured without --keep-neighbors, so its neighbours are gone; measure again with "
            "--keep-neighbors --overwrite"
        )


def stored_cosines(out: Path) -> np.ndarray | None:
    """The (n, k) cosines of ``neighbors.parquet``; None where the neighbours were not kept."""
    return read_neighbors(out)[2] if (out / NEIGHBORS).exists() else None


def _require_same(ids: pa.Array, stored: pa.Array, where: Path) -> None:
    """Refuse ids (n,) that are not the stored ones in their order."""
    if len(ids) != len(stored) or not ids.equals(stored.cast(ids.type)):
        raise KdbiasError(
            f"{where} holds {counted(len(stored), 'sample')} that are not the embedding table's {len(ids):,} "
            "in its order; measure again with --overwrite"
        )
