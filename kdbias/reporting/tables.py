"""The page's tables, by quantity: uniformity, frontiers, manifests, students, evaluations; what was read."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdbias.display.quantities import NONE, QUANTITIES, Quantity, decimals, write
from kdbias.display.table import Cell, Table
from kdbias.evaluation.settings import PROTOCOLS
from kdbias.reporting.outputs import Density, Evaluation, Frontier, Manifest, Outputs, is_distilled
from kdbias.tables.provenance import inputs_in, options_in
from kdbias.wording import counted

MEASURES = (
    *("centroid_balanced_accuracy", "centroid_tail_accuracy", "knn_balanced_accuracy"),
    *("distance", "cosine"),
)
_LOWER = frozenset[str]().union(*(protocol.lower_is_better for protocol in PROTOCOLS.values()))
_GROUPS = 40  # rows of a table by group
_METRICS = 8  # its columns
_ACROSS = 6  # lines up to which a group is a column and a metric a row

# metric -> scheme -> one value a run
Reached = Mapping[str, Mapping[str, Sequence[float]]]


def uniformity_rows(density: Density) -> list[dict[str, Any]]:
    """Every scheme at every bandwidth, by bandwidth: the numbers of both by their keys."""
    schemes = density.numbers["schemes"]
    return [
        {**scheme, "scheme": scheme["name"], **at}
        for bandwidths in zip(*(scheme["bandwidths"] for scheme in schemes), strict=True)
        for scheme, at in zip(schemes, bandwidths, strict=True)
    ]


def uniformity_table(density: Density) -> Table:
    """Rows: bandwidth, then scheme."""
    numbers, search = density.numbers, density.numbers["search"]
    recall = f", recall {search['recall']:g}" if search["recall"] is not None else ""
    other = "How even the draws are over the whole sphere, which the target does not ask for. "
    caption = (
        f"{other if numbers['target'] else ''}{counted(numbers['n'], 'sample')} in "
        f"{counted(numbers['d'], 'dimension')}. Lower uniformity = the "
        "draws spread more evenly over the sphere; excess is its distance to a perfectly uniform sphere "
        "(null). D says how many distinct samples the draws are worth at this t, ESS/n how many samples "
        "carry them, rectification how far from natural sampling (0 %) to the most even re-weighting of "
        f"this data (100 %) a scheme gets. Neighbours: {search['kind']} search, k = {search['k']}{recall}."
    )
    rows = [
        {**row, "rectification_reason": row["rectification_reason"] or "not computed"}
        for row in uniformity_rows(density)
    ]
    keys = (
        "t scheme uniformity null excess effective_distinct distinct_ceiling ess_share rectification "
        "effective_identities"
    )
    title = f"Uniformity of {density.path.name}"
    return Table.of(rows, keys, title=title, caption=caption, explain=True)


def frontier_table(frontier: Frontier) -> Table:
    """A row a scheme, by falling effective sample size."""
    caption = (
        f"What each scheme reaches and costs at t = {write('t', frontier.t)}, by falling effective sample "
        "size. The equilibria are the frontier: at their ESS no sampling of this data is less crowded."
    )
    skipped = frontier.record.get("skipped") or {}
    if skipped:
        caption += " Left out: " + "; ".join(f"{name} ({why})" for name, why in skipped.items()) + "."
    target = frontier.record.get("target")
    keys = (
        f"scheme ess_share {'discrepancy ' if target else ''}uniformity effective_distinct rectification "
        "max_weight zero_weights effective_identities"
    )
    if target:
        caption += f" MMD² is from {target['towards']}; noise: {write('discrepancy', target['noise'])}."
    title = f"Schemes of {frontier.path.name}"
    return Table.of(frontier.rows, keys, title=title, caption=caption, explain=True)


def unmeasured(found: Outputs) -> list[Manifest]:
    """Manifests of ``kdbias weights`` that no collected density has numbers of."""
    measured = {s["name"] for d in found.densities for s in d.numbers["schemes"]}
    return [m for m in found.manifests if m.name not in measured and m.provenance.get("numbers")]


def distinct(manifest: Manifest) -> dict[str, Any]:
    """t, and D of natural sampling and of the manifest, from the solver's energies.

    Empty for other methods, of what was matched to a target (its energies are discrepancies), and where the
    weights were edited since.
    """
    solver: dict[str, Any] = manifest.provenance.get("solver") or {}
    t = options_in(manifest.provenance).get("t")
    before, after = solver.get("energy_before"), solver.get("energy")
    if not t or not before or not after or manifest.edited or manifest.provenance.get("target"):
        return {}
    return {"t": t, "distinct_before": 1 / float(before), "distinct_after": 1 / float(after)}


def manifests_table(manifests: Sequence[Manifest]) -> Table | None:
    """A row a manifest."""
    if not manifests:
        return None
    rows = []
    for manifest in manifests:
        config = options_in(manifest.provenance)
        method = str(config.get("method", NONE)) + (", edited since" if manifest.edited else "")
        known = {"t": config.get("t") or None, **distinct(manifest)}
        rows.append({"scheme": manifest.name, "method": method, **manifest.numbers, **known})
    caption = (
        "D as kdbias weights recorded it, the rest from the weights in each file; kdbias uniformity "
        "--weights measures them at every bandwidth, beside natural sampling."
    )
    if any(manifest.edited for manifest in manifests):
        caption += " No D is recorded of a manifest that was edited since kdbias weights wrote it."
    keys = (
        "scheme method t distinct_before distinct_after ess_share max_weight zero_weights "
        "effective_identities"
    )
    return Table.of(rows, keys, title="Weight manifests", caption=caption, explain=True)


def values_by_scheme(evaluations: Sequence[Evaluation], order: Sequence[str] = ()) -> Reached:
    """Metric -> scheme -> one value a run; where two evaluations of a run have a metric, the first counts."""
    by_run: dict[str, dict[str, tuple[str, float]]] = {}
    for evaluation in evaluations:
        if evaluation.run is not None:
            for name, entry in evaluation.metrics["metrics"].items():
                if entry["value"] is not None:
                    held = (evaluation.run.scheme, float(entry["value"]))
                    by_run.setdefault(name, {}).setdefault(str(evaluation.run.path), held)
    found: dict[str, dict[str, list[float]]] = {}
    for name, runs in by_run.items():
        schemes = dict.fromkeys([*order, *(scheme for scheme, _ in runs.values())])
        by_scheme = {s: [value for scheme, value in runs.values() if scheme == s] for s in schemes}
        found[name] = {s: held for s, held in by_scheme.items() if held}
    return found


def shown_measures(names: Collection[str]) -> dict[str, Quantity]:
    """Which metrics to show: the well-known ones that are there, else the first few."""
    known = [name for name in MEASURES if name in names]
    if known:
        return {n: QUANTITIES[n] for n in known if n != "cosine" or "distance" not in names}  # one says both
    return {
        name: Quantity(
            name.replace("_", " "),
            form=decimals(4),
            better="lower" if name in _LOWER else "higher",
        )
        for name in list(names)[:4]
    }


def distilled_means(by_scheme: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Scheme -> mean over the runs that learnt from a teacher."""
    return {s: statistics.fmean(v) for s, v in by_scheme.items() if is_distilled(s)}


def best_of(means: Mapping[str, float], measure: Quantity) -> list[str]:
    """The schemes of the best mean: several where they are equal but for rounding errors."""
    top = (min if measure.better == "lower" else max)(means.values(), default=math.nan)
    return [s for s, mean in means.items() if math.isclose(mean, top, rel_tol=1e-9)]


def students_table(values: Reached) -> Table | None:
    """Scheme by measure, mean +- standard deviation over runs, the best mean marked."""
    measures = shown_measures(values)
    schemes = list(dict.fromkeys(scheme for name in measures for scheme in values[name]))
    if not schemes:
        return None
    best = {name: best_of(distilled_means(values[name]), m) for name, m in measures.items()}
    rows = []
    for s in schemes:
        reached = {name: values[name].get(s, ()) for name in measures}
        cells = [Cell(m.spread(reached[name]), True, s in best[name]) for name, m in measures.items()]
        rows.append([Cell(s), Cell(str(max(map(len, reached.values()))), True), *cells])
    columns = [
        ("sampling", "the weight manifest that the student's training drew by"),
        ("runs", "number of students (seeds)"),
        *((m.heading, f"{m.better} is better") for m in measures.values()),
    ]
    caption = (
        "Mean over runs ± one standard deviation (ddof 1); bold = the best distilled mean of a column. A "
        "difference of less than about the spread is no evidence."
    )
    return Table("Students", caption, columns, rows)


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Every evaluation with all its metrics and intervals."""
    rows = []
    for e in evaluations:
        about = {"evaluation": e.path.name, "judged": e.judged, "protocol": e.protocol}
        for name, entry in e.metrics["metrics"].items():
            known = entry.get("low") is not None and entry.get("high") is not None
            interval = Cell(f"{entry['low']:.4f} to {entry['high']:.4f}" if known else NONE, True)
            metric = name.replace("_", " ")
            rows.append({**about, "metric": metric, "value": entry["value"], "95 % interval": interval})
    if not rows:
        return None
    caption = (
        "Each metric with its percentile bootstrap interval over the judged units (a run or a table); the "
        "spread over training seeds is not in it."
    )
    return Table.of(rows, list(rows[0]), title="All evaluations", caption=caption)


def group_tables(evaluation: Evaluation) -> list[Table]:
    """A table a grouping column: a row a group with value and interval of each metric, then their spread."""
    document = evaluation.metrics
    tables = []
    for column, groups in document["groups"].items():
        metrics = list(dict.fromkeys(name for _, name, _ in _values(groups)))
        if not metrics:
            continue
        shown = metrics[:_METRICS]
        lines = [[column, "n", *(name.replace("_", " ") for name in shown)]]
        for value, group in list(groups.items())[:_GROUPS]:
            held = [_estimate(group["metrics"].get(name)) for name in shown]
            lines.append([str(value), write("n", group["n"]), *held])
        across = document.get("spread", {}).get(column)
        if across:
            lines.append(["gap", "", *(_gap(across.get(name)) for name in shown)])
        if len(lines) <= _ACROSS:  # few groups stand side by side
            lines = [list(line) for line in zip(*lines, strict=True)]
        caption = (
            f"Judged: {evaluation.judged}, protocol {evaluation.protocol}. Each value with its "
            "95 % bootstrap interval; gap = the best group's value less the worst one's."
            + _first(_GROUPS, groups, "groups")
            + _first(_METRICS, metrics, "metrics")
        )
        rows = [[Cell(line[0]), *(Cell(text, True) for text in line[1:])] for line in lines[1:]]
        heads = [(text, "") for text in lines[0]]
        tables.append(Table(f"{evaluation.path.name} by {column}", caption, heads, rows))
    return tables


def _first(count: int, of: Collection[Any], what: str) -> str:
    """Says that a table shows only the first of many; '' where it shows all."""
    return f" The first {count} of {len(of):,} {what}." if len(of) > count else ""


def _values(groups: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(group, metric, value) of one grouping column, undefined ones left out."""
    for group, held in groups.items():
        for name, entry in held["metrics"].items():
            if entry["value"] is not None:
                yield group, name, float(entry["value"])


def _estimate(entry: Mapping[str, Any] | None) -> str:
    """A value and its interval, as text."""
    if entry is None or entry["value"] is None:
        return NONE
    text = write("value", entry["value"])
    low, high = entry.get("low"), entry.get("high")
    return text if low is None or high is None else f"{text} [{low:.3f}, {high:.3f}]"


def _gap(entry: Mapping[str, Any] | None) -> str:
    """The largest gap between groups and the worst of them, as text."""
    if entry is None or entry["gap"] is None:
        return NONE
    worst = f" (worst: {entry['worst']})" if entry["worst"] is not None else ""
    return write("value", entry["gap"]) + worst


def students_by_group(evaluations: Sequence[Evaluation], order: Sequence[str]) -> list[Table]:
    """A table a grouping column: what the students of each scheme reached in each group."""
    tables = []
    for column in dict.fromkeys(column for e in evaluations for column in e.metrics["groups"]):
        values = _values_by_group(evaluations, column)
        measures = shown_measures(dict.fromkeys(name for held in values.values() for name in held))
        groups = list(dict.fromkeys(group for group, _ in values))
        if not measures:
            continue
        rows = []
        for group in groups[:_GROUPS]:
            for scheme in (s for s in order if any(s == held for _, held in values)):
                own = values.get((group, scheme), {})
                cells = (Cell(m.spread(own.get(name, ())), True) for name, m in measures.items())
                rows.append([Cell(group), Cell(scheme), *cells])
        heads = [(column, ""), ("sampling", ""), *((m.heading, "") for m in measures.values())]
        caption = "Mean over runs ± one standard deviation (ddof 1) in each group of the judged samples."
        caption += _first(_GROUPS, groups, "groups")
        tables.append(Table(f"Students by {column}", caption, heads, rows))
    return tables


def _values_by_group(
    evaluations: Sequence[Evaluation], column: str
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """(group, scheme) -> metric -> one value a run."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for e in evaluations:
        for group, name, value in _values(e.metrics["groups"].get(column, {})):
            if e.run is not None:
                values.setdefault((group, e.run.scheme), {}).setdefault(name, []).append(value)
    return values


@dataclass(frozen=True)
class Provenance:
    """One input of the report, for the section at the page's end."""

    path: str
    kind: str
    facts: Sequence[tuple[str, str]]
    config: str  # JSON, "" where none was recorded


def provenances(found: Outputs) -> list[Provenance]:
    """Version, configuration, fingerprints and counts of everything that was read."""
    listed = [
        *(_provenance(e.path, "embedding table", e.provenance, e.fingerprint) for e in found.embeddings),
        *(_provenance(d.path, "density", d.record, d.table.fingerprint) for d in found.densities),
        *(_provenance(f.path, "frontier", f.record) for f in found.frontiers),
    ]
    for m in found.manifests:
        told = _provenance(m.path, f"weights, “{m.name}”", m.provenance, m.file.fingerprint)
        edited = [("edited since", "what follows describes the file as kdbias wrote it")] * m.edited
        listed.append(replace(told, facts=[told.facts[0], *edited, *told.facts[1:]]))
    listed += [_provenance(r.path, f"training run, “{r.scheme}”", r.record) for r in found.runs]
    listed += [_provenance(e.path, "evaluation", e.record) for e in found.evaluations]
    return listed + [_provenance(study.path, "study", study.record) for study in found.studies]


def _provenance(path: object, kind: str, record: Mapping[str, Any], fingerprint: str = "") -> Provenance:
    """Where an output comes from, for the page."""
    made_by = record.get("version") or record.get("kdbias") or "not recorded (hand-made file)"
    facts = {"kdbias": made_by, **{key: record.get(key) for key in ("created", "started", "finished")}}
    if isinstance(record.get("seconds"), int | float):
        facts["seconds"] = f"{record['seconds']:,.1f}"
    for key, value in (record.get("counts") or {}).items():
        facts[f"count: {key}"] = f"{value:,}" if isinstance(value, int) else str(value)
    facts["fingerprint"] = fingerprint
    facts |= {f"input: {role}": str(value) for role, value in inputs_in(record).items()}
    config = record.get("config")
    shown = json.dumps(config, indent=2, ensure_ascii=False) if config else ""
    return Provenance(str(path), kind, [(key, str(value)) for key, value in facts.items() if value], shown)
