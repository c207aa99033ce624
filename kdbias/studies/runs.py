"""One student of a study: what it is, the public functions that make it, and what it left behind.

A run's folder is named after its arm, its seed and a digest of everything that decides its numbers::

    runs/DATASET/BIAS/ARM-seed0-0123abcd/
        student/  embeddings/  score-JUDGE-4567cdef/      as the stages leave them
        result-89ab0123.json                              written last: the numbers of all judges

A run is finished when its result is there, so a killed study goes on with the same command, and a changed
description or file re-runs only what it changes. The result of a run that diverged says so: tried again, it
would diverge again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbias.command_lines import Step
from kdbias.errors import DivergedError, KdbiasError
from kdbias.evaluation.settings import PROTOCOLS
from kdbias.evaluation.stage import read_metrics
from kdbias.studies.cases import Case
from kdbias.studies.settings import Arm, Judge, Machine
from kdbias.studies.sources import expand
from kdbias.tables import fingerprints
from kdbias.tables.documents import read_document, require_shape, write_json
from kdbias.tables.files import remove
from kdbias.tables.run_record import RECORD, read_record


@dataclass(frozen=True)
class RunPlan:
    """One student: the case, the arm, the seed and the learning rate (None: the options' own)."""

    out: Path
    case: Case
    arm: Arm
    seed: int
    lr: float | None
    machine: Machine

    @property
    def label(self) -> str:
        """The run as messages call it."""
        rate = "" if self.lr is None else f" lr {self.lr:g}"
        return f"{self.case.name} {self.arm.name} seed {self.seed}{rate}"

    @cached_property
    def options(self) -> dict[str, Any]:
        """What decides the student, as options of `kdbias.train`."""
        data = self.case.data
        chosen = {"loss": "l2e", "batch_size": 128, **data.student}
        if self.arm.scratch:
            chosen |= data.scratch
        if self.lr is not None:
            chosen["lr"] = self.lr
        return {**chosen, **self.arm.train, "steps": self.case.steps, "seed": self.seed}

    @cached_property
    def folder(self) -> Path:
        """Where the run lies, by a digest of what decides its student."""
        digest = fingerprints.of_json([self.case.key, self.case.identity(self.arm), self.options])[:8]
        return self.out / "runs" / self.case.name / f"{self.arm.name}-seed{self.seed}-{digest}"

    @property
    def judges(self) -> list[Judge]:
        """What judges the student: an arm from scratch is not judged in the teacher's space."""
        found = self.case.data.judge.values()
        return [judge for judge in found if not (self.arm.scratch and judge.in_teacher_space)]

    @property
    def result(self) -> Path:
        """The file that says that the run is finished."""
        return self.folder / f"result-{self._digest(self.judges)}.json"

    def steps(self) -> list[Step]:
        """The calls that make the run, in order."""
        prepared, folder = self.case.prepared, self.folder
        student, embedded = str(folder / "student"), str(folder / "embeddings")
        options: dict[str, Any] = {**prepared.columns, "weights": str(self.case.manifest(self.arm))}
        if not self.arm.scratch:
            options["embeddings"] = str(self.case.draw)
        options |= {**self.machine.training, **self.options}
        calls = [Step(f"{self.label}: train", "train", prepared.images, student, options)]
        spec = f"run:{student}"
        if any(judge.data is None for judge in self.judges):
            options = {"teacher": spec, "where": prepared.test_where, **prepared.columns}
            options |= self.machine.embedding
            calls.append(Step(f"{self.label}: embed", "embed", prepared.images, embedded, options))
        for judge in self.judges:
            options = {"protocol": judge.protocol, "bootstrap": 0}
            options |= {name: self._resolved(value) for name, value in judge.options.items()}
            if judge.data is not None:
                options |= {"data": expand(judge.data), **self.machine.embedding}
            judged = spec if judge.data is not None else embedded
            out = str(folder / f"score-{judge.name}-{self._digest([judge])}")
            calls.append(Step(f"{self.label}: {judge.name}", "evaluate", judged, out, options))
        return calls

    def _digest(self, judges: list[Judge]) -> str:
        """Of the judges, as described and by the content of what they read."""
        read = self.case.prepared.judged_with
        about = [[j.name, j.protocol, j.data, j.options, *sorted(read[j.name].items())] for j in judges]
        return fingerprints.of_json(about)[:8]

    def _resolved(self, value: Any) -> Any:
        prepared = self.case.prepared
        places = {"@teacher": prepared.table, "@density": prepared.density, "@draw": self.case.draw}
        if isinstance(value, str):
            return str(places[value]) if value in places else expand(value)
        return value

    def execute(self) -> dict[str, Any]:
        """Make the run, or what is left of it, and write its result: numbers, or why it ``diverged``."""
        if self.result.exists():
            return read_result(self.result)
        began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = self.steps()
        try:
            for step in steps:
                step.run()
        except DivergedError as error:
            result: dict[str, Any] = {"diverged": str(error)}
        else:
            result = self._numbers(steps)
        result["seconds"] = round(time.perf_counter() - began, 3)
        write_json(self.result, result)
        remove(self.folder / "student" / "checkpoint.pt")  # needed for resuming alone
        return result

    def _numbers(self, steps: Sequence[Step]) -> dict[str, Any]:
        record = read_record(self.folder / "student")
        require_shape(record, _TRAINED, self.folder / "student" / RECORD)
        return {
            "steps": record["counts"]["steps"],
            "epochs": record["counts"]["epochs"],
            "train_seconds": record["seconds"],
            "loss": record["results"]["loss"],
            "unique_fraction": record["results"].get("unique_fraction"),
            "lr": record["config"]["lr"],
            "metrics": {
                name: entry
                for judge, step in zip(self.judges, steps[-len(self.judges) :], strict=True)
                for name, entry in flat_metrics(judge, read_metrics(step.output)).items()
            },
            "commands": [step.command for step in steps],
        }


_TRAINED = {
    "config": {"lr": float},
    "counts": {"steps": int, "epochs": int},
    "seconds": float,
    "results": {"loss": float},
}
_SHAPE = {
    "diverged?": str,
    **dict.fromkeys(("steps?", "epochs?"), int),
    **dict.fromkeys(("seconds?", "train_seconds?", "loss?", "lr?"), float),
    "unique_fraction?": (float, None),
    "metrics?": {str: {"value": float, "lower_is_better": bool}},
    "commands?": [str],
}


def read_result(file: Path) -> dict[str, Any]:
    """What `RunPlan.execute` wrote.

    Raises:
        KdbiasError: it is damaged.
    """
    result = read_document(file, _SHAPE)
    if "diverged" not in result and "metrics" not in result:
        raise KdbiasError(f"{file} lacks the run's metrics; remove it, and the run is done again")
    return result


def flat_metrics(judge: Judge, document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``JUDGE.METRIC`` -> value and direction; groups as ``JUDGE.METRIC[COLUMN=VALUE]``.

    What the groups have in common is ``[COLUMN:worst]``, ``[COLUMN:gap]`` and ``[COLUMN:std]``.
    """
    lower = PROTOCOLS[document["protocol"]].lower_is_better
    found = {metric: (metric in lower, entry["value"]) for metric, entry in document["metrics"].items()}
    for column, groups in document["groups"].items():
        for value, group in groups.items():
            for metric, entry in group["metrics"].items():
                found[f"{metric}[{column}={value}]"] = metric in lower, entry["value"]
    for column, spread in document["spread"].items():
        for metric, entry in spread.items():
            worst = entry["max" if metric in lower else "min"]
            found[f"{metric}[{column}:worst]"] = metric in lower, worst
            found |= {f"{metric}[{column}:{name}]": (True, entry[name]) for name in ("gap", "std")}
    return {
        f"{judge.name}.{name}": {"value": value, "lower_is_better": less}
        for name, (less, value) in found.items()
        if value is not None
    }


def metric_of(result: Mapping[str, Any], name: str, where: str) -> tuple[float, bool]:
    """A result's metric by name, and whether less of it is better."""
    if name not in result["metrics"]:
        plain = [known for known in result["metrics"] if "[" not in known]
        raise KdbiasError(f"{where}: there is no metric {name!r}; there are {', '.join(plain)}, by group too")
    entry = result["metrics"][name]
    return entry["value"], entry["lower_is_better"]
