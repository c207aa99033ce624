"""From the finished runs of a study to one tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdbias.studies.cases import measures
from kdbias.studies.runs import RunPlan, read_result
from kdbias.tables import provenance
from kdbias.tables.parquet_file import write_table

RESULTS = "results.parquet"


@dataclass(frozen=True)
class Row:
    """One student as a whole: where it stands in the study, its manifest's measures and its metrics."""

    round: str
    dataset: str
    bias: str
    arm: str
    seed: int
    scratch: bool
    facts: dict[str, Any]
    metrics: dict[str, float]
    lower_is_better: dict[str, bool]

    @property
    def case(self) -> str:
        return f"{self.dataset}/{self.bias}"


def collect(plan: Sequence[tuple[str, RunPlan]]) -> tuple[list[Row], dict[str, str]]:
    """The finished runs, in the plan's order, and why others diverged, by label.

    Paths in the commands start at the study's folder.
    """
    rows, diverged = [], {}
    for round_, run in plan:
        if not run.result.exists():
            continue
        result = read_result(run.result)
        if "diverged" in result:
            diverged[run.label] = result["diverged"]
            continue
        root = f"{run.out}/"
        options = run.options
        facts = {
            **measures(run.case, run.arm),
            "draw": run.case.key,
            "method": run.arm.manifest["method"],
            "min_ess": run.arm.manifest.get("min_ess"),
            "sampling": options.get("sampling", "systematic"),
            "loss": options["loss"],
            "student": options.get("student", "convnet"),
            "batch_size": options["batch_size"],
            "lr": result["lr"],
            "steps": result["steps"],
            "epochs": result["epochs"],
            "unique_fraction": result["unique_fraction"],
            "train_loss": result["loss"],
            "train_seconds": result["train_seconds"],
            "seconds": result["seconds"],
            "run": str(run.folder.relative_to(run.out)),
            "command": run.steps()[0].command().replace(root, ""),
        }
        entries = result["metrics"]
        rows.append(
            Row(
                round=round_,
                dataset=run.case.prepared.data.name,
                bias=run.case.bias.name,
                arm=run.arm.name,
                seed=run.seed,
                scratch=run.arm.scratch,
                facts=facts,
                metrics={name: entry["value"] for name, entry in entries.items()},
                lower_is_better={name: entry["lower_is_better"] for name, entry in entries.items()},
            )
        )
    return rows, diverged


def write_results(out: Path, rows: Iterable[Row], document: dict[str, Any]) -> Path:
    """``results.parquet``: one row for each round, data set, bias, arm, seed and metric."""
    flat = [
        {
            "round": row.round,
            "dataset": row.dataset,
            "bias": row.bias,
            "arm": row.arm,
            "scratch": row.scratch,
            "seed": row.seed,
            "metric": metric,
            "value": float(value),
            "lower_is_better": row.lower_is_better[metric],
            **row.facts,
        }
        for row in rows
        for metric, value in row.metrics.items()
    ]
    table = pa.Table.from_pylist(flat)
    doc = provenance.document("study", document, {}, {"rows": len(flat)}, 0.0)
    write_table(out / RESULTS, table, doc)
    return out / RESULTS
