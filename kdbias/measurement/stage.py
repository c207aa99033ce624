"""Measure: how crowded each sample's neighbourhood is and how uniform the sampled data are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbias.device import process_device
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.engine.here import Here
from kdbias.engine.opening import Engine, open_engine
from kdbias.engine.ranks import open_run
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.blocks import PAIRS, Blocks
from kdbias.measurement.comparison import same_target
from kdbias.measurement.distribution import Sampling
from kdbias.measurement.files import UNIFORMITY, anew, read_uniformity
from kdbias.measurement.passes import SNAPSHOT, PassPlan
from kdbias.measurement.planned import plan_uniformity
from kdbias.measurement.session import STAGE, Session
from kdbias.measurement.settings import UniformitySettings
from kdbias.measurement.summary import summary_blocks
from kdbias.planning import Planned
from kdbias.sphere.workers import available_threads
from kdbias.tables.columns import refuse_own
from kdbias.tables.density_table import density_file, read_density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import Ids, align, shown
from kdbias.tables.provenance import inputs_in
from kdbias.tables.run_record import Run, finished_alike, read_record, stage_of
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.targets.opening import OpenTarget, open_target, unread
from kdbias.wording import counted, duration, human_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class UniformityResult(Result):
    """What `uniformity` measured and where it lies.

    Attributes:
        out: the output folder.
        document: the content of ``uniformity.json``.
        state: ``new`` (all measured now), ``extended`` (schemes or groups added), ``restated`` (log density
            by another estimator), ``finished`` (nothing to do), ``planned`` (the document is the plan of
            the pass) or ``partial`` (one of several processes did its share).
        verbose: whether all bandwidths are shown, and the numbers of natural sampling alone.
        planned: what it would take and write, where that alone was asked.
    """

    out: Path
    document: dict[str, Any]
    state: str
    verbose: bool = False
    planned: Planned | None = None

    @property
    def density_path(self) -> Path:
        """The density table."""
        return density_file(self.out)

    @property
    def uniformity_path(self) -> Path:
        """The document with what was measured."""
        return self.out / UNIFORMITY

    _between = "\n\n"

    def blocks(self) -> list[str | Table]:
        """The numbers: a row a scheme at the chosen bandwidth, or at all; one a scheme, then groups."""
        if self.planned is not None:
            lines = [*self.planned.lines(), f"  pass    {planned_line(self.document)}", "nothing was done"]
            return ["\n".join(lines)]
        if self.state == "partial":
            did = counted(self.document["units"], "unit")
            return [f"{self.out}: did {did}; process 0 writes the results"]
        return summary_blocks(self.document, self.verbose)

    def to_pandas(self) -> "pd.DataFrame":
        """The density table, a row a sample."""
        self.require_made()
        return read_density(self.out).to_pandas()

    def plot(self) -> "Figure":
        """How crowded it is around samples, and D of each scheme over bandwidths."""
        from kdbias.display import plots

        self.require_made()
        document = self.document
        lines = {
            scheme["name"]: ([b["t"] for b in known], [b["effective_distinct"] for b in known])
            for scheme in document["schemes"]
            if (known := sorted(scheme["bandwidths"], key=lambda b: float(b["t"])))
        }
        crowd = read_density(self.out).numbers("log_density")
        label = f"log density (t = {document['t_chosen']:g}); right = crowded"
        return plots.figure(
            plots.histogram(crowd, label, "How crowded it is around samples"),
            plots.across(lines, "effective_distinct", "t: larger looks at closer neighbours"),
        )


@takes_settings(UniformitySettings)
def uniformity(
    embeddings: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    verbose: bool = False,
    settings: UniformitySettings,
) -> UniformityResult:
    """Measure density and uniformity of an embedding table, as it is and as each manifest would sample it.

    Writes ``density.parquet`` (a row a sample), ``uniformity.json`` (an entry a scheme), ``schemes.parquet``
    (each scheme's weights and log densities) and, if asked for, ``neighbors.parquet`` into ``output``.
    Calling again with further ``weights``, ``group_by`` or a target (``towards``) adds them to what
    ``output`` holds and computes nothing else; ``overwrite`` starts over with those of the call alone.
    Another ``estimator`` is computed from what is stored. The quality of an approximate ``search`` is
    measured on samples computed exactly, and stored.

    Args:
        embeddings: folder of an embedding table.
        output: folder to write.
        overwrite: start over in a folder that holds another measurement.
        verbose: show all bandwidths in the summary; nothing else depends on it.

    Raises:
        KdbiasError: bad options, a k that the data cannot have, or weights that do not fit the data.
    """
    table = EmbeddingTable.open(embeddings)
    k = settings.neighbours(table.n)
    refuse_own(table.group_columns, table.path)
    groups = {name: table.column(name) for name in dict.fromkeys(settings.group_by)}
    added = _read_weights(settings.weights, table)
    out = Path(output)
    if not overwrite:
        _refuse_outdated(out, table)
    config, inputs = settings.record() | {"k": k}, {"embeddings": table.fingerprint}
    defaults = settings.defaults(config)
    memory = settings.memory if settings.search != "hnsw" else 0
    with open_engine(settings, settings.device, memory, (os.fspath(output),)) as engine:
        device = _device(settings, engine)
        threads = engine.unit_cpus or settings.threads or available_threads()
        blocks = Blocks(out / PAIRS, settings, engine, table.fingerprint, device, threads)
        aim = open_target(settings, table, load=unread) if settings.towards else None
        if settings.plan:
            how = PassPlan(replace(settings, threads=threads), device, out / SNAPSHOT)
            seconds = how.seconds(table.n, table.d) if how.where == "cpu" else None
            document = blocks.describe(table.n, table.d, k, 1 + len(added), seconds)
            done = (
                not overwrite
                and finished_alike(out, STAGE, config, inputs, defaults)
                and _holds(out, added, aim)
            )
            of = table.n, table.d, settings, device, output
            planned = Planned.finished("uniformity", output) if done else plan_uniformity(*of)
            return UniformityResult(out, document, "planned", planned=planned)
        with open_run(engine, out, STAGE, config, inputs, overwrite, defaults) as run:
            if engine.rank:
                return UniformityResult(run.out, {"units": _share(run, blocks)}, "partial")
            if run.state == "finished" and engine.world > 1:
                blocks = replace(blocks, engine=Here())
            plan = PassPlan(settings, device, run.out / SNAPSHOT, blocks)
            document, state = Session(table, run, groups, plan, aim).complete(added)
    return UniformityResult(run.out, document, state, verbose)


def _share(run: Run, blocks: Blocks) -> int:
    """Units that a process beside the first does; what is added, and a graph, are that one's alone."""
    alone = run.state == "finished" or blocks.settings.search == "hnsw"
    return 0 if alone else blocks.assist()


def _holds(out: Path, added: Sequence[Sampling], aim: OpenTarget | None) -> bool:
    """Whether a folder has measured these manifests and this target."""
    document = read_uniformity(out)
    known = {(scheme["name"], scheme["fingerprint"]) for scheme in document["schemes"]}
    same = aim is None or same_target(aim, document["target"])
    return same and {(sampling.name, sampling.fingerprint) for sampling in added} <= known


def planned_line(plan: dict[str, Any]) -> str:
    """What `Blocks.describe` gave, on one line."""
    sizes = [human_bytes(plan[name]) for name in ("bytes_read", "bytes_temporary")]
    line = (
        f"{counted(plan['samples'], 'sample')} in {counted(plan['blocks'], 'block')} of "
        f"{plan['block_rows']:,} -> {counted(plan['units'], 'unit')} in {counted(plan['waves'], 'wave')}, "
        f"{plan['slots']:,} at a time; {sizes[0]} read, up to {sizes[1]} of temporary files"
    )
    return line if plan["hours"] is None else f"{line}; about {duration(3600 * plan['hours'])}"


def _device(settings: UniformitySettings, engine: Engine) -> str:
    """The device to compute on; `auto` is the CPU for an estimate, units of Ray are where its workers are."""
    if settings.search != "exact" and settings.device == "auto":
        device = "cpu"
    elif engine.remote:
        device = "cuda:0" if settings.device.startswith("cuda") or settings.unit_gpus else "cpu"
    else:
        device = process_device(settings.device, engine.world)
    if device == "cpu" and settings.precision != "float32":
        raise KdbiasError(f"--precision {settings.precision} needs a CUDA device; on the CPU it is float32")
    return device


def _refuse_outdated(out: Path, table: EmbeddingTable) -> None:
    """Say how to measure anew where the table has grown since it was measured."""
    grown = table.provenance.get("grown")
    if grown is None or stage_of(out) != STAGE.name:
        return
    known = inputs_in(read_record(out)).get("embeddings")
    if known == table.fingerprint:
        return
    counts = ", ".join(f"{grown[what]:,} {what}" for what in ("added", "changed", "removed"))
    raise ConfigChangedError(
        f"{table.path} has grown since {out} was measured{f' ({counts})' if known == grown['from'] else ''}; "
        f"measure it anew: {anew(table.path, out)}"
    )


def _read_weights(weights: Sequence[str], table: EmbeddingTable) -> list[Sampling]:
    """The manifests as samplings in the table's order; each must hold exactly the table's samples."""
    samplings: dict[str, Sampling] = {}
    ids = table.id_parts()
    for path in weights:
        manifest = read_manifest(path)
        _refuse_some(manifest, table, ids)
        rows = align(ids, manifest.id_parts, f"embedding table {table.path}", f"weights {path}")
        if manifest.n != table.n:
            raise KdbiasError(
                f"weights {path} has {counted(manifest.n, 'sample')}, embedding table {table.path} has "
                f"{table.n:,}; they must hold the same samples"
            )
        name = Path(path).stem
        p = manifest.weights[rows]
        if name == "natural" and p.min() == p.max():
            continue  # it is measured anyway
        if name == "natural" or (name in samplings and samplings[name].fingerprint != manifest.fingerprint):
            raise KdbiasError(f"--weights {path}: another scheme is called {name!r} already; rename the file")
        samplings[name] = Sampling(name, p / p.sum(), str(Path(path)), manifest.fingerprint)
    return list(samplings.values())


def _refuse_some(manifest: WeightManifest, table: EmbeddingTable, ids: Ids) -> None:
    """Say how to measure a manifest from which rows were dropped: without them it is of other data."""
    if manifest.n >= table.n:
        return
    known = align(ids, manifest.id_parts, "", str(manifest.path), allow_missing=True)
    absent = np.flatnonzero(known < 0)
    if manifest.n + len(absent) == table.n:
        raise KdbiasError(
            f"weights {manifest.path} lacks {len(absent):,} of the {table.n:,} samples of embedding table "
            f"{table.path} ({shown(ids, absent)}); to measure it, keep all rows and give those that are "
            "not to be drawn the weight 0"
        )
