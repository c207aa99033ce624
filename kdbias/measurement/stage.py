"""Measure: how crowded each sample's neighbourhood is and how uniform the sampled data are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from kdbias.device import process_device
from kdbias.display.quantities import NONE, write
from kdbias.display.result import Result, text_of
from kdbias.display.table import Table
from kdbias.engine.here import Here
from kdbias.engine.opening import Engine, open_engine
from kdbias.engine.ranks import open_run
from kdbias.errors import ConfigChangedError, KdbiasError
from kdbias.functions import takes_settings
from kdbias.measurement.blocks import PAIRS, Blocks
from kdbias.measurement.distribution import Sampling
from kdbias.measurement.files import UNIFORMITY, anew
from kdbias.measurement.passes import SNAPSHOT, PassPlan, duration
from kdbias.measurement.session import STAGE, Session
from kdbias.measurement.settings import UniformitySettings
from kdbias.measurement.suspects import suspect_lines
from kdbias.measurement.target_summary import target_summary
from kdbias.sphere.workers import available_threads
from kdbias.tables.columns import refuse_own
from kdbias.tables.density_table import DENSITY, read_density
from kdbias.tables.embedding_table import EmbeddingTable
from kdbias.tables.joins import align, shown
from kdbias.tables.run_record import read_record, stage_of
from kdbias.tables.weight_manifest import WeightManifest, read_manifest
from kdbias.targets.opening import open_target
from kdbias.wording import counted, human_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DEFAULT_K = 64
_BANDWIDTH = "scheme t uniformity null excess effective_distinct distinct_ceiling rectification ess_share"
_SCHEME = "scheme ess ess_share effective_identities easy hard top_mass max_weight vendi_score koleo_entropy"


@dataclass(frozen=True, repr=False)
class UniformityResult(Result):
    """What `uniformity` measured and where it lies.

    Attributes:
        out: the output folder.
        document: the content of ``uniformity.json``.
        state: ``new`` (all measured now), ``extended`` (schemes or groups added), ``restated`` (log density
            by another estimator), ``finished`` (nothing to do), ``planned`` (the document is the plan) or
            ``partial`` (one of several processes did its share).
    """

    out: Path
    document: dict[str, Any]
    state: str

    @property
    def density_path(self) -> Path:
        """The density table."""
        return self.out / DENSITY

    @property
    def uniformity_path(self) -> Path:
        """The document with what was measured."""
        return self.out / UNIFORMITY

    _between = "\n\n"

    def blocks(self) -> list[str | Table]:
        """The numbers: a row a scheme and bandwidth, one a scheme, then groups."""
        if self.state == "planned":
            return [planned_line(self.document)]
        if self.state == "partial":
            did = counted(self.document["units"], "unit")
            return [f"{self.out}: did {did}; process 0 writes the results"]
        return summary_blocks(self.document)

    def to_pandas(self) -> "pd.DataFrame":
        """The density table, a row a sample."""
        return read_density(self.out).to_pandas()

    def plot(self) -> "Figure":
        """How crowded it is around samples, and D of each scheme over bandwidths."""
        from kdbias.display import plots

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

    Raises:
        KdbiasError: bad options, a k that the data cannot have, or weights that do not fit the data.
    """
    table = EmbeddingTable.open(embeddings)
    k = min(DEFAULT_K, table.n - 1) if settings.k is None else settings.k
    if k >= table.n:
        raise KdbiasError(
            f"--k {k} neighbours of {table.n:,} samples do not exist; choose 1 <= k <= {table.n - 1:,}"
        )
    refuse_own(table.group_columns, table.path)
    groups = {name: table.column(name) for name in dict.fromkeys(settings.group_by)}
    added = _read_weights(settings.weights, table)
    if not overwrite:
        _refuse_outdated(Path(output), table)
    config, inputs = settings.record() | {"k": k}, {"embeddings": table.fingerprint}
    memory = settings.memory if settings.search == "exact" else 0
    with open_engine(settings, settings.device, memory) as engine:
        device = _device(settings, engine)
        threads = (settings.unit_cpus or 1) if engine.remote else settings.threads or available_threads()
        blocks = Blocks(Path(output) / PAIRS, settings, engine, table.fingerprint, device, threads)
        if settings.plan:
            plan = blocks.describe(table.n, table.d, k, 1 + len(added))
            return UniformityResult(Path(output), plan, "planned")
        aim = open_target(settings, table) if settings.towards else None
        given = (engine, Path(output), STAGE, config, inputs, overwrite, settings.defaults(config))
        with open_run(*given) as run:
            if engine.rank:
                alone = run.state == "finished" or settings.search != "exact"  # then process 0 is
                units = 0 if alone else blocks.assist()
                return UniformityResult(run.out, {"units": units}, "partial")
            if run.state == "finished" and engine.world > 1:
                blocks = replace(blocks, engine=Here())
            session = Session(table, run, groups, PassPlan(settings, device, run.out / SNAPSHOT, blocks), aim)
            document, state = (session.extend if run.state == "finished" else session.measure)(added)
    return UniformityResult(run.out, document, state)


def planned_line(plan: dict[str, Any]) -> str:
    """What `Blocks.describe` gave, on one line."""
    sizes = [human_bytes(plan[name]) for name in ("bytes_read", "bytes_temporary")]
    line = (
        f"plan: {counted(plan['samples'], 'sample')} in {counted(plan['blocks'], 'block')} of "
        f"{plan['block_rows']:,} -> {counted(plan['units'], 'unit')} in {counted(plan['waves'], 'wave')}, "
        f"{plan['slots']:,} at a time; {sizes[0]} read, up to {sizes[1]} of temporary files"
    )
    return line if plan["hours"] is None else f"{line}; about {duration(3600 * plan['hours'])}"


def _device(settings: UniformitySettings, engine: Engine) -> str:
    """The device to compute on; approximate searches run on the CPU, units of Ray where its workers are."""
    on_cpu = settings.search != "exact" and settings.device == "auto"
    if engine.remote:
        device = "cuda:0" if settings.device.startswith("cuda") or settings.unit_gpus else "cpu"
    else:
        device = process_device("cpu" if on_cpu else settings.device, engine.world)
    if device == "cpu" and settings.precision != "float32":
        raise KdbiasError(f"--precision {settings.precision} needs a CUDA device; on the CPU it is float32")
    return device


def _refuse_outdated(out: Path, table: EmbeddingTable) -> None:
    """Say how to measure anew where the table has grown since it was measured."""
    grown = table.provenance.get("grown")
    if grown is None or stage_of(out) != STAGE.name:
        return
    known = (read_record(out).get("inputs") or {}).get("embeddings")
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
    ids = table.ids() if weights else pa.array([], pa.large_string())
    for path in weights:
        manifest = read_manifest(path)
        _refuse_some(manifest, table, ids)
        rows = align(ids, manifest.ids, f"embedding table {table.path}", f"weights {path}")
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


def _refuse_some(manifest: WeightManifest, table: EmbeddingTable, ids: pa.Array) -> None:
    """Say how to measure a manifest from which rows were dropped: without them it is of other data."""
    absent = ids.filter(pc.invert(pc.is_in(ids, value_set=manifest.ids)))
    if len(absent) and manifest.n + len(absent) == table.n:
        raise KdbiasError(
            f"weights {manifest.path} lacks {len(absent):,} of the {table.n:,} samples of embedding table "
            f"{table.path} ({shown(absent)}); to measure it, keep all rows and give those that are not to be "
            "drawn the weight 0"
        )


def summary_table(document: dict[str, Any]) -> str:
    """`summary_blocks` as text."""
    return text_of(summary_blocks(document), "\n\n")


def summary_blocks(document: dict[str, Any]) -> list[str | Table]:
    """The numbers of a measurement: a row for each scheme and bandwidth, then one a scheme, then groups.

    Args:
        document: the content of ``uniformity.json``.
    """
    schemes = document["schemes"]
    rows = [_bandwidth_row(s, b) for s in schemes for b in s["bandwidths"]]
    of_schemes = [s | (s["hardness"] or {}) | {"scheme": s["name"]} for s in schemes]
    parts: list[str | Table] = [
        _heading(document),
        *suspect_lines(document),
        *(part for part in target_summary(document) if part),
        *([_search_line(document["search"])] if "probes" in document["search"] else []),
        Table.of(rows, _BANDWIDTH),
        *_best_lines(document),
        Table.of(of_schemes, _SCHEME),
    ]
    parts += [_group_table(schemes, name) for name in schemes[0]["groups"]]
    reasons = {
        b["rectification_reason"]: b["t"]
        for s in schemes
        for b in s["bandwidths"]
        if b["rectification"] is None and b["rectification_reason"]
    }
    parts += [f"rectified {NONE} (t={t:g}): {reason}" for reason, t in reasons.items()]
    parts.append(
        "U: uniformity in nats, lower = more even; excess: above a uniform sphere; D: distinct samples that "
        "the draws are worth at this t\n"
        "U leaves out pairs of a sample with itself, D and rectified count them: few samples drawn very "
        "often can be lower in U and yet worth less in D"
    )
    return parts


def _heading(document: dict[str, Any]) -> str:
    """The lines above the tables: samples, search, duplicates and bandwidth."""
    search, duplicates = document["search"], document["duplicates"]
    recall = NONE if search["recall"] is None else f"{search['recall']:.4g}"
    copies = counted(duplicates["exact_duplicates"], "exact duplicate")
    return (
        f"{counted(document['n'], 'sample')} x {counted(document['d'], 'dimension')}; "
        f"{search['kind']} search, k={search['k']}, recall {recall}; {copies}, "
        f"{duplicates['near_duplicates']:,} with a near one; log density at t={document['t_chosen']:g}"
    )


def _best_lines(document: dict[str, Any]) -> list[str]:
    """What the best re-weighting reaches, where it was searched."""
    reached = [
        f"{write('effective_distinct', 1 / best['energy'])} of {document['n']:,} (t={write('t', best['t'])})"
        for best in document["best"]
        if best["energy"] is not None
    ]
    return [f"at best D = {', '.join(reached)}"] if reached else []


def _search_line(search: dict[str, Any]) -> str:
    """What an estimate is worth, where the pass was not exact."""
    worst = max(error for row in search["rms_relative_error"] for error in row)
    ranks = min(search["spearman"][0])  # of natural sampling: an equilibrium's potentials are all equal
    return (
        f"estimated: {search['probes']} of {search['cells']:,} cells a sample and {search['landmarks']:,} "
        f"landmarks; against {counted(search['queries'], 'sample')} computed exactly, potentials are off by "
        f"{worst:.2g} (root mean square, worst scheme and bandwidth), the rank correlation of natural "
        f"sampling's is at least {ranks:.4f}"
    )


def _bandwidth_row(scheme: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """A scheme's row at one bandwidth, its uniformity with the standard error."""
    row = entry | {"scheme": scheme["name"], "ess_share": scheme["ess_share"]}
    if entry["standard_error"] is not None:
        row["uniformity"] = f"{write('uniformity', entry['uniformity'])} +- {entry['standard_error']:.2g}"
    return row


def _group_table(schemes: Sequence[dict[str, Any]], name: str) -> Table:
    """A row a value: its share of the samples, then each scheme's share of the draws and mean log density."""
    rows, keys, headings = schemes[0]["groups"][name], ["value", "count", "share"], {"value": name}
    seen = [] if schemes[0]["discrepancy"] is None else [("witness", "witness")]
    for scheme in schemes:
        cells = {row["value"]: row for row in scheme["groups"][name]}
        for key, heading in (("mass", f"{scheme['name']} mass"), ("log_density", "log density"), *seen):
            own = f"{scheme['name']} {key}"
            keys.append(own)
            headings[own] = heading
            rows = [row | {own: write(key, cells[row["value"]][key])} for row in rows]
    rows = [row | {"value": row["value"] or "(none)"} for row in rows]
    return Table.of(rows, keys, headings=headings).cut("uniformity.json has them all")
