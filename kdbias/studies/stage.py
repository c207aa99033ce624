"""The study: every arm of every case with every seed, what is missing of it; then the conclusions.

OUT/data/       data sets, teachers, biased draws, manifests (`preparation`, `cases`)
OUT/runs/       a folder for each student (`runs`)
OUT/results.parquet  results.md  plots/  study.json      written anew by each call
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kdbias import optional
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.progress import say
from kdbias.studies.cases import Case, build_case
from kdbias.studies.plan import Plan
from kdbias.studies.pool import Workers
from kdbias.studies.preparation import measure_all, prepare
from kdbias.studies.results import RESULTS
from kdbias.studies.runs import RunPlan, read_result
from kdbias.studies.settings import Study, StudySettings, read_study
from kdbias.studies.sources import forget_sources
from kdbias.tables.parquet_file import read_table
from kdbias.tables.run_record import Run, Stage
from kdbias.weighting.schemes.clusters import ClusterBalanced
from kdbias.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STAGE = Stage("study")
_SECONDS_A_STEP = 0.05  # a first guess, until runs have been timed


@dataclass(frozen=True, repr=False)
class StudyResult(Result):
    """What a call came to.

    Attributes:
        path: the study's folder.
        document: study.json: runs planned, finished and failed, and the learning rates.
        lines: a summary for people.
    """

    path: Path
    document: dict[str, Any]
    lines: tuple[str, ...]

    def blocks(self) -> list[str | Table]:
        """The lines."""
        return list(self.lines)

    def to_pandas(self) -> pd.DataFrame:
        """``results.parquet``: a row a run and metric."""
        return read_table(self.path / RESULTS).to_pandas()

    def plot(self, metric: str | None = None) -> Figure:
        """Mean and standard deviation over seeds of each arm, a panel a case.

        Args:
            metric: such as ``knn.centroid_accuracy``; by default each case's first.

        Raises:
            KdbiasError: no finished run has the metric.
        """
        from kdbias.display import plots

        rows, draws = self.to_pandas(), []
        for (data, bias), case in rows.groupby(["dataset", "bias"], sort=False):
            name = case["metric"].iloc[0] if metric is None else metric
            found = case[case["metric"] == name].groupby("arm", sort=False)["value"].agg(["mean", "std"])
            arms = [
                (arm, {"mean": mean}, (mean - std, mean + std))
                for arm, mean, std in found.fillna(0.0).itertuples()
            ]
            if arms:
                draws.append(plots.dots(arms, name, f"{data}/{bias}"))
        if not draws:
            raise KdbiasError(f"no finished run has {metric}; there are {', '.join(rows['metric'].unique())}")
        return plots.figure(*draws, height=plots.height_of(rows["arm"].nunique()))


@takes_settings(StudySettings)
def study(
    description: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    settings: StudySettings,
) -> StudyResult:
    """Run what is missing of a study and write its results.

    Args:
        description: the study's TOML file (docs/studies.md).
        output: folder to write, by default beside the file and named like it without its ending. The same
            call again goes on after an interruption; a changed description re-runs only what it changes.

    Raises:
        KdbiasError: a description that is wrong, names in `only` or `rounds` that it lacks, data that cannot
            be read, or all runs failed.
    """
    wanted = read_study(description)
    forget_sources()
    _check_names(wanted, settings)
    out = _beside(Path(description)) if output is None else Path(output)
    plan = Plan(wanted, out, settings.machine, settings.only)
    cases = plan.chosen
    if settings.dry_run:
        return _dry_run(plan, cases, settings.rounds)
    if any(arm.manifest["method"] == ClusterBalanced.name for case in cases for arm in plan.arms(case)):
        optional.refuse_without_faiss()
    began = time.monotonic()
    until = math.inf if settings.within is None else began + settings.within
    run = Run.open(out, STAGE, {"name": wanted.name}, {})
    with Workers(settings.workers, settings.threads) as pool:
        _prepare(plan, cases, pool)
        failed = _run_missing(plan, "tune", plan.tuning(cases), pool, until)
        named, _ = plan.runs(cases, settings.rounds)
        failed |= _run_missing(plan, "run", [r for _, r in named], pool, until)
    from kdbias.studies.conclusions import conclude

    document, lines = conclude(plan, failed, os.fspath(description))
    failed = document["failed"]
    if failed and not document["finished"]:
        label, error = next(iter(failed.items()))
        raise KdbiasError(f"all {len(failed):,} runs failed; {label}: {error}")
    run.finish({"runs": document["finished"], "missing": document["missing"]}, time.monotonic() - began)
    return StudyResult(plan.out, document, tuple(lines))


def _beside(description: Path) -> Path:
    """The folder that is named like a study's file."""
    if not description.suffix:
        raise KdbiasError(f"{description}: a study is a TOML file; its name ends in .toml")
    return description.with_suffix("")


def _check_names(wanted: Study, settings: StudySettings) -> None:
    """Refuse data sets, cases and rounds that the study has not."""
    known = {"only": ("data set or case", wanted.cases, wanted.data), "rounds": ("round", wanted.rounds, ())}
    for option, (what, named, also) in known.items():
        for name in getattr(settings, option):
            if name not in (*named, *also):
                raise KdbiasError(f"--{option} {name}: no such {what}; there are {', '.join(named)}")


def _prepare(plan: Plan, cases: Sequence[Case], pool: Workers) -> None:
    """Data sets, then draws and manifests, of the cases and of those their rates are tuned on."""
    machine = plan.machine
    needed = {case.name: case for case in (*map(plan.tuned_on, cases), *cases) if case is not None}
    used = {case.prepared.folder: case.prepared for case in needed.values()}
    sources = {source.folder: source for own in used.values() for source in own.sources}
    data = used.values()
    batches = {
        "data": [(p.data.name, partial(prepare, p, machine)) for p in (sources | used).values()],
        "density": [(p.data.name, partial(measure_all, p, machine)) for p in data],
        "weights": [(n, partial(build_case, c, plan.needed_arms(c), machine)) for n, c in needed.items()],
    }
    for what, tasks in batches.items():
        for label, error in pool.run(what, tasks, networks=what == "data").items():
            raise KdbiasError(f"{label}: {error}")


_WHAT = {"tune": "trials of learning rates", "run": "runs"}


def _missing(runs: Iterable[RunPlan]) -> list[RunPlan]:
    """Those that are not finished, each once."""
    return list({run.folder: run for run in runs if not run.result.exists()}.values())


def _run_missing(
    plan: Plan, what: str, runs: Sequence[RunPlan], pool: Workers, until: float
) -> dict[str, str]:
    """Run what is not done and would end in time; returns the message of each run that failed."""
    todo = _missing(runs)
    if todo:
        say(f"study: {len(todo):,} of {len(runs):,} {_WHAT[what]} to do, {counted(pool.count, 'worker')}")
    guesses = _guesses(plan, [run.case for run in todo])
    return pool.run(what, [(run.label, run.execute) for run in todo], guesses, until=until)


def _guesses(plan: Plan, cases: Sequence[Case]) -> list[float]:
    """Seconds that a run of each case may take: as its finished ones did, else a guess from its steps."""
    means = {}
    for case in {case.name: case for case in cases}.values():
        finished = (plan.out / "runs" / case.name).glob("*/result-*.json")
        results = [result for result in map(read_result, finished) if "diverged" not in result]
        known = [result["seconds"] * case.steps / result["steps"] for result in results]
        means[case.name] = fmean(known) if known else 5 + _SECONDS_A_STEP * case.steps
    return [means[case.name] for case in cases]


def _dry_run(plan: Plan, cases: Sequence[Case], rounds: Sequence[str]) -> StudyResult:
    """What is missing and about how long it takes."""
    named, unnamed = plan.runs(cases, rounds)
    todo = _missing(run for _, run in named)
    guesses = _guesses(plan, [run.case for run in todo])
    lines = [f"{run.label}: about {guess:.0f} s" for run, guess in zip(todo, guesses, strict=True)]
    seconds = sum(guesses)
    if unnamed:
        lines.append(f"{unnamed:,} more runs, after data are prepared and learning rates are tuned")
        seconds += unnamed * fmean(guesses or _guesses(plan, cases))
    lines.append(
        f"{counted(len(named) - len(todo), 'run')} finished, {len(todo) + unnamed:,} to do: "
        f"about {seconds / 60:,.0f} min of one worker"
    )
    document = {"todo": len(todo) + unnamed, "finished": len(named) - len(todo), "seconds": seconds}
    return StudyResult(plan.out, document, tuple(lines))
