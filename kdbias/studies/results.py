"""The finished runs as rows, and their files: results.parquet, and in study.json what the study is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kdbias.errors import KdbiasError
from kdbias.studies.cases import measures
from kdbias.studies.runs import RunPlan, read_result
from kdbias.studies.settings import Study
from kdbias.tables import provenance
from kdbias.tables.documents import read_document
from kdbias.tables.parquet_file import read_table, write_table

RESULTS, SUMMARY = "results.parquet", "study.json"
_OWN = ("round", "dataset", "bias", "arm", "seed", "scratch")
_OF_METRIC = ("metric", "value", "lower_is_better")
_SUMMARY = {
    "name": str,
    **dict.fromkeys(("planned", "finished", "missing"), int),
    "failed": {str: str},
    "outline": {"rounds": [str], "cases": [str], "needs": {str: str}, "primary": {str: [str]}},
}


@dataclass(frozen=True)
class Outline:
    """What a study is about, in the order of its file.

    Attributes:
        rounds, cases: their names.
        needs: arm -> what it must be given beside the data.
        primary: data set -> the metrics that it is judged by, the first one in plots.
    """

    rounds: tuple[str, ...]
    cases: tuple[str, ...]
    needs: Mapping[str, str]
    primary: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, study: Study) -> Outline:
        """Of a description."""
        return cls(
            tuple(study.rounds),
            tuple(study.cases),
            {arm.name: arm.needs for arm in study.arms.values()},
            {data.name: data.primary for data in study.data.values()},
        )

    @property
    def document(self) -> dict[str, Any]:
        """The same as JSON values."""
        primary = {name: list(metrics) for name, metrics in self.primary.items()}
        rounds, cases = list(self.rounds), list(self.cases)
        return {"rounds": rounds, "cases": cases, "needs": dict(self.needs), "primary": primary}


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
        """DATASET/BIAS."""
        return f"{self.dataset}/{self.bias}"


def collect(plan: Sequence[tuple[str, RunPlan]]) -> tuple[list[Row], dict[str, str]]:
    """The finished runs, in the plan's order, and why others diverged, by label.

    Paths in the commands start at the study's folder.
    """
    rows, diverged = [], {}
    measured: dict[tuple[str, str], dict[str, Any]] = {}
    for round_, run in plan:
        if not run.result.exists():
            continue
        result = read_result(run.result)
        if "diverged" in result:
            diverged[run.label] = result["diverged"]
            continue
        options, metrics, place = run.options, result["metrics"], (run.case.name, run.arm.name)
        if place not in measured:
            measured[place] = measures(run.case, run.arm)
        facts = {
            **measured[place],
            "draw": run.case.key,
            "method": run.arm.manifest["method"],
            "min_ess": run.arm.manifest.get("min_ess"),
            "sampling": options.get("sampling", "systematic"),
            "student": options.get("student", "convnet"),
            **{name: options[name] for name in ("loss", "batch_size")},
            **{name: result[name] for name in ("lr", "steps", "epochs", "unique_fraction")},
            "train_loss": result["loss"],
            **{name: result[name] for name in ("train_seconds", "seconds")},
            "run": str(run.folder.relative_to(run.out)),
            "command": run.steps()[0].command.replace(f"{run.out}/", ""),
        }
        rows.append(
            Row(
                round=round_,
                dataset=run.case.data.name,
                bias=run.case.bias.name,
                arm=run.arm.name,
                seed=run.seed,
                scratch=run.arm.scratch,
                facts=facts,
                metrics={name: entry["value"] for name, entry in metrics.items()},
                lower_is_better={name: entry["lower_is_better"] for name, entry in metrics.items()},
            )
        )
    return rows, diverged


def write_results(out: Path, rows: Iterable[Row], document: dict[str, Any]) -> Path:
    """``results.parquet``: one row for each round, data set, bias, arm, seed and metric."""
    flat = [
        {
            **{name: getattr(row, name) for name in ("round", "dataset", "bias", "arm", "scratch", "seed")},
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


def read_results(folder: Path) -> tuple[Outline, list[Row], dict[str, Any]]:
    """What a study is about, its finished runs, and study.json.

    Raises:
        KdbiasError: nothing is finished, a file is damaged, or an earlier kdbias wrote it.
    """
    if not (folder / RESULTS).exists() or not (folder / SUMMARY).exists():
        raise KdbiasError(f"{folder}: no run of this study is finished; run the same kdbias study again")
    document = read_document(folder / SUMMARY, _SUMMARY)
    about = document["outline"]
    primary = {name: tuple(metrics) for name, metrics in about["primary"].items()}
    outline = Outline(tuple(about["rounds"]), tuple(about["cases"]), about["needs"], primary)
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in read_table(folder / RESULTS).to_pylist():
        found.setdefault(tuple(row[name] for name in _OWN), []).append(row)
    return outline, [_row(rows) for rows in found.values()], document


def _row(rows: Sequence[Mapping[str, Any]]) -> Row:
    """One student, from its rows of results.parquet."""
    first = rows[0]
    return Row(
        **{name: first[name] for name in _OWN},
        facts={name: value for name, value in first.items() if name not in (*_OWN, *_OF_METRIC)},
        metrics={row["metric"]: row["value"] for row in rows},
        lower_is_better={row["metric"]: row["lower_is_better"] for row in rows},
    )
