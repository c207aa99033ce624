"""From a density table to a weight manifest: how often each sample is to be drawn."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdbias import progress
from kdbias.display.quantities import write
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.functions import takes_settings
from kdbias.planning import Planned
from kdbias.sphere.blocks.folder import BlockFolder
from kdbias.sphere.equilibrium.block_jobs import JOBS
from kdbias.tables import fingerprints, provenance
from kdbias.tables.density_table import DensityTable, read_density
from kdbias.tables.listing import LISTING, head_of, in_parts, is_only_parts
from kdbias.tables.parquet_file import read_provenance
from kdbias.tables.run_files import claim, made_by
from kdbias.tables.run_record import refuse_changes
from kdbias.tables.weight_manifest import read_manifest, write_manifest
from kdbias.weighting.blocks import opened_ground
from kdbias.weighting.exclusion import Exclusion
from kdbias.weighting.making import make
from kdbias.weighting.planned import plan_weights
from kdbias.weighting.samples import EmbeddingSource
from kdbias.weighting.schemes.density import InverseDensity
from kdbias.weighting.schemes.matched import told
from kdbias.weighting.settings import WeightsSettings
from kdbias.wording import counted, visible, visible_lines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STAGE = "weights"


@dataclass(frozen=True, repr=False)
class WeightsResult(Result):
    """A weight manifest on disk and what it costs.

    Attributes:
        path: the manifest.
        method: the scheme.
        t: its bandwidth, a list where the kernels of several are averaged, None where it has none.
        n, distinct: samples, and those left when duplicates count once and what is left out not at all.
        excluded: samples that were left out.
        numbers: ess, ess_share, ess_distinct, max_weight, top_mass, zero_weights, effective_identities.
        solver: of the schemes that search: energies (of method matched: squared discrepancies), gap, lambda,
            iterations, how it ended; else None.
        target: of method matched: kind, size, noise, discrepancy_before and discrepancy (and unbiased), the
            share removed, the two-sample test, what bound the matching ("natural", "noise", "floor"), the
            shares of the reference's columns; else None.
        warnings: one line for each number past its line, and for each column that a reference differs in
            though the weights leave it so.
        state: "finished" where the file was there already and nothing was done, "planned" where it was only
            asked what it would take, "partial" of one of several processes, of which the first writes it.
        planned: that; nothing else is then known.
    """

    path: Path
    method: str
    t: float | list[float] | None
    n: int
    distinct: int
    excluded: int
    numbers: dict[str, Any]
    solver: dict[str, Any] | None
    target: dict[str, Any] | None
    facts: dict[str, Any]
    warnings: list[str]
    seconds: float
    state: Literal["new", "finished", "planned", "partial"]
    planned: Planned | None = None

    @classmethod
    def read(cls, path: Path, doc: dict[str, Any], state: Literal["new", "finished"]) -> "WeightsResult":
        """From the provenance of a manifest."""
        config, counts = doc["config"], doc["counts"]
        own = {name: doc[name] for name in ("numbers", "solver", "facts", "warnings", "seconds")}
        which = {"method": config["method"], "t": config["t"], "target": doc.get("target")}
        sizes = {
            "n": counts["samples"],
            "distinct": counts["distinct"],
            "excluded": counts.get("excluded", 0),
        }
        return cls(path=path, state=state, **sizes, **which, **own)

    def blocks(self) -> list[str | Table]:
        """The numbers, one a line; of a plan, the plan."""
        if self.planned is not None:
            return [visible_lines(self.planned.summary())]
        if self.state == "partial":
            return [f"{self.path}: did {counted(self.facts['units'], 'unit')}; process 0 writes the manifest"]
        scheme = self.method + (f" at t={write('t', self.t)}" if self.t is not None else "")
        repeats = self.n - self.excluded - self.distinct
        copies = f", {repeats:,} of them copies" if repeats else ""
        shown = {name: write(name, value) for name, value in self.numbers.items()}
        lines = [
            f"{self.path}: {scheme}, {counted(self.n, 'sample')}{copies}, mean weight 1",
            f"  effective samples     {shown['ess']} ({shown['ess_share']})",
            f"  largest weight        {shown['max_weight']}",
            f"  top 1 % of samples    {shown['top_mass']} of the draws",
            f"  never drawn           {shown['zero_weights']}",
        ]
        if self.numbers["effective_identities"] is not None:
            lines.append(f"  effective identities  {shown['effective_identities']}")
        lines += [f"  suspects              {line}" for line in self.facts.get("suspects", ())]
        lines += told(self.target, self.solver) if self.target is not None else []
        if self.solver is not None:
            lines += _solver_lines(self.solver, self.target is None, self.facts.get("penalty"))
        lines += [f"  warning: {line}" for line in self.warnings]
        return ["\n".join(map(visible, [*lines, *self._in_own_trainer()]))]

    def to_pandas(self) -> "pd.DataFrame":
        """The manifest, a row a sample; ``attrs["kdbias"]`` says what made it."""
        self.require_made()
        return read_manifest(self.path).to_pandas()

    def plot(self) -> "Figure":
        """How weights are spread, and what share of the draws the most drawn samples take."""
        self.require_made()
        return read_manifest(self.path).plot()

    def _in_own_trainer(self) -> list[str]:
        """The lines of a training loop that draw by the manifest."""
        return [
            "in your own trainer (kdbias train takes it with --weights):",
            "  from kdbias import ManifestSampler",
            "  ids = [path for path, _ in dataset.samples]  # ImageFolder; else ids or paths, in order",
            f"  sampler = ManifestSampler.from_manifest({str(self.path)!r}, ids)",
            "  loader = DataLoader(dataset, batch_size=256, sampler=sampler)",
        ]


def _solver_lines(solver: dict[str, Any], energies: bool, penalty: str | None) -> list[str]:
    """How near to the best the answer is, as lines, after its energies."""
    before, energy, gap = solver["energy_before"], solver["energy"], solver["gap"]
    gain = before - energy
    proof = "no certificate: the kernel is approximated"
    if gap is not None:
        share = f" ({gap / gain:.2%} of the gain)" if gain > 0 else ""
        best = "best possible" if penalty is None else "best of as much entropy"
        proof = f"at most {gap:.2g} above the {best}{share}"
    lines = []
    if energies:
        distinct = [write("effective_distinct", 1 / value) for value in (before, energy)]
        lines = [
            f"  energy                {before:.6g} -> {energy:.6g}",
            f"  effective distinct    {distinct[0]} -> {distinct[1]}",
        ]
    return [
        *lines,
        f"  certificate           {proof}; {solver['reason']}",
        f"  solver                {counted(solver['iterations'], 'iteration')} in {solver['seconds']:.1f} s, "
        f"lambda {solver['lambda']:.3g}",
    ]


@takes_settings(WeightsSettings)
def weights(
    density: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    plan: bool = False,
    settings: WeightsSettings,
) -> WeightsResult:
    """Write a weight manifest: one row a sample with its weight, the expected number of draws an epoch.

    Steps in order: scheme, duplicates collapsed, temper, clip, mix, ESS floor, mean 1. The equilibrium meets
    the floor and the cap within its problem, and both hold after the other steps, too; other schemes meet a
    floor, only when asked, by mixing in natural sampling.

    Args:
        density: the folder that ``uniformity`` wrote (or its density.parquet).
        output: the manifest to write, a .parquet file.
        overwrite: replace a manifest that was made differently.
        plan: say what it would take and write, and do nothing.

    Returns:
        What was written. The same call again does nothing.

    Raises:
        KdbiasError: bad options, labels or embeddings that the method needs but cannot get, or an existing
            manifest made differently (keys named).
    """
    began = time.time()
    table = read_density(density)
    asked, settings = settings, settings.decided(table)
    exclusion = Exclusion(table, settings)
    kept = table.only(np.flatnonzero(~exclusion.out)) if exclusion.out.any() else table
    source = EmbeddingSource(kept, settings.embeddings)
    made_from = _made_from(table, source, settings, exclusion)
    path, (config, inputs) = Path(output) if plan else claim(output), made_from.values()
    with opened_ground(settings, Path(f"{path}.pairs"), fingerprints.of_json([config, inputs])) as ground:
        if plan:
            done = not overwrite and _is_finished(path, table.n, made_from, asked.defaults(config))
            return _planned(kept, source, settings, path, ground, done)
        if ground is not None and ground.engine.rank:
            units = ground.assist(JOBS, lambda: _is_made(path, overwrite, began))
            return _assisted(kept, settings, path, units)
        source.ground = ground
        found = _finished(path, table.n, made_from, asked.defaults(config), overwrite)
        if found is not None:
            progress.say(f"{path} is finished already; nothing to do")
            return found
        made = make(table, kept, source, settings, exclusion)
        seconds = time.time() - began
        doc = provenance.document(STAGE, config, inputs, made.counts, seconds, **made.document)
        columns = {name: table.column_parts(name) for name in table.group_columns}
        beside = table.label_parts, columns, table.numbers("log_density")
        write_manifest(path, table.id_parts, *beside, made.values, doc, table.cut)
        if ground is not None:
            ground.clean()
    for line in doc["warnings"]:
        progress.say(f"warning: {line}")
    return WeightsResult.read(path, doc, "new")


def refuse_another(density: str, output: str, settings: WeightsSettings) -> None:
    """Refuse what `weights` would refuse of a manifest that is there, before anything is made for it.

    Raises:
        ConfigChangedError: it was made differently (keys named).
    """
    table = read_density(density)
    decided = settings.decided(table)
    source = EmbeddingSource(table, settings.embeddings)
    made_from = _made_from(table, source, decided, Exclusion(table, decided))
    _finished(Path(output), table.n, made_from, settings.defaults(made_from["config"]), False)


def _made_from(
    table: DensityTable, source: EmbeddingSource, settings: WeightsSettings, exclusion: Exclusion
) -> dict[str, dict[str, Any]]:
    """``config`` and ``inputs`` of a manifest."""
    inputs = {"density": table.fingerprint, **source.inputs, **settings.chosen.inputs(), **exclusion.inputs}
    return {"config": settings.record(), "inputs": inputs}


def _is_finished(path: Path, n: int, made_from: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """Whether the manifest is there, made like this."""
    try:
        return _finished(path, n, made_from, defaults, False) is not None
    except ConfigChangedError:
        return False


def _is_made(path: Path, overwrite: bool, began: float) -> bool:
    """Whether process 0 has written the manifest that others help to make since ``began``."""
    return path.exists() and (not overwrite or path.stat().st_mtime >= began)


def _planned(
    table: DensityTable,
    source: EmbeddingSource,
    settings: WeightsSettings,
    output: Path,
    ground: BlockFolder | None,
    done: bool,
) -> WeightsResult:
    """What the manifest would take; nothing where it is done."""
    found = _unmade(table, settings, output, state="planned", planned=Planned.finished(STAGE, output))
    if done:
        return found
    scheme, alone = settings.chosen, found.distinct == found.n or settings.collapse == "none"
    known = isinstance(scheme, InverseDensity) and scheme.is_measured(table, alone)
    planned = plan_weights(found.n, source.measured[0].d, settings, output, ground, known)
    return replace(found, planned=planned)


def _assisted(table: DensityTable, settings: WeightsSettings, output: Path, units: int) -> WeightsResult:
    """What one of several processes did, of which the first writes the manifest."""
    return _unmade(table, settings, output, state="partial", facts={"units": units})


def _unmade(table: DensityTable, settings: WeightsSettings, output: Path, **more: Any) -> WeightsResult:
    t, distinct = settings.record()["t"], int((table.first_equal == np.arange(table.n)).sum())
    own = {"path": output, "method": settings.method, "t": t, "n": table.n, "distinct": distinct}
    none: dict[str, Any] = {"numbers": {}, "solver": None, "target": None, "facts": {}, "warnings": []}
    return WeightsResult(**(own | none | {"excluded": 0, "seconds": 0.0} | more))


def _finished(
    path: Path, n: int, made_from: dict[str, Any], defaults: dict[str, Any], overwrite: bool
) -> WeightsResult | None:
    """The manifest of n samples that is there already, if it was made like this; None to make it."""
    if path.is_dir() and not (in_parts(n) and is_only_parts(path)):
        raise KdbiasError(
            f"{path} is a folder; a weight manifest of {counted(n, 'sample')} is "
            f"{'a folder of parts alone' if in_parts(n) else 'one .parquet file'}: choose another -o"
        )
    if path.suffix != ".parquet" and (not in_parts(n) or path.suffix):
        raise KdbiasError(f"{path} would be a Parquet file; name it {path.with_suffix('.parquet')}")
    if not path.exists() or not head_of(path).is_file():
        return None
    if not made_by(path, STAGE):
        raise KdbiasError(f"{path} exists and is no manifest that kdbias weights wrote; choose another -o")
    if overwrite or (path.is_dir() and not (path / LISTING).exists()):  # begun, and killed
        return None
    doc = read_provenance(head_of(path))
    assert doc is not None
    refuse_changes(path, doc, made_from, defaults)
    return WeightsResult.read(path, doc | made_from, "finished")
