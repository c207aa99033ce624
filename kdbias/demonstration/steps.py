"""The demo's stages with their options: each a call of a public function, and the command that equals it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """How much data and training: the options of `write_digits` and of every student.

    The students' options were chosen for natural sampling (docs/demo.md) and are the same for every scheme.
    ``title`` is the page's.
    """

    digits: Mapping[str, int]
    student: Mapping[str, Any]
    measure: Mapping[str, Any] = field(default_factory=dict)
    title: str = "kdbias demo: long-tailed digits"


FULL = Size(
    digits={},
    student={"epochs": 5, "batch_size": 64, "optimizer": "adamw", "lr": 0.03},
)
QUICK = Size(
    digits={"limit_per_class": 60, "test_per_class": 20, "head": 40, "tail": 3, "originals": 4, "copies": 10},
    student={"epochs": 3, "batch_size": 32, "optimizer": "adamw", "lr": 0.03},
    measure={"k": 16},
    title="kdbias demo: long-tailed digits (quick size)",
)


@dataclass(frozen=True)
class Step:
    """One call of a stage: ``stage(source, output, **options)``, or the same as a command."""

    title: str
    stage: str
    source: str
    output: str
    options: Mapping[str, Any]
    repeated: bool = False  # one of many alike: its own messages are left out

    def run(self) -> Any:
        """Run the stage; returns its result."""
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
    """The teacher's embeddings of what the students get and of the test digits, and what is biased there."""
    biased, test = f"{out}/embeddings/biased", f"{out}/embeddings/test"
    embedding = {"teacher": f"run:{out}/teacher", "workers": 0, "device": machine["device"]}
    yield Step(
        "the teacher embeds the biased digits", "embed", data, biased, {**embedding, "where": ["biased=yes"]}
    )
    yield Step("it embeds the test digits", "embed", data, test, {**embedding, "where": ["split=test"]})
    judged = {"protocol": "knn", "gallery": biased, "tail_from": biased, "group_by": ["frequency"]}
    yield Step("how good the teacher itself is", "evaluate", test, f"{out}/evaluations/teacher", judged)
    measure = {**size.measure, "group_by": ["label"]}
    yield Step(
        "how crowded and how uniform the biased digits are", "uniformity", biased, f"{out}/density", measure
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
    title = "uniformity as each manifest would sample"
    return Step(title, "uniformity", f"{out}/embeddings/biased", f"{out}/density", options)


def student_steps(
    out: str, data: str, scheme: str, seed: str, size: Size, machine: Mapping[str, Any]
) -> Iterator[Step]:
    """Distil one student, embed the test digits with it, judge it against its teacher."""
    name = f"{scheme}-{seed}"
    student, embedded = f"{out}/students/{name}", f"{out}/embeddings/students/{name}"
    biased = f"{out}/embeddings/biased"
    distil = {
        "where": ["biased=yes"],
        "embeddings": biased,
        "weights": f"{out}/weights/{scheme}.parquet",
        "loss": "l2e",
        "seed": seed if seed == SEED else int(seed),
        **size.student,
        **machine,
    }
    yield Step(f"student {name}: distil", "train", data, student, distil, repeated=True)
    embed = {
        "teacher": f"run:{student}",
        "workers": 0,
        "device": machine["device"],
        "where": ["split=test"],
    }
    yield Step(f"student {name}: embed the test digits", "embed", data, embedded, embed, repeated=True)
    judge = {
        "protocol": "knn",
        "gallery": biased,
        "reference": f"{out}/embeddings/test",
        "tail_from": biased,
        "group_by": ["frequency"],
    }
    yield Step(
        f"student {name}: judge", "evaluate", embedded, f"{out}/evaluations/{name}", judge, repeated=True
    )


def script(out: str, data: str, seeds: int, size: Size, machine: Mapping[str, Any]) -> str:
    """The demo's commands as a shell script, students in a loop."""
    lines = [step.command() for step in teacher_steps(out, data, size, machine)]
    lines += [weights_step(out, scheme).command() for scheme in SCHEMES]
    lines.append(compare_step(out, size).command())
    lines += [f"for scheme in {' '.join(SCHEMES)}; do", f"for seed in {' '.join(map(str, range(seeds)))}; do"]
    lines += ["  " + s.command() for s in student_steps(out, data, SCHEME, SEED, size, machine)]
    page = ["kdbias", "report", out, "-o", f"{out}/report.html", "--title", size.title]
    lines += ["done; done", shlex.join(page)]
    return "\n".join(lines) + "\n"
