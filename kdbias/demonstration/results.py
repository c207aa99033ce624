"""The demo's numbers, read back from the files that its stages left."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbias.display.quantities import QUANTITIES
from kdbias.display.table import Table
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
_SHOWN = (*MEASURES[1:3], *MEASURES[4:6], "ess_share", "rectification")
_STUDENTS = {
    "balanced_accuracy": "balanced acc.",
    "tail_accuracy": "tail acc.",
    "embedding_error": "emb. error",
}


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
                "rectification_reason": at["rectification_reason"],
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
    """The demo's metrics of one evaluation; None for one without a value."""
    found = read_metrics(folder)["metrics"]
    return {name: found.get(metric, {}).get("value") for name, metric in METRICS.items()}


def _mean_and_spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, standard deviation, min and max of the known values."""
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
    t, seeds, entries = document["t"], document["seeds"], document["schemes"]
    rows = [
        {**entry, **_reached([s for s in document["students"] if s["scheme"] == entry["scheme"]])}
        for entry in entries
    ]
    best = {"scheme": "(the teacher)", **_reached([document["teacher"]]), "embedding_error": "0"}
    table = Table.of(
        [*rows, dict.fromkeys(_SHOWN, "") | best],
        ("scheme", *_SHOWN, *_STUDENTS),
        headings={"scheme": "sampling", **_STUDENTS},
    )
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread"
    reasons = {e["rectification_reason"] for e in entries if e["rectification"] is None} - {None}
    lines = [
        table.text(),
        "",
        f"t = {t:g} (chosen from the data), {document['samples']:,} samples in {document['dimension']} "
        f"dimensions; students: {spread}",
        *(f"{QUANTITIES[key].heading}: {QUANTITIES[key].meaning}" for key in _SHOWN),
        "U leaves out pairs of a sample with itself, which D counts",
        "acc.: % of balanced test digits, by the teacher's nearest class centroid; tail: rarest classes",
        "emb. error: mean distance to the teacher's embedding of the same test digit",
        *(f"rectified n/a: {reason}" for reason in sorted(reasons)),
        "",
        "From these files:",
        *(f"  {what}: {where}" for what, where in document["sources"].items()),
    ]
    return "\n".join(lines)


def _reached(students: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What students reached on average, and its spread."""
    return {
        name: QUANTITIES[METRICS[name]].spread([s[name] for s in students if s[name] is not None])
        for name in _STUDENTS
    }
