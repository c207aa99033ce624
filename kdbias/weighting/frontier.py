"""What each scheme buys and what it costs: evenness against effective samples, on one table and one plot."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from kdbias.display.quantities import write
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.distribution import bandwidth_entry, rectify
from kdbias.sphere.equilibrium.kernel_matrix import Bandwidth, KernelMatrix, Matching
from kdbias.sphere.equilibrium.solution import Equilibrium as Solution
from kdbias.tables import provenance
from kdbias.tables.density_table import read_density
from kdbias.tables.joins import encode
from kdbias.tables.parquet_file import read_table, write_table
from kdbias.tables.provenance import options_in
from kdbias.tables.run_record import Run, Stage, read_record
from kdbias.weighting.collapse import groups_of
from kdbias.weighting.diagnostics import summary
from kdbias.weighting.frontier_figure import drawn, write_figure
from kdbias.weighting.hygiene import tempered
from kdbias.weighting.samples import EmbeddingSource, Samples
from kdbias.weighting.schemes import SCHEMES
from kdbias.weighting.schemes.density import Equilibrium, Natural, Searching
from kdbias.weighting.schemes.matched import Matched
from kdbias.weighting.settings import UNAIMED, FrontierSettings
from kdbias.wording import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STAGE = Stage("frontier", files=("frontier.parquet", "frontier.png", "frontier.svg"))
TABLE = "frontier.parquet"
FIGURE = "frontier"
_OF_FILES = (".parquet", ".csv", ".png", ".svg")  # endings that no folder is meant by
_FLOORS = 8
_COLUMNS = (
    *("scheme", "method", "min_ess", "t", "ess_share", "ess_distinct", "uniformity", "null", "excess"),
    *("energy", "effective_distinct", "rectification", "rectification_reason", "max_weight", "top_mass"),
    *("zero_weights", "effective_identities", "gap", "discrepancy"),
)
# What earlier versions recorded where no schemes were chosen: all that there were.
_FIRST = (
    *("natural", "class-balanced", "effective-number", "inverse-density"),
    *("knn-distance", "equilibrium", "cluster-balanced", "hard"),
)
_OTHER = {
    **dict.fromkeys(("scheme", "method", "rectification_reason"), pa.string()),
    "zero_weights": pa.int64(),
}
_SCHEMA = pa.schema([(name, _OTHER.get(name, pa.float64())) for name in _COLUMNS])
_SHOWN = (
    "scheme ess_share uniformity effective_distinct rectification max_weight top_mass effective_identities"
)


@dataclass(frozen=True, repr=False)
class FrontierResult(Result):
    """The frontier of one data set.

    Attributes:
        out: the folder; it holds frontier.parquet, frontier.png and frontier.svg.
        table: one row a scheme, by falling effective sample size; its t is null where the kernels of
            several bandwidths are averaged.
        t: the bandwidth, or a list of several.
        target: towards and noise of the target, whose squared discrepancies stand in the table; else None.
        skipped: why a scheme is missing, by its name.
    """

    out: Path
    table: pa.Table
    skipped: dict[str, str]
    t: float | list[float]
    target: dict[str, Any] | None
    state: Literal["new", "finished"]

    @property
    def document(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "out": str(self.out),
            "schemes": self.table.to_pylist(),
            "skipped": self.skipped,
            "t": self.t,
            "target": self.target,
        }

    def blocks(self) -> list[str | Table]:
        """The table and notes."""
        rows = self.table.to_pylist()
        notes = []
        alike = dict[str, list[str]]()
        for name, reason in self.skipped.items():
            alike.setdefault(reason.replace(name, ""), []).append(name)
        notes += [
            visible(f"without {', '.join(names)}: {self.skipped[names[0]]}") for names in alike.values()
        ]
        reasons = {row["rectification_reason"] for row in rows} - {None}
        notes += [f"rectified n/a: {reason}" for reason in sorted(reasons)]
        head = visible(f"{self.out}: schemes at t={write('t', self.t)}")
        shown = _SHOWN
        if self.target is not None:
            shown = shown.replace("uniformity", "discrepancy uniformity")
            notes.append(
                f"MMD² from {visible(self.target['towards'])}; its noise: "
                f"{write('discrepancy', self.target['noise'])}"
            )
        return [head, Table.of(rows, shown), *notes]

    def to_pandas(self) -> "pd.DataFrame":
        """`table`, a row a scheme."""
        return self.table.to_pandas()

    def plot(self) -> "Figure":
        """The figure that lies in the folder, too."""
        return drawn(self.table, self.target)


class _Entry(NamedTuple):
    """One distribution over the (m,) distinct samples; gap and floor are of the equilibria alone."""

    scheme: str
    method: str
    masses: np.ndarray
    min_ess: float | None = None
    gap: float | None = None
    discrepancy: float | None = None


@takes_settings(FrontierSettings)
def frontier(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    settings: FrontierSettings,
) -> FrontierResult:
    """Compare all schemes, and the equilibrium at a range of ESS floors, by what they reach and cost.

    The equilibria are the frontier: at their ESS no sampling of these data has less energy. With a target all
    are held against it, and beside the equilibria stand the nearest samplings at a range of floors.

    Args:
        density: the folder that ``uniformity`` wrote.
        output: folder for frontier.parquet, frontier.png and frontier.svg.
        overwrite: start over where the folder holds another frontier.

    Raises:
        KdbiasError: bad options, an output named as a file, or no embeddings.
    """
    began = time.perf_counter()
    named = Path(output)
    if named.suffix in _OF_FILES:
        raise KdbiasError(
            f"{named}: a frontier is a folder, with {TABLE} and {FIGURE}.png in it; "
            f"name a folder, such as {named.with_suffix('')}"
        )
    table = read_density(density)
    asked, settings = settings, settings.decided(table)
    if settings.methods is None and not overwrite and _is_of_the_first(named):
        settings = replace(settings, methods=_FIRST)
    source, config = EmbeddingSource(table, settings.embeddings), settings.record()
    inputs = {"density": table.fingerprint, **source.inputs}
    matched = Matched.sharing(settings) if settings.towards else None
    inputs |= matched.inputs() if matched else {}
    with Run.open(output, STAGE, config, inputs, overwrite, defaults=asked.defaults(config)) as run:
        if run.already_finished():
            run.require({"skipped": {str: str}, "target?": ({"towards": str, "noise": float}, None)})
            stored, record = read_table(run.out / TABLE), run.record
            target = record.get("target")
            return FrontierResult(run.out, stored, record["skipped"], config["t"], target, "finished")
        groups = groups_of(table, "exact", source.vectors)
        groups = matched.distinct(groups, source) if matched else groups
        samples = Samples(table, groups, source, threads=settings.threads)
        result, skipped, target = trade_off(samples, settings, matched)
        seconds = time.perf_counter() - began
        counts = {"samples": samples.n, "distinct": samples.m, "schemes": result.num_rows}
        kept = {"skipped": skipped, "target": target}
        doc = provenance.document(STAGE.name, config, run.record["inputs"], counts, seconds, **kept)
        write_table(run.out / TABLE, result, doc)
        write_figure(run.out / FIGURE, result, config["t"], target)
        run.finish(counts, seconds, **kept)
    return FrontierResult(run.out, result, skipped, config["t"], target, "new")


def _is_of_the_first(folder: Path) -> bool:
    """Whether a frontier was begun when the first schemes were all that there were."""
    try:
        return options_in(read_record(folder)).get("methods") == list(_FIRST)
    except KdbiasError:
        return False


def trade_off(
    samples: Samples, settings: FrontierSettings, matched: Matched | None
) -> tuple[pa.Table, dict[str, str], dict[str, Any] | None]:
    """The table (columns in `_SCHEMA`, by falling ESS), why schemes are missing, and the target."""
    if settings.with_column is not None:  # two kernels
        settings = replace(settings, memory=settings.memory // 2)
    solver, methods = Equilibrium.sharing(settings), settings.methods or UNAIMED
    kernel = solver.kernel(samples)
    best, entries, skipped = solver.solved(samples, kernel, None), [], {}
    for name in methods:
        try:
            if name == Natural.name:  # copies as often as they come
                entries.append(_Entry(name, name, samples.groups.sizes / samples.n))
            elif name != solver.name:
                values = SCHEMES[name].sharing(settings).weigh(samples).values
                entries.append(_Entry(name, name, tempered(values, 1.0)))
        except KdbiasError as error:
            skipped[name] = str(error)
    if solver.name in methods:
        entries += _at_floors(solver, samples, kernel, best, settings.floors)
    target = None
    if matched is not None:
        seen, aim = matched.seen(samples, kernel)
        shifted = Matching(seen, aim.mean, aim.constant)
        nearest = matched.solved(samples, shifted, None)
        entries += _at_floors(matched, samples, shifted, nearest, settings.floors)
        fields = seen.apply(np.stack([entry.masses for entry in entries], axis=1), exact=True)
        entries = [
            entry._replace(discrepancy=aim.discrepancy(entry.masses, field))
            for entry, field in zip(entries, fields.T, strict=True)
        ]
        target = {"towards": str(matched.towards), "noise": aim.noise}
    rows = _measured(samples, kernel, solver.bandwidth, entries, best)
    rows.sort(key=lambda row: -row["ess_share"])
    return pa.Table.from_pylist(rows, schema=_SCHEMA), skipped, target


def _at_floors(
    solver: Searching,
    samples: Samples,
    kernel: KernelMatrix,
    best: Solution,
    floors: Sequence[float] | None,
) -> Iterator[_Entry]:
    """The best at floors that rise, each the start of the next; up to the ESS of ``best`` none binds."""
    wanted = [0.0, *np.linspace(best.ess, 1, _FLOORS + 2)[1:-1]] if floors is None else floors
    start = best.p
    for floor in sorted({floor if floor > best.ess else 0.0 for floor in wanted}):
        found = solver.solved(samples, kernel, floor, start) if floor else best
        start = found.p
        name = f"{solver.name}, ESS >= {floor:.1%}" if floor else f"{solver.name}, no floor"
        yield _Entry(name, solver.name, samples.groups.collapse(found.p), floor, found.gap)


def _measured(
    samples: Samples, kernel: KernelMatrix, t: Bandwidth, entries: Sequence[_Entry], best: Solution
) -> list[dict[str, Any]]:
    """A row of numbers for each distribution over the distinct samples."""
    groups = samples.groups
    stacked = np.stack([groups.sizes / samples.n, *(entry.masses for entry in entries)], axis=1)
    # K p - p without the samples themselves: at large t they are most of the energy.
    others = kernel.apply(stacked, exact=True) - stacked
    codes, d = encode(samples.density.labels)[0], samples.vectors.shape[1]
    bandwidths, rows = [], []
    for masses, field in zip(stacked.T, others.T, strict=True):
        p = groups.spread(masses)
        between = float(masses @ field)
        copies = float(masses @ masses - p @ p)  # pairs of different copies of one sample
        bandwidths.append(bandwidth_entry(d, t, p, between + float(masses @ masses), between + copies))
    ends = [{"energy": best.energy, "gap": best.gap, "reason": None}]
    for entry, bandwidth in zip(entries, bandwidths[1:], strict=True):
        rectify([{"bandwidths": [bandwidth]}], bandwidths[:1], ends)
        numbers = summary(groups.spread(entry.masses) * samples.n, entry.masses, codes)
        found = numbers | bandwidth | entry._asdict() | {"t": t if isinstance(t, float) else None}
        rows.append({name: found[name] for name in _COLUMNS})
    return rows
