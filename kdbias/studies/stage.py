"""The study: every arm of every case with every seed, what is missing of it; then the conclusions.

OUT/data/       data sets, teachers, biased draws, manifests (`preparation`, `cases`)
OUT/runs/       a folder for each student (`runs`)
OUT/results.parquet  results.md  plots/  study.json      written anew by each call
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.functions import takes_settings
from kdbias.progress import say
from kdbias.studies.cases import Case, build_case
from kdbias.studies.plan import Plan
from kdbias.studies.pool import Workers
from kdbias.studies.preparation import measure_all, open_source, prepare
from kdbias.studies.runs import RunPlan, read_result
from kdbias.studies.settings import Study, StudySettings, read_study
from kdbias.tables.run_record import Run, Stage

STAGE = Stage("study")
_SECONDS_A_STEP = 0.05  # a first guess, until runs have been timed


@dataclass(frozen=True)
class StudyResult:
    """What a call came to.

    Attributes:
        path: the study's folder.
        document: study.json: runs planned, finished and failed, and the learning rates.
        lines: a summary for people.
    """

    path: Path
    document: dict[str, Any]
    lines: tuple[str, ...]

    def summary(self) -> str:
        """The result as text for a terminal."""
        return "\n".join(self.lines)


@takes_settings(StudySettings)
def study(
    description: str | os.PathLike[str], output: str | os.PathLike[str], *, settings: StudySettings
) -> StudyResult:
    """Run what is missing of a study and write its results.

    Args:
        description: the study's TOML file (docs/studies.md).
        output: folder to write. The same call again goes on after an interruption; a changed description
            re-runs only what it changes.

    Raises:
        KdbiasError: a description that is wrong, names in `only` or `rounds` that it lacks, data that cannot
            be read, or all runs failed.
    """
    wanted, rounds, machine = read_study(description), settings.rounds, settings.machine
    open_source.cache_clear()
    _check_names(wanted, settings)
    plan = Plan(wanted, Path(output), machine, settings.only)
    cases = plan.chosen
    if settings.dry_run:
        return _dry_run(plan, cases, rounds)
    began = time.monotonic()
    run = Run.open(output, STAGE, {"name": wanted.name}, {})
    with Workers(settings.workers, settings.threads) as pool:
        _prepare(plan, cases, pool)
        failed = _run_missing(plan, "tune", plan.tuning(cases), pool)
        named, _ = plan.runs(cases, rounds)
        failed |= _run_missing(plan, "run", [r for _, r in named], pool)
    from kdbias.studies.conclusions import conclude

    document, lines = conclude(plan, failed, os.fspath(description))
    failed = document["failed"]
    if failed and not document["finished"]:
        label, error = next(iter(failed.items()))
        raise KdbiasError(f"all {len(failed):,} runs failed; {label}: {error}")
    run.finish({"runs": document["finished"], "missing": document["missing"]}, time.monotonic() - began)
    return StudyResult(plan.out, document, tuple(lines))


def _check_names(wanted: Study, settings: StudySettings) -> None:
    """Refuse data sets, cases and rounds that the study has not."""
    for name in settings.only:
        if name not in (*wanted.data, *wanted.cases):
            raise KdbiasError(f"--only {name}: no such data set or case; there are {', '.join(wanted.cases)}")
    for name in settings.rounds:
        if name not in wanted.rounds:
            raise KdbiasError(f"--rounds {name}: no such round; there are {', '.join(wanted.rounds)}")


def _prepare(plan: Plan, cases: Sequence[Case], pool: Workers) -> None:
    """Data sets, then draws and manifests, of the cases and of those their rates are tuned on."""
    places = [plan.tuned_on(case) for case in cases]
    needed = {case.name: case for case in [*places, *cases] if case is not None}
    data = {case.prepared.folder: case.prepared for case in needed.values()}
    machine = plan.machine
    tasks = [(p.data.name, partial(prepare, p, machine)) for p in data.values()]
    _require_all(pool.run("data", tasks))
    tasks = [(p.data.name, partial(measure_all, p, machine)) for p in data.values()]
    _require_all(pool.run("density", tasks, networks=False))
    tasks = [
        (case.name, partial(build_case, case, plan.needed_arms(case), machine)) for case in needed.values()
    ]
    _require_all(pool.run("weights", tasks, networks=False))


def _require_all(failed: dict[str, str]) -> None:
    """Raise the first failure, if any."""
    for label, error in failed.items():
        raise KdbiasError(f"{label}: {error}")


def _run_missing(plan: Plan, what: str, runs: Sequence[RunPlan], pool: Workers) -> dict[str, str]:
    """Run what is not done; returns the message of each run that failed."""
    todo = list({run.folder: run for run in runs if not run.result.exists()}.values())
    if todo:
        say(f"study: {len(todo):,} of {len(runs):,} {what} runs to do, {pool.count} workers")
    tasks = [(run.label, run.execute) for run in todo]
    return pool.run(what, tasks, _guesses(plan, todo))


def _guesses(plan: Plan, runs: Sequence[RunPlan]) -> list[float]:
    """Seconds a run may take: as finished runs of its case did, else a guess from its steps."""
    known: dict[str, list[float]] = {}
    for run in runs:
        name = run.case.name
        if name not in known:
            finished = (plan.out / "runs" / name).glob("*/result-*.json")
            known[name] = [read_result(path)["seconds"] for path in finished]
    means = {name: sum(s) / len(s) for name, s in known.items() if s}
    return [means.get(run.case.name, 5 + _SECONDS_A_STEP * run.case.steps) for run in runs]


def _dry_run(plan: Plan, cases: Sequence[Case], rounds: Sequence[str]) -> StudyResult:
    """What is missing and about how long it takes."""
    named, unnamed = plan.runs(cases, rounds)
    todo = list({run.folder: run for _, run in named if not run.result.exists()}.values())
    guesses = _guesses(plan, todo)
    lines = [f"{run.label}: about {guess:.0f} s" for run, guess in zip(todo, guesses, strict=True)]
    seconds = sum(guesses)
    if unnamed:
        lines.append(f"{unnamed:,} more runs, after data are prepared and learning rates are tuned")
        seconds += unnamed * (seconds / len(todo) if todo else _mean_guess(cases))
    lines.append(
        f"{len(named) - len(todo):,} runs finished, {len(todo) + unnamed:,} to do: "
        f"about {seconds / 60:,.0f} min of one worker"
    )
    document = {"todo": len(todo) + unnamed, "finished": len(named) - len(todo), "seconds": seconds}
    return StudyResult(plan.out, document, tuple(lines))


def _mean_guess(cases: Sequence[Case]) -> float:
    """Guessed seconds of a run, averaged over the cases."""
    return sum(5 + _SECONDS_A_STEP * case.steps for case in cases) / max(len(cases), 1)
