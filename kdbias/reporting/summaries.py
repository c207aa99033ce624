"""The report's tables: uniformity by scheme and bandwidth, what the students reached, what was read."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdbias.reporting.collect import Collection, Density, Evaluation, is_distilled
from kdbias.reporting.tables import NONE, Cell, Table, magnitude, number, percent, rectification
from kdbias.reporting.training_figures import Measure
from kdbias.reporting.uniformity_figures import Point

MEASURES = (
    Measure("centroid_balanced_accuracy", "balanced accuracy, nearest centroid (%)", True, percent=True),
    Measure("centroid_tail_accuracy", "tail accuracy, nearest centroid (%)", True, percent=True),
    Measure("knn_balanced_accuracy", "balanced accuracy, k nearest (%)", True, percent=True),
    Measure("distance", "embedding error (mean distance to the teacher)", False),
    Measure("cosine", "mean cosine to the teacher", True),
)
_LOWER = ("distance", "error", "eer", "fpir", "fnir", "loss")


def ess_share(scheme: Mapping[str, Any], n: int) -> float | None:
    """ESS / n of a scheme of uniformity.json, whichever of number or share it holds."""
    ess = scheme.get("ess")
    if isinstance(ess, Mapping):
        ess = ess.get("fraction", ess.get("share"))
    if ess is None:
        return None
    return float(ess) / n if ess > 1 else float(ess)


def points(density: Density) -> list[Point]:
    """Every scheme at every bandwidth, for the figures."""
    n = int(density.numbers["n"])
    return [
        Point(
            scheme["name"],
            float(b["t"]),
            ess_share(scheme, n) or 1.0,
            b["uniformity"],
            b["null"],
            b["effective_distinct"],
            b["distinct_ceiling"],
        )
        for scheme in density.numbers["schemes"]
        for b in scheme["bandwidths"]
    ]


def uniformity_table(density: Density) -> Table:
    """Rows: bandwidth, then scheme."""
    numbers = density.numbers
    n, d = int(numbers["n"]), numbers["d"]
    schemes = numbers["schemes"]
    rows: list[list[Cell]] = []
    for i, bandwidth in enumerate(schemes[0]["bandwidths"] if schemes else []):
        for scheme in schemes:
            b = scheme["bandwidths"][i]
            reason = str(b.get("rectification_reason") or "not computed")
            rows.append(
                [
                    Cell(f"{bandwidth['t']:g}", True),
                    Cell(scheme["name"]),
                    number(b["uniformity"]),
                    number(b["null"]),
                    number(b["excess"]),
                    magnitude(b["effective_distinct"]),
                    magnitude(b["distinct_ceiling"]),
                    percent(ess_share(scheme, n)),
                    rectification(b["rectification"], reason),
                    number(scheme.get("effective_identities"), 1),
                ]
            )
    search = numbers.get("search") or {}
    caption = (
        f"{n:,} samples in {d} dimensions. Lower uniformity = the draws spread more evenly over the "
        "sphere; excess is its distance to a perfectly uniform sphere (null). D says how many distinct "
        "samples the draws are worth at this t, ESS how many samples carry them, rectification how far "
        "from natural sampling (0 %) to the best re-weighting of this data (100 %) a scheme gets."
    )
    if search:
        recall = f", recall {search['recall']:g}" if search.get("recall") is not None else ""
        caption += f" Neighbours: {search.get('kind')} search, k = {search.get('k')}{recall}."
    return Table(f"Uniformity of {density.path.name}", caption, _UNIFORMITY_COLUMNS, rows, explain=True)


_UNIFORMITY_COLUMNS = (
    ("t", "kernel bandwidth: K = exp(-t |x - y|²); larger looks at closer neighbours"),
    ("scheme", "how samples are weighted"),
    ("U", "uniformity in nats, lower = more even (Wang & Isola, weighted)"),
    ("null", "U of a uniform sphere of this dimension"),
    ("excess", "U - null, in nats"),
    ("D", "effective number of distinct samples at this t"),
    ("ceiling", "largest D that any data of this dimension can have"),
    ("ESS", "Kish effective sample size, % of n"),
    ("rectified", "0 % = natural, 100 % = the best re-weighting of this data"),
    ("identities", "effective number of labels: exp(entropy of their share of the draws)"),
)


def metric_values(evaluation: Evaluation) -> dict[str, float]:
    """Metric -> value of an evaluation; undefined ones left out."""
    metrics = evaluation.metrics.get("metrics") or {}
    values = {name: e.get("value") if isinstance(e, Mapping) else e for name, e in metrics.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def values_by_scheme(
    evaluations: Sequence[Evaluation], order: Sequence[str] = ()
) -> dict[str, dict[str, list[float]]]:
    """Metric -> scheme -> one value a run; where two evaluations of a run have a metric, the first counts."""
    by_run: dict[str, dict[str, tuple[str, float]]] = {}
    for evaluation in evaluations:
        if evaluation.run is None:
            continue
        for name, value in metric_values(evaluation).items():
            by_run.setdefault(name, {}).setdefault(str(evaluation.run.path), (evaluation.run.scheme, value))
    found: dict[str, dict[str, list[float]]] = {}
    for name, runs in by_run.items():
        schemes = dict.fromkeys([*order, *(scheme for scheme, _ in runs.values())])
        by_scheme = {s: [value for scheme, value in runs.values() if scheme == s] for s in schemes}
        found[name] = {s: held for s, held in by_scheme.items() if held}
    return found


def shown_measures(values: Mapping[str, Any]) -> list[Measure]:
    """Which metrics to plot: the well-known ones that are there, else the first few."""
    known = [m for m in MEASURES if m.key in values]
    if known:
        return [m for m in known if m.key != "cosine" or "distance" not in values]  # one says the other
    return [
        Measure(name, name.replace("_", " "), not any(w in name for w in _LOWER)) for name in list(values)[:4]
    ]


def distilled_means(by_scheme: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Scheme -> mean over the runs that learnt from a teacher."""
    return {s: statistics.fmean(v) for s, v in by_scheme.items() if is_distilled(s)}


def best_of(means: Mapping[str, float], measure: Measure) -> list[str]:
    """The schemes of the best mean: several where they are equal but for rounding errors."""
    top = (max if measure.higher_is_better else min)(means.values(), default=math.nan)
    return [s for s, mean in means.items() if math.isclose(mean, top, rel_tol=1e-9)]


def students_table(values: Mapping[str, Mapping[str, Sequence[float]]]) -> Table | None:
    """Scheme by measure, mean +- standard deviation over runs, the best mean marked."""
    measures = shown_measures(values)
    schemes = list(dict.fromkeys(scheme for m in measures for scheme in values[m.key]))
    if not schemes:
        return None
    best = {}
    for m in measures:
        best[m.key] = best_of(distilled_means(values[m.key]), m)
    runs = {s: max(len(values[m.key].get(s, ())) for m in measures) for s in schemes}
    rows = [
        [
            Cell(s),
            Cell(str(runs[s]), True),
            *(spread(values[m.key].get(s, ()), m, s in best[m.key]) for m in measures),
        ]
        for s in schemes
    ]
    columns = [
        ("sampling", "the weight manifest that the student's training drew by"),
        ("runs", "number of students (seeds)"),
        *((m.label, "higher is better" if m.higher_is_better else "lower is better") for m in measures),
    ]
    caption = (
        "Mean over runs ± one standard deviation (ddof 1); bold = the best distilled mean of a column. A "
        "difference of less than about the spread is no evidence."
    )
    return Table("Students", caption, columns, rows)


def spread(values: Sequence[float], measure: Measure, best: bool = False) -> Cell:
    if not values:
        return Cell(NONE, True)
    factor, digits = (100, 1) if measure.percent else (1, 4)
    text = f"{factor * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {factor * statistics.stdev(values):.{digits}f}"
    return Cell(text, True, best)


@dataclass(frozen=True)
class Provenance:
    """One input of the report, for the section at the page's end."""

    path: str
    kind: str
    facts: Sequence[tuple[str, str]]
    config: str  # JSON, "" where none was recorded


def provenances(found: Collection) -> list[Provenance]:
    """Version, configuration, fingerprints and counts of everything that was read."""
    listed: list[tuple[Any, str, Mapping[str, Any], str]] = []
    listed += [(e.path, "embedding table", e.provenance, e.fingerprint) for e in found.embeddings]
    listed += [(d.path, "density", d.record, d.table.fingerprint) for d in found.densities]
    listed += [(f.path, "frontier", f.record, "") for f in found.frontiers]
    listed += [
        (s.path, f"weights, “{s.name}”", s.manifest.provenance, s.manifest.fingerprint) for s in found.schemes
    ]
    listed += [(r.path, f"training run, “{r.scheme}”", r.record, "") for r in found.runs]
    listed += [(e.path, "evaluation", e.record, "") for e in found.evaluations]
    edited = {scheme.path for scheme in found.schemes if scheme.edited}
    return [_provenance(str(path), kind, record, own, path in edited) for path, kind, record, own in listed]


def _provenance(
    path: str, kind: str, record: Mapping[str, Any], fingerprint: str, edited: bool
) -> Provenance:
    facts = [
        ("kdbias", str(record.get("version") or record.get("kdbias") or "not recorded (hand-made file)"))
    ]
    if edited:
        facts.append(("edited since", "what follows describes the file as kdbias wrote it"))
    for key in ("created", "started", "finished"):
        if record.get(key):
            facts.append((key, str(record[key])))
    if isinstance(record.get("seconds"), int | float):
        facts.append(("seconds", f"{record['seconds']:,.1f}"))
    for key, value in (record.get("counts") or {}).items():
        facts.append((f"count: {key}", f"{value:,}" if isinstance(value, int) else str(value)))
    if fingerprint:
        facts.append(("fingerprint", fingerprint))
    for role, value in (record.get("inputs") or {}).items():
        facts.append((f"input: {role}", str(value)))
    config = record.get("config")
    return Provenance(path, kind, facts, json.dumps(config, indent=2, ensure_ascii=False) if config else "")
