"""From a density table to a weight manifest: how often each sample is to be drawn."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdbias import progress
from kdbias.device import check_parallel
from kdbias.errors import KdbiasError
from kdbias.measurement.distribution import ess
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.joins import encode
from kdbias.tables.parquet_file import read_provenance
from kdbias.tables.run_files import claim, made_by
from kdbias.tables.run_record import refuse_changes
from kdbias.tables.weight_manifest import mean_one, write_manifest
from kdbias.weighting.case import Case, Scheme
from kdbias.weighting.collapse import groups_of
from kdbias.weighting.diagnostics import summary, warnings
from kdbias.weighting.hygiene import Hygiene
from kdbias.weighting.measurements import EmbeddingSource
from kdbias.weighting.request import masses_of, parse_request, solver_cap
from kdbias.weighting.result import WeightsResult
from kdbias.weighting.schemes import METHODS

STAGE = "weights"


def weights(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    method: str = "equilibrium",
    t: float | None = None,
    temper: float = 1.0,
    clip: float | None = None,
    cap: float | None = None,
    mix: float = 0.0,
    min_ess: float | None = None,
    collapse: str | None = None,
    near: float | None = None,
    beta: float | None = None,
    exponent: float | None = None,
    keep: float | None = None,
    clusters: Sequence[int] | None = None,
    tolerance: float | None = None,
    memory: str | int | None = None,
    threads: int | None = None,
    max_seconds: float | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> WeightsResult:
    """Write a weight manifest: one row a sample with its weight, the expected number of draws an epoch.

    Steps in order: scheme, duplicates collapsed, temper, clip, mix, ESS floor, mean 1. The equilibrium meets
    the floor and the cap within its problem, and both hold after the other steps, too; other schemes meet a
    floor, only when asked, by mixing in natural sampling.

    Args:
        density: the folder that ``uniformity`` wrote (or its density.parquet).
        output: the manifest to write, a .parquet file.
        embeddings: the embedding table; found through the density table's provenance by default.
        method: a name in `kdbias.weighting.schemes.METHODS`.
        t: bandwidth of inverse-density and equilibrium; default the one ``uniformity`` chose.
        temper: exponent on the weights; 1 leaves them.
        clip: no sample above this many times the mean; > 1.
        cap: the same as a constraint of the equilibrium's problem, which stays optimal under it.
        mix: share of natural sampling mixed in, 0 to 1; each distinct sample counts once in it.
        min_ess: least effective sample size as a share of the distinct samples; equilibrium: 0.5 by default,
            0 for none.
        collapse: "exact" (copies share one sample's weight), "near" (near-copies too) or "none"; by default
            exact, but none for natural.
        near: least cosine of near-copies, with collapse "near"; default 0.999.
        beta: of effective-number. exponent: of knn-distance and hard. keep, clusters: of cluster-balanced.
        tolerance: of the equilibrium: end at gap <= tolerance * (natural - reached energy); default 1e-3.
        memory, max_seconds: limits of the equilibrium's solver; default 4GiB and none.
        threads: CPU threads; default all.
        seed: of cluster-balanced; default 0.
        overwrite: replace a manifest that was made differently.

    Returns:
        What was written. The same call again does nothing.

    Raises:
        KdbiasError: bad options, labels or embeddings that the method needs but cannot get, or an existing
            manifest made differently (keys named).
    """
    began = time.perf_counter()
    check_parallel("threads", threads)
    table = read_density(density)
    some = {"t": t, "cap": cap, "tolerance": tolerance, "max_seconds": max_seconds, "memory": memory}
    own = {"seed": seed, "beta": beta, "exponent": exponent, "keep": keep, "clusters": clusters}
    hygiene = Hygiene(temper, clip, mix, min_ess)
    request = parse_request(table, method, hygiene, collapse, near, some | own)
    source = EmbeddingSource(table, embeddings)
    inputs = {"density": table.fingerprint, **source.inputs}
    path = claim(output)
    found = _finished(path, request.config, inputs, overwrite)
    if found is not None:
        progress.say(f"{path} is finished already; nothing to do")
        return found
    groups = groups_of(table, request.collapse, source.vectors, request.near)
    case = Case(
        density=table,
        groups=groups,
        t=request.t if request.t is not None else 0.0,
        load_vectors=source.vectors,
        min_ess=request.min_ess,
        cap=solver_cap(request.cap, groups),
        tolerance=request.tolerance,
        memory=request.memory,
        threads=threads,
        max_seconds=request.max_seconds,
        seed=request.seed,
    )
    scheme = METHODS[method](case, **request.options)
    masses = masses_of(request, scheme, groups)
    values = mean_one(groups.spread(masses))
    numbers = summary(values, masses, encode(table.labels)[0])
    doc = provenance.document(
        STAGE,
        request.config,
        inputs,
        {"samples": table.n, "distinct": groups.distinct},
        time.perf_counter() - began,
        numbers=numbers,
        facts=scheme.facts,
        solver=solver_record(scheme, masses),
        warnings=warnings(numbers, table.n),
        density=str(table.path.resolve().parent),
    )
    columns = {name: table.table.column(name) for name in table.group_columns}
    write_manifest(path, table.ids, table.labels, columns, table.numbers("log_density"), values, doc)
    result = _result(path, doc, "new")
    for line in result.warnings:
        progress.say(f"warning: {line}")
    return result


def solver_record(scheme: Scheme, masses: np.ndarray) -> dict[str, Any] | None:
    """What the solver reached, and the energy and gap of the masses that hygiene left."""
    result = scheme.equilibrium
    if result is None:
        return None
    changed = scheme.energy is not None and not np.array_equal(masses, scheme.values)
    energy = scheme.energy(masses) if changed and scheme.energy else result.energy
    return {
        "energy_before": result.start_energy,
        "energy": energy,
        # Hygiene keeps floor and cap, so the best energy is still at least the solver's less its gap.
        "gap": max(energy - (result.energy - result.gap), 0.0) if result.proven else None,
        "lambda": result.lam,
        "ess_distinct": ess(masses) / len(masses),
        "iterations": result.iterations,
        "products": result.products,
        "seconds": round(result.seconds, 3),
        "certified": result.certified and not changed,
        "reason": result.reason + (", before temper, clip and mix" if changed else ""),
    }


def _finished(
    path: Path, config: dict[str, Any], inputs: dict[str, str], overwrite: bool
) -> WeightsResult | None:
    if path.is_dir():
        raise KdbiasError(f"{path} is a folder; a weight manifest is one .parquet file: choose another -o")
    if path.suffix != ".parquet":
        raise KdbiasError(f"{path} would be a Parquet file; name it {path.with_suffix('.parquet')}")
    if not path.exists():
        return None
    if not made_by(path, STAGE):
        raise KdbiasError(f"{path} exists and is no manifest that kdbias weights wrote; choose another -o")
    if overwrite:
        return None
    doc = read_provenance(path)
    assert doc is not None
    refuse_changes(path, doc, {"config": config, "inputs": inputs})
    return _result(path, doc, "finished")


def _result(path: Path, doc: dict[str, Any], state: Literal["new", "finished"]) -> WeightsResult:
    return WeightsResult(
        path=path,
        method=doc["config"]["method"],
        t=doc["config"]["t"],
        n=doc["counts"]["samples"],
        distinct=doc["counts"]["distinct"],
        numbers=doc["numbers"],
        solver=doc["solver"],
        facts=doc["facts"],
        warnings=doc["warnings"],
        seconds=doc["seconds"],
        state=state,
    )
