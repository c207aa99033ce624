"""What is written at the end of every call: results.parquet, study.json, results.md and plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbias.studies.plan import Plan
from kdbias.studies.results import collect, write_results
from kdbias.studies.tuning import end_of_range
from kdbias.tables.documents import write_json
from kdbias.tables.files import atomic_path


def conclude(plan: Plan, failed: dict[str, str], description: str) -> tuple[dict[str, Any], list[str]]:
    """Write the conclusions from every finished run of the description; returns study.json and a summary."""
    named, unnamed = plan.runs(plan.cases.values())
    rows, diverged = collect(named)
    rates = {case.prepared.data.name: plan.rates(case) for case in plan.cases.values()}
    tuned = {f"{data} {arm}": e for data, arms in rates.items() for arm, e in (arms or {}).items()}
    failed = {**failed, **diverged, **_without_rate(tuned)}
    document: dict[str, Any] = {
        "name": plan.study.name,
        "command": f"kdbias study {description} -o {plan.out}",
        "planned": len(named) + unnamed,
        "finished": len(rows),
        "missing": len(named) + unnamed - len(rows),
        "failed": failed,
        "learning_rates": rates,
    }
    lines = [f"{plan.out}: {len(rows):,} of {document['planned']:,} runs are finished"]
    lines += [f"failed: {label}: {error}" for label, error in failed.items()]
    lines += _at_an_end(tuned)
    if rows:
        from kdbias.studies.figures import write_plots
        from kdbias.studies.text import results_text

        lines.append(f"every number: {write_results(plan.out, rows, document)}")
        text = results_text(plan.study, rows, document)
        with atomic_path(plan.out / "results.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        plots = write_plots(plan.study, rows, plan.out / "plots")
        lines += [f"tables: {plan.out / 'results.md'}", f"plots: {', '.join(map(str, plots))}"]
    write_json(plan.out / "study.json", document)
    return document, lines


def _without_rate(tuned: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {
        label: f"every learning rate diverged ({', '.join(entry['tried'])}); give smaller ones too"
        for label, entry in tuned.items()
        if entry["lr"] is None
    }


def _at_an_end(tuned: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"warning: {label}: the {end} of the learning rates tried ({', '.join(entry['tried'])}) was best; "
        "a better one may lie beyond it"
        for label, entry in tuned.items()
        if (end := end_of_range(entry)) is not None
    ]
