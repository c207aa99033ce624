"""What each scheme buys and what it costs: evenness against effective samples, on one table and one plot."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from kdbias import progress
from kdbias.device import check_parallel, parse_bytes
from kdbias.display.quantities import write
from kdbias.display.table import aligned
from kdbias.errors import KdbiasError
from kdbias.measurement.density import check_bandwidth
from kdbias.measurement.distribution import bandwidth_entry, rectify
from kdbias.sphere.equilibrium import solve
from kdbias.sphere.solution import Equilibrium
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.joins import encode
from kdbias.tables.parquet_file import read_table, write_table
from kdbias.tables.run_record import Run
from kdbias.weighting.case import Case
from kdbias.weighting.collapse import groups_of
from kdbias.weighting.diagnostics import summary
from kdbias.weighting.frontier_figure import write_figure
from kdbias.weighting.hygiene import tempered
from kdbias.weighting.measurements import EmbeddingSource, chosen_bandwidth
from kdbias.weighting.request import require_tolerance
from kdbias.weighting.schemes import METHODS
from kdbias.wording import visible

STAGE = "frontier"
TABLE = "frontier.parquet"
FIGURE = "frontier"
_OF_FILES = (".parquet", ".csv", ".png", ".svg")  # endings that no folder is meant by
_FLOORS = 8
_COLUMNS = {
    "scheme": pa.string(),
    "method": pa.string(),
    "min_ess": pa.float64(),
    "t": pa.float64(),
    "ess_share": pa.float64(),
    "ess_distinct": pa.float64(),
    "uniformity": pa.float64(),
    "null": pa.float64(),
    "excess": pa.float64(),
    "energy": pa.float64(),
    "effective_distinct": pa.float64(),
    "rectification": pa.float64(),
    "rectification_reason": pa.string(),
    "max_weight": pa.float64(),
    "top_mass": pa.float64(),
    "zero_weights": pa.int64(),
    "effective_identities": pa.float64(),
    "gap": pa.float64(),
}


@dataclass(frozen=True)
class FrontierResult:
    """The frontier of one data set.

    Attributes:
        out: the folder; it holds frontier.parquet, frontier.png and frontier.svg.
        table: one row a scheme, by falling effective sample size.
        skipped: why a scheme is missing, by its name.
    """

    out: Path
    table: pa.Table
    skipped: dict[str, str]
    state: Literal["new", "finished"]

    @property
    def document(self) -> dict[str, Any]:
        return {"out": str(self.out), "schemes": self.table.to_pylist(), "skipped": self.skipped}

    def summary(self) -> str:
        """The table for people."""
        heads = (
            "scheme",
            "ESS/n",
            "uniformity",
            "D",
            "rectified",
            "max weight",
            "top 1 %",
            "eff. identities",
        )
        lines = [
            (
                row["scheme"],
                f"{row['ess_share']:.1%}",
                _shown(row["uniformity"], ".4f"),
                _shown(row["effective_distinct"], ",.1f"),
                write("rectification", row["rectification"]),
                f"{row['max_weight']:.2f}",
                f"{row['top_mass']:.1%}",
                _shown(row["effective_identities"], ",.1f"),
            )
            for row in self.table.to_pylist()
        ]
        t = self.table.column("t")[0].as_py()
        notes = []
        if self.skipped:
            notes.append(f"without {', '.join(self.skipped)}: {next(iter(self.skipped.values()))}")
        reasons = {r for r in self.table.column("rectification_reason").to_pylist() if r}
        notes += [f"rectified n/a: {reason}" for reason in sorted(reasons)]
        return "\n".join([visible(f"{self.out}: schemes at t={t:g}"), aligned(heads, lines), *notes])


def frontier(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    embeddings: str | os.PathLike[str] | None = None,
    t: float | None = None,
    methods: Sequence[str] | None = None,
    floors: Sequence[float] | None = None,
    tolerance: float = 1e-3,
    memory: str | int = "4GiB",
    threads: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> FrontierResult:
    """Compare all schemes, and the equilibrium at a range of ESS floors, by what they reach and cost.

    The equilibria are the frontier: at their ESS no sampling of these data has less energy.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: folder for frontier.parquet, frontier.png and frontier.svg.
        embeddings: the embedding table; found through the density table's provenance by default.
        t: bandwidth; default the one ``uniformity`` chose.
        methods: names in `kdbias.weighting.schemes.METHODS`, with its default options; default all that fit.
        floors: ESS floors of the equilibrium, 0 = none; default eight between none and 1.
        tolerance, memory, threads: of the solver.
        seed: of cluster-balanced.

    Raises:
        KdbiasError: bad options, an output named as a file, or no embeddings.
    """
    began = time.perf_counter()
    require_tolerance(tolerance)
    parse_bytes(memory)
    check_parallel("threads", threads)
    named = Path(output)
    if named.suffix in _OF_FILES:
        raise KdbiasError(
            f"{named}: a frontier is a folder, with {TABLE} and {FIGURE}.png in it; "
            f"name a folder, such as {named.with_suffix('')}"
        )
    table = read_density(density)
    t = chosen_bandwidth(table) if t is None else t
    check_bandwidth(t)
    wanted = _methods(methods)
    bad = [f for f in floors or () if not 0 <= f <= 1]
    if bad:
        raise KdbiasError(f"floor {bad[0]:g} is not a share of the samples; choose floors from 0 to 1")
    source = EmbeddingSource(table, embeddings)
    config = {
        "t": t,
        "methods": wanted,
        "floors": list(floors) if floors is not None else None,
        "tolerance": tolerance,
        "seed": seed,
    }
    run = Run.open(output, STAGE, config, {"density": table.fingerprint, **source.inputs}, overwrite)
    if run.state == "finished":
        run.require({"skipped": {str: str}})
        progress.say(f"{run.out} is finished already; nothing to do")
        stored = read_table(run.out / TABLE)
        return FrontierResult(run.out, stored, run.record["skipped"], "finished")
    case = Case(
        density=table,
        groups=groups_of(table, "exact", source.vectors),
        t=t,
        load_vectors=source.vectors,
        tolerance=tolerance,
        memory=memory,
        threads=threads,
        seed=seed,
    )
    progress.say(f"frontier of {case.m:,} distinct samples at t={t:g}: {case.kernel.description}")
    result, skipped = trade_off(case, wanted, floors)
    seconds = time.perf_counter() - began
    counts = {"samples": case.n, "distinct": case.m, "schemes": result.num_rows}
    doc = provenance.document(STAGE, config, run.record["inputs"], counts, seconds, skipped=skipped)
    write_table(run.out / TABLE, result, doc)
    write_figure(run.out / FIGURE, result)
    run.finish(counts, seconds, skipped=skipped)
    return FrontierResult(run.out, result, skipped, "new")


def trade_off(
    case: Case, methods: Sequence[str], floors: Sequence[float] | None = None
) -> tuple[pa.Table, dict[str, str]]:
    """The frontier's table (columns in `_COLUMNS`, by falling ESS) and why schemes are missing."""
    best = _solved(case, None)
    entries: list[tuple[str, str, float | None, np.ndarray, float | None]] = []
    skipped = {}
    for method in methods:
        if method == "equilibrium":
            continue
        try:
            values = METHODS[method](case).values
        except KdbiasError as error:
            skipped[method] = str(error)
            continue
        masses = case.groups.sizes / case.n if method == "natural" else tempered(values, 1.0)
        entries.append((method, method, None, masses, None))
    if "equilibrium" in methods:
        start = best.p
        for floor in _floors(best.ess, floors):
            found = _solved(case, floor, start) if floor else best
            start = found.p
            name = f"equilibrium, ESS >= {floor:.1%}" if floor else "equilibrium, no floor"
            entries.append((name, "equilibrium", floor, case.groups.collapse(found.p), found.gap))
    rows = _measured(case, entries, best)
    rows.sort(key=lambda row: -row["ess_share"])
    return pa.Table.from_pylist(rows, schema=pa.schema(_COLUMNS)), skipped


def _methods(names: Sequence[str] | None) -> list[str]:
    unknown = [name for name in names or () if name not in METHODS]
    if unknown:
        raise KdbiasError(f"unknown method {unknown[0]!r}; choose among {', '.join(METHODS)}")
    return list(names) if names is not None else list(METHODS)


def _floors(free: float, given: Sequence[float] | None) -> list[float]:
    """Floors to solve at, ascending; up to the ESS ``free`` of the unconstrained optimum none binds."""
    if given is None:
        return [0.0, *np.linspace(free, 1, _FLOORS + 2)[1:-1]]
    return sorted({floor if floor > free else 0.0 for floor in given})


def _solved(case: Case, min_ess: float | None, start: np.ndarray | None = None) -> Equilibrium:
    name = f"ESS >= {min_ess:.1%}" if min_ess else "no floor"
    found = solve(case.kernel, min_ess=min_ess, duplicates=case.groups, tolerance=case.tolerance, start=start)
    progress.say(
        f"equilibrium, {name}: {found.iterations:,} iterations, {found.seconds:.1f} s, {found.reason}"
    )
    return found


def _measured(
    case: Case,
    entries: Sequence[tuple[str, str, float | None, np.ndarray, float | None]],
    best: Equilibrium,
) -> list[dict[str, Any]]:
    """A row of numbers for each distribution over the distinct samples."""
    natural = case.groups.sizes / case.n
    stacked = np.stack([natural, *(entry[3] for entry in entries)], axis=1)
    # K p - p without the samples themselves: at large t they are most of the energy.
    others = case.kernel.apply(stacked, exact=True) - stacked
    codes, d = encode(case.density.labels)[0], case.vectors.shape[1]
    bandwidths, rows = [], []
    for masses, field in zip(stacked.T, others.T, strict=True):
        p = case.groups.spread(masses)
        between = float(masses @ field)
        copies = float(masses @ masses - p @ p)  # pairs of different copies of one sample
        bandwidths.append(bandwidth_entry(d, case.t, p, between + float(masses @ masses), between + copies))
    ends = [{"energy": best.energy, "gap": best.gap, "reason": None}]
    for (name, method, floor, masses, gap), bandwidth in zip(entries, bandwidths[1:], strict=True):
        rectify([{"bandwidths": [bandwidth]}], bandwidths[:1], ends)
        weights = case.groups.spread(masses) * case.n
        numbers = summary(weights, masses, codes)
        rows.append(
            {"scheme": name, "method": method, "min_ess": floor, "gap": gap}
            | {key: value for key, value in (numbers | bandwidth).items() if key in _COLUMNS}
        )
    return rows


def _shown(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)
