"""Measure: how crowded each sample's neighbourhood is and how uniform the sampled data are."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdbias.device import check_parallel, parse_bytes, resolve_device
from kdbias.errors import KdbiasError
from kdbias.measurement.density import ESTIMATORS, parse_bandwidths
from kdbias.measurement.distribution import Scheme
from kdbias.measurement.files import UNIFORMITY
from kdbias.measurement.passes import SEARCHES, PassPlan
from kdbias.measurement.session import STAGE, Session
from kdbias.measurement.text import summary_table
from kdbias.sphere.torch_pairs import PRECISIONS
from kdbias.sphere.workers import available_threads
from kdbias.tables.columns import refuse_own
from kdbias.tables.density_table import DENSITY
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align, shown
from kdbias.tables.run_record import Run
from kdbias.tables.weight_manifest import WeightManifest, read_manifest

__all__ = ["UniformityResult", "summary_table", "uniformity"]

DEFAULT_K = 64
RECTIFICATIONS = ("auto", "all", "chosen", "none")


@dataclass(frozen=True)
class UniformityResult:
    """What `uniformity` measured and where it lies.

    Attributes:
        out: the output folder.
        document: the content of ``uniformity.json``.
        state: ``new`` (all measured now), ``extended`` (schemes or groups added), ``restated`` (log density
            by another estimator) or ``finished`` (nothing to do).
    """

    out: Path
    document: dict[str, Any]
    state: str

    @property
    def density_path(self) -> Path:
        return self.out / DENSITY

    @property
    def uniformity_path(self) -> Path:
        return self.out / UNIFORMITY

    def summary(self) -> str:
        """The table for people: a row a scheme and bandwidth."""
        return summary_table(self.document)


def uniformity(
    embeddings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    weights: Sequence[str | os.PathLike[str]] = (),
    k: int | None = None,
    t: str | float | Sequence[float] = "auto",
    search: str = "exact",
    estimator: str | None = None,
    exponent: float | None = None,
    device: str = "auto",
    precision: str = "float32",
    memory: str | int = "4GiB",
    group_by: Sequence[str] = (),
    keep_neighbors: bool = False,
    rectification: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> UniformityResult:
    """Measure density and uniformity of an embedding table, as it is and as each manifest would sample it.

    Writes ``density.parquet`` (a row a sample), ``uniformity.json`` (an entry a scheme), ``schemes.parquet``
    (each scheme's weights and log densities) and, if asked for, ``neighbors.parquet`` into ``output``.
    Calling again with further ``weights`` or ``group_by`` adds them to what ``output`` holds: only the new
    weights are passed over; ``overwrite`` starts over with those of the call alone. Another ``estimator`` is
    computed from what is stored.

    Args:
        embeddings: folder of an embedding table.
        output: folder to write.
        weights: weight manifests that cover all samples of the table.
        k: neighbours a sample; default 64, or n - 1 if that is smaller.
        t: ``auto`` or bandwidths, the first of which is that of ``log_density``.
        search: ``exact`` (all pairs), ``ivf`` (cells of the sphere: estimates with intervals in a fraction of
            the time, worth it from about 100,000 samples) or ``hnsw`` (the same, neighbours by a graph that
            may miss isolated samples). Quality is measured on samples computed exactly, and stored.
        estimator: of ``log_density``: ``potential`` (at first), ``knn`` or ``vmf`` (`density.log_density`).
        exponent: of ``knn``; default the estimated intrinsic dimension.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``float32``; on CUDA also ``tf32`` and ``bf16`` for potentials (see `all_pairs`).
        memory: most memory to take beside the embeddings, such as ``4GiB``.
        group_by: columns of the table (or ``label``) to report by.
        keep_neighbors: write ``neighbors.parquet``.
        rectification: at which bandwidths to search the best re-weighting: ``all``, ``chosen``, ``none`` or
            ``auto`` (all up to 16,384 samples, else the chosen one).
        threads: CPU threads; default all.
        overwrite: start over in a folder that holds another measurement.
        seed: of the sample on which bandwidths are chosen.

    Raises:
        KdbiasError: bad options, a k that the data cannot have, or weights that do not fit the data.
    """
    started = time.perf_counter()
    table = EmbeddingTable.open(embeddings)
    k = _neighbour_count(k, table.n)
    asked = parse_bandwidths(t)
    check_parallel("threads", threads)
    _require_known("--search", search, SEARCHES)
    if estimator is not None:
        _require_known("--estimator", estimator, ESTIMATORS)
    _require_known("--precision", precision, PRECISIONS)
    if exponent is not None and not (exponent > 0 and np.isfinite(exponent)):
        raise KdbiasError(f"--exponent {exponent:g} is not a number > 0")
    if exponent is not None and estimator != "knn":
        raise KdbiasError(f"--exponent {exponent:g} is of --estimator knn; add that, or leave it out")
    _require_known("--rectification", rectification, RECTIFICATIONS)
    refuse_own(table.group_columns, table.path)
    groups = {name: table.column(name) for name in dict.fromkeys(group_by)}
    added = _read_weights(weights, table)
    budget = parse_bytes(memory)
    config = {
        "k": k,
        "t": asked or "auto",
        "search": search,
        "rectification": rectification,
        "precision": precision,
        "seed": seed,
    }
    place = _device(device, search, precision)
    run = Run.open(output, STAGE, config, {"embeddings": table.fingerprint}, overwrite)
    snapshot = run.out / "pass.npz"
    plan = PassPlan(search, place, precision, threads or available_threads(), budget, seed, snapshot)
    session = Session(table, run, groups, plan, {"kind": estimator, "exponent": exponent})
    make = session.extend if run.state == "finished" else session.measure
    try:
        document, state = make(added, keep_neighbors, started)
    except KdbiasError:
        run.forget()
        raise
    return UniformityResult(run.out, document, state)


def _neighbour_count(k: int | None, n: int) -> int:
    if k is None:
        return min(DEFAULT_K, n - 1)
    if not 1 <= k < n:
        raise KdbiasError(f"--k {k} neighbours of {n:,} samples do not exist; choose 1 <= k <= {n - 1:,}")
    return k


def _device(name: str, search: str, precision: str) -> str:
    """The device to compute on; approximate searches run on the CPU."""
    if search != "exact":
        if name.startswith("cuda"):
            raise KdbiasError(f"--search {search} runs on the CPU; use --device cpu, or --search exact")
        name = "cpu"
    place = resolve_device(name)
    if place == "cpu" and precision != "float32":
        raise KdbiasError(f"--precision {precision} needs a CUDA device; on the CPU it is float32")
    return place


def _require_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise KdbiasError(f"{option} {value!r} is unknown; use {', '.join(known)}")


def _read_weights(weights: Sequence[str | os.PathLike[str]], table: EmbeddingTable) -> list[Scheme]:
    """The manifests as schemes in the table's order; each must hold exactly the table's samples."""
    schemes: dict[str, Scheme] = {}
    ids = table.ids() if weights else pa.array([], pa.large_string())
    for path in weights:
        manifest = read_manifest(path)
        _refuse_some(manifest, table, ids)
        rows = align(ids, manifest.ids, f"embedding table {table.path}", f"weights {path}")
        if manifest.n != table.n:
            raise KdbiasError(
                f"weights {path} has {manifest.n:,} samples, embedding table {table.path} has {table.n:,}; "
                "they must hold the same samples"
            )
        name = Path(path).stem
        p = manifest.weights[rows]
        if name == "natural" and p.min() == p.max():
            continue  # it is measured anyway
        if name == "natural" or (name in schemes and schemes[name].fingerprint != manifest.fingerprint):
            raise KdbiasError(f"--weights {path}: another scheme is called {name!r} already; rename the file")
        schemes[name] = Scheme(name, p / p.sum(), str(Path(path)), manifest.fingerprint)
    return list(schemes.values())


def _refuse_some(manifest: WeightManifest, table: EmbeddingTable, ids: pa.Array) -> None:
    """Say how to measure a manifest from which rows were dropped: without them it is of other data."""
    absent = ids.filter(pc.invert(pc.is_in(ids, value_set=manifest.ids)))
    if len(absent) and manifest.n + len(absent) == table.n:
        raise KdbiasError(
            f"weights {manifest.path} lacks {len(absent):,} of the {table.n:,} samples of embedding table "
            f"{table.path} ({shown(absent)}); to measure it, keep all rows and give those that are not to be "
            "drawn the weight 0"
        )
