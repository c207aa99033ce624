"""The demo's stages with their options: each a call of a public function, and the command that equals it."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdbias.command_lines import Step

SCHEMES: dict[str, dict[str, Any]] = {
    "natural": {"method": "natural"},
    "class-balanced": {"method": "class-balanced"},
    "inverse-density": {"method": "inverse-density"},
    "equilibrium": {"method": "equilibrium"},
    "matched": {"method": "matched"},
}
"""Name of a manifest -> the options that make it. Class-balanced alone sees labels, matched the reference."""


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
    digits={
        **{"limit_per_class": 80, "held_out_per_class": 40, "reference": 150},
        **{"head": 40, "tail": 3, "originals": 4, "copies": 10},
    },
    student={"epochs": 3, "batch_size": 32, "optimizer": "adamw", "lr": 0.03},
    measure={"k": 16},
    title="kdbias demo: long-tailed digits (quick size)",
)


def shell_line(step: Step) -> str:
    """The command of a step, with the loop's variables as such."""
    return " ".join(_quoted(word) for word in step.words)


def _quoted(word: str) -> str:
    """Quoted for a POSIX shell; the loop's variables, marked in it, become ``$scheme`` and ``$seed``."""
    if SCHEME not in word and SEED not in word:
        return shlex.quote(word)
    for character in '\\"`$':
        word = word.replace(character, "\\" + character)
    return '"' + word.replace(SCHEME, "$scheme").replace(SEED, "$seed") + '"'


@dataclass(frozen=True)
class Story:
    """The demo's stages in a folder.

    out, data    the folder, and the description of the digits
    machine      device and threads of every training run
    """

    out: str
    data: str
    size: Size
    machine: Mapping[str, Any]

    def once(self) -> Iterator[Step]:
        """What all students have in common: the teacher's embeddings, what is biased there, the manifests."""
        biased, reference, test = (
            f"{self.out}/embeddings/{name}" for name in ("biased", "reference", "test")
        )
        density, teacher = f"{self.out}/density", f"{self.out}/teacher"
        yield self._embed("the teacher embeds the biased digits", biased, teacher, "biased=yes")
        yield self._embed("it embeds the reference", reference, teacher, "split=reference")
        yield self._embed("it embeds the test digits", test, teacher, "split=test")
        yield self._judge("how good the teacher itself is", "teacher", test)
        target = {"towards": reference}
        measure = {**self.size.measure, **target, "group_by": ["label"]}
        title = "how crowded the biased digits are, and how far from the reference"
        yield Step(title, "uniformity", biased, density, measure)
        manifests = {scheme: f"{self.out}/weights/{scheme}.parquet" for scheme in SCHEMES}
        for scheme, manifest in manifests.items():
            options = SCHEMES[scheme] | (target if scheme == "matched" else {})
            yield Step(f"weights: {scheme}", "weights", density, manifest, options)
        compared = {"weights": list(manifests.values()), **measure}  # reuses the stored traversal
        yield Step("uniformity as each manifest would sample", "uniformity", biased, density, compared)

    def students(self, seeds: int) -> Iterator[Step]:
        """Every student."""
        for seed, scheme in itertools.product(range(seeds), SCHEMES):
            yield from self.student(scheme, seed)

    def student(self, scheme: str, seed: int | str) -> Iterator[Step]:
        """Distil one student, embed the test digits with it, judge it against its teacher."""
        name = f"{scheme}-{seed}"
        student, embedded = f"{self.out}/students/{name}", f"{self.out}/embeddings/students/{name}"
        distil = {
            "where": ["biased=yes"],
            "embeddings": f"{self.out}/embeddings/biased",
            "weights": f"{self.out}/weights/{scheme}.parquet",
            "loss": "l2e",
            "seed": seed,
            **self.size.student,
            **self.machine,
        }
        yield Step(f"student {name}: distil", "train", self.data, student, distil)
        yield self._embed(f"student {name}: embed the test digits", embedded, student, "split=test")
        reference = f"{self.out}/embeddings/test"
        yield self._judge(f"student {name}: judge", name, embedded, reference=reference)

    def _embed(self, title: str, embedded: str, network: str, where: str) -> Step:
        """A part of the digits, embedded by a network that training left."""
        computing = {"workers": 0, "device": self.machine["device"]}
        options = {"teacher": f"run:{network}", **computing, "where": [where]}
        return Step(title, "embed", self.data, embedded, options)

    def _judge(self, title: str, name: str, embedded: str, **more: str) -> Step:
        """Embeddings of the test digits, judged by the teacher's of the biased ones."""
        biased = f"{self.out}/embeddings/biased"
        options = {
            "protocol": "knn",
            "gallery": biased,
            **more,
            "tail_from": biased,
            "group_by": ["frequency"],
        }
        return Step(title, "evaluate", embedded, f"{self.out}/evaluations/{name}", options)

    def script(self, seeds: int) -> str:
        """The demo's commands as a shell script, students in a loop."""
        page = ["kdbias", "report", self.out, "-o", f"{self.out}/report.html", "--title", self.size.title]
        lines = [
            *(shell_line(step) for step in self.once()),
            f"for scheme in {' '.join(SCHEMES)}; do",
            f"for seed in {' '.join(map(str, range(seeds)))}; do",
            *("  " + shell_line(step) for step in self.student(SCHEME, SEED)),
            "done; done",
            shlex.join(page),
        ]
        return "\n".join(lines) + "\n"
