"""The demo's numbers, read back from the files that its stages left."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbias.display.quantities import write
from kdbias.display.table import aligned
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.measurement.files import read_uniformity
from kdbias.tables.documents import write_json

METRICS = {
    "accuracy": "centroid_accuracy",
    "balanced_accuracy": "centroid_balanced_accuracy",
    "tail_accuracy": "centroid_tail_accuracy",
    "knn_balanced_accuracy": "knn_balanced_accuracy",
    "embedding_error": "distance",
}
"""Column of results.parquet -> metric of the evaluations' metrics.json."""
MEASURES = ("t", "uniformity", "null", "excess", "effective_distinct", "distinct_ceiling", "rectification")
_SPREAD = ("balanced_accuracy", "tail_accuracy", "embedding_error")
_COLUMNS = (
    "sampling",
    "U",
    "null",
    "D",
    "ceiling",
    "ESS",
    "rectified",
    "balanced acc.",
    "tail acc.",
    "emb. error",
)


def collect_results(out: Path, schemes: Sequence[str], seeds: int) -> dict[str, Any]:
    """Everything of the final table, from ``density/uniformity.json`` and ``evaluations/*/metrics.json``.

    Returns:
        ``t``, ``null``, ``distinct_ceiling``, ``samples``; ``schemes``: one entry each with its measures and
        mean and standard deviation (ddof 1, null for one seed) of its students; ``students``: one row each;
        ``teacher``: its own metrics.
    """
    numbers = read_uniformity(out / "density")
    measured = {entry["name"]: entry for entry in numbers["schemes"]}
    students: list[dict[str, Any]] = [
        {"scheme": scheme, "seed": seed, **_metrics(out / "evaluations" / f"{scheme}-{seed}")}
        for scheme in schemes
        for seed in range(seeds)
    ]
    entries = []
    for scheme in schemes:
        if scheme not in measured:
            raise KdbiasError(f"{out / 'density'} holds no scheme {scheme!r}; run the demo with --overwrite")
        at = next(b for b in measured[scheme]["bandwidths"] if b["t"] == numbers["t_chosen"])
        own = [row for row in students if row["scheme"] == scheme]
        entries.append(
            {
                "scheme": scheme,
                **{name: at[name] for name in MEASURES},
                "rectification_reason": at.get("rectification_reason"),
                "ess": measured[scheme]["ess"],
                "ess_share": measured[scheme]["ess"] / numbers["n"],
                "students": {name: _mean_and_spread([row[name] for row in own]) for name in METRICS},
            }
        )
    return {
        "samples": numbers["n"],
        "dimension": numbers["d"],
        "t": numbers["t_chosen"],
        "null": entries[0]["null"],
        "distinct_ceiling": entries[0]["distinct_ceiling"],
        "seeds": seeds,
        "teacher": _metrics(out / "evaluations" / "teacher"),
        "schemes": entries,
        "students": students,
        "sources": {
            "uniformity, D, ESS, rectification": str(out / "density" / "uniformity.json"),
            "teacher": str(out / "evaluations" / "teacher" / "metrics.json"),
            "students": str(out / "evaluations" / "SCHEME-SEED" / "metrics.json"),
        },
    }


def _metrics(folder: Path) -> dict[str, float | None]:
    found = read_metrics(folder)["metrics"]
    return {name: found.get(metric, {}).get("value") for name, metric in METRICS.items()}


def _mean_and_spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [v for v in values if v is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "min": min(known, default=None),
        "max": max(known, default=None),
    }


def write_results(out: Path, document: Mapping[str, Any]) -> None:
    """``results.json`` (everything) and ``results.parquet`` (a row a student, with its scheme's measures)."""
    import pyarrow as pa

    from kdbias.tables import provenance
    from kdbias.tables.parquet_file import write_table

    measures = {
        entry["scheme"]: {name: entry[name] for name in (*MEASURES, "ess", "ess_share")}
        for entry in document["schemes"]
    }
    rows = [{**student, **measures[student["scheme"]]} for student in document["students"]]
    counts = {"students": len(rows), "seeds": document["seeds"]}
    doc = provenance.document("demo", {}, {}, counts, 0.0, sources=document["sources"])
    write_table(out / "results.parquet", pa.Table.from_pylist(rows), doc)
    write_json(out / "results.json", document)


def results_text(document: Mapping[str, Any]) -> str:
    """The final table and how to read it."""
    rows = [
        [
            entry["scheme"],
            _number(entry["uniformity"], 3),
            _number(entry["null"], 3),
            _number(entry["effective_distinct"], 1),
            _large(entry["distinct_ceiling"]),
            _percent(entry["ess_share"]),
            write("rectification", entry["rectification"]),
            *(_spread(entry["students"][name], name) for name in _SPREAD),
        ]
        for entry in document["schemes"]
    ]
    teacher = document["teacher"]
    rows.append(
        [
            "(the teacher)",
            *[""] * 6,
            _percent(teacher["balanced_accuracy"]),
            _percent(teacher["tail_accuracy"]),
            "0",
        ]
    )
    t, seeds = document["t"], document["seeds"]
    reasons = {e["rectification_reason"] for e in document["schemes"] if e["rectification"] is None}
    spread = f"mean +- standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread"
    return "\n".join(
        [
            aligned(_COLUMNS, rows),
            "",
            f"t = {t:g} (chosen from the data), {document['samples']:,} samples in {document['dimension']} "
            f"dimensions; students: {spread}",
            "U: uniformity in nats, lower = more even, without pairs of a sample with itself, which D counts",
            "null: that of a uniform sphere of this dimension",
            "D: distinct samples that the draws are worth at this t; no such data can exceed the ceiling",
            "acc.: % of balanced test digits, by the teacher's nearest class centroid; tail: rarest classes",
            "ESS: effective sample size; rectified: 0 % = natural sampling, 100 % = the best re-weighting",
            "emb. error: mean distance to the teacher's embedding of the same test digit",
            *(f"rectified n/a: {reason}" for reason in sorted(filter(None, reasons))),
            "",
            "From these files:",
            *(f"  {what}: {where}" for what, where in document["sources"].items()),
        ]
    )


def _number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}"


def _large(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:,.1f}" if value < 1e6 else f"{value:.1e}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _spread(found: Mapping[str, float | None], name: str) -> str:
    factor, digits = (1, 3) if name == "embedding_error" else (100, 1)
    if found["mean"] is None:
        return "n/a"
    text = f"{factor * found['mean']:.{digits}f}"
    return text if found["std"] is None else f"{text} +- {factor * found['std']:.{digits}f}"
