"""A study that is written for some data, to be run as it is or edited: what `kdbias study --init` writes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.studies.arms import BASELINE, REFERENCE
from kdbias.studies.origin import Origin, deployment_of
from kdbias.tables.files import write_text
from kdbias.targets.columns import told_of
from kdbias.targets.settings import Aiming
from kdbias.wording import visible

BATCH = 64
_LARGEST = 64  # pixels of the shorter side of a student's image
_EPOCHS = 10
_FEWEST_STEPS, _MOST_STEPS = 200, 2000
_USUAL = 20_000  # samples that take part, of more
_JUDGED = 2_000
_HELD_OUT = 0.2
_LEAST = 4


@dataclass(frozen=True)
class Draft:
    """A study of one data set, as a file describes it.

    Attributes:
        name: of the data set.
        origin: what is trained on.
        deployment: what is judged on and matched to, where it lies elsewhere; else a part is held out.
        towards: the target of the matched arm; None for no such arm.
        aim: how it is compared, ``with_column`` and ``cluster_by``, where that was said.
        reserve_by: the deployment's column each value of which is either the reference's or judged.
        arms: name -> (options of `kdbias.weights`, what it is), natural first.
        groups: columns to judge by.
        classes: whether accuracy is judged as well.
        image_size: of students, in pixels.
        samples, judged: how many take part, of each; None for all.
        steps, seeds: of every student.
        flip: whether images are mirrored.
    """

    name: str
    origin: Origin
    deployment: Origin | None
    towards: str | None
    aim: dict[str, str]
    reserve_by: str | None
    arms: dict[str, tuple[dict[str, Any], str]]
    groups: tuple[str, ...]
    classes: bool
    image_size: int
    samples: int | None
    judged: int | None
    steps: int
    seeds: tuple[int, ...] = (0, 1, 2)
    flip: str = "none"
    student: str = "convnet"
    rounds: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        place: str | os.PathLike[str],
        *,
        teacher: str | None = None,
        aim: Aiming,
        group_by: Sequence[str] = (),
        read: Mapping[str, Any] | None = None,
    ) -> Draft:
        """A study of some data: every candidate sampling that they allow, sizes as usual.

        Args:
            place: data, or an embedding table.
            teacher: its spec, for data.
            aim: at a reference (an embedding table, or data for the same teacher), balanced:COLUMN or sphere.
            group_by: columns to judge by.
            read: how data are read, options of `kdbias.embed`.

        Raises:
            KdbiasError: no data or teacher there, or columns that are not.
        """
        origin = Origin.of(place, teacher, read or {})
        deployment, clustered = _deployment(aim, origin)
        judged = deployment or origin
        for one in (origin, judged):
            one.require(_LEAST)
        train = min(origin.data.n, _USUAL) * (1 if deployment else 1 - _HELD_OUT)
        said = {name: getattr(aim, name) for name in ("with_column", "cluster_by")}
        how = {name: value for name, value in said.items() if value is not None}
        return cls(
            name=_slug(origin.source),
            origin=origin,
            deployment=deployment,
            towards={"reference": REFERENCE, "balanced": aim.towards}.get(_kind(aim)),
            aim=how,
            reserve_by=_reserved_by(deployment, clustered),
            arms=_arms(origin, aim, how),
            groups=tuple(judged.groups(group_by)),
            classes=origin.has_classes and judged.has_classes,
            image_size=min(_LARGEST, origin.side(), judged.side()),
            samples=_USUAL if origin.data.n > _USUAL else None,
            judged=2 * _JUDGED if deployment and deployment.data.n > 2 * _JUDGED else None,
            steps=max(_FEWEST_STEPS, min(_MOST_STEPS, math.ceil(_EPOCHS * train / BATCH))),
        )

    def without(self, *arms: str) -> Draft:
        """The same without some arms."""
        return replace(self, arms={name: arm for name, arm in self.arms.items() if name not in arms})

    @property
    def primary(self) -> list[str]:
        """What is judged by, the first in plots."""
        found = ["fidelity.distance", *(f"fidelity.distance[{name}:worst]" for name in self.groups)]
        return [*found, *(["knn.centroid_balanced_accuracy"] if self.classes else [])]

    def text(self, written_by: str, run_with: str) -> str:
        """The file, with what each part is for.

        Args:
            written_by: the command that wrote it.
            run_with: the command that runs it.
        """
        head = [
            f"# Written by `{visible(written_by)}`.",
            "# Edit what you like (docs/studies.md explains every key), then:",
        ]
        head += [f"#   {run_with}", "# goes on where it was stopped; what is done stays done"]
        lines = [
            *head,
            f"name = {_toml(self.name)}",
            "",
            *self._arms(),
            *self._rounds(),
            *self._data(),
            *self._judges(),
        ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path, written_by: str, run_with: str) -> None:
        """Write the file, whole or not at all; see `text`."""
        text = self.text(written_by, run_with)
        write_text(path, text)

    def _arms(self) -> Iterator[str]:
        yield "# Ways to draw the same data; differences are to natural. Another one is [arms.NAME] with"
        yield "# weights = { options of `kdbias weights` }, or train = { options of `kdbias train` }."
        for name, (options, about) in self.arms.items():
            yield f"[arms.{name}]".ljust(34) + f"# {about}"
            if options:
                yield f"weights = {_inline(options)}"

    def _rounds(self) -> Iterator[str]:
        rounds = self.rounds or {"main": (self.seeds, ())}
        yield ""
        for name, (seeds, arms) in rounds.items():
            yield f"[rounds.{name}]"
            yield (
                f"seeds = {json.dumps(list(seeds))}".ljust(34)
                + "# students an arm; fewer than 3 are too few to tell"
            )
            if arms:
                yield f"arms = {json.dumps(list(arms))}"

    def _data(self) -> Iterator[str]:
        yield ""
        yield f"[data.{self.name}]"
        yield f"source = {_toml(self.origin.source)}"
        yield from _read(self.origin)
        yield f"teacher = {_toml(self.origin.teacher)}"
        if self.origin.where:
            yield f"train_where = {json.dumps(list(self.origin.where), ensure_ascii=False)}"
        if self.samples is not None:
            yield (
                f"samples = {self.samples}".ljust(34) + "# that take part, drawn at random; leave out for all"
            )
        if self.deployment is None:
            yield f"holdout = {_HELD_OUT}".ljust(34) + "# of these are judged on"
        else:
            yield "reserve = 0.5".ljust(34) + "# of the deployment is the reference; the rest is judged on"
            if self.reserve_by is not None:
                column = f"reserve_by = {_toml(self.reserve_by)}"
                yield column.ljust(34) + "# each value of it is either the reference's or judged"
        yield f"image_size = {self.image_size}".ljust(34) + "# pixels of students' images; shrunk once"
        yield f"steps = {self.steps}".ljust(34) + "# of every student, exactly"
        student = {"student": self.student, "batch_size": BATCH, "optimizer": "adamw"}
        if self.flip != "none":
            student["flip"] = self.flip
        yield f"student = {_inline(student)}"
        yield '#   options of `kdbias train`; for faces, persons and most photographs also flip = "same"'
        yield f"primary = {json.dumps(self.primary, ensure_ascii=False)}"
        compared = self.aim if self.deployment is not None else {}
        yield f"measure = {_inline({'rectification': 'none', **compared})}"
        yield (
            f"[data.{self.name}.bias.none]".ljust(34)
            + "# the data as they are; biases to bring in: docs/studies.md"
        )
        if self.deployment is not None:
            yield from self._deployment(self.deployment)

    def _deployment(self, origin: Origin) -> Iterator[str]:
        yield f"[data.{self.name}.deployment]".ljust(34) + "# what the student will be used on"
        yield f"source = {_toml(origin.source)}"
        yield from _read(origin)
        if origin.stored:
            yield f"teacher = {_toml(origin.teacher)}"
        if origin.where:
            yield f"where = {json.dumps(list(origin.where), ensure_ascii=False)}"
        if self.judged is not None:
            yield f"samples = {self.judged}"
        yield (
            f"[data.{self.name}.reference.main]".ljust(34) + "# of the reserved samples: all; or samples = N"
        )

    def _judges(self) -> Iterator[str]:
        yield ""
        options: dict[str, Any] = {"reference": "@teacher"}
        if self.groups:
            options["group_by"] = list(self.groups)
        yield (
            f"[data.{self.name}.judge.fidelity]".ljust(34)
            + "# distance to the teacher, by group; less is better"
        )
        yield 'protocol = "fidelity"'
        yield (
            f"options = {_inline(options)}".ljust(33) + ' # density = "@density" for deciles of density, too'
        )
        if self.classes:
            yield (
                f"[data.{self.name}.judge.knn]".ljust(34)
                + "# accuracy, by the nearest centroid of the teacher's space"
            )
            yield 'protocol = "knn"'
            yield 'options = { gallery = "@teacher", gallery_where = ["study_part=train"] }'


def _kind(aim: Aiming) -> str:
    """``reference``, ``balanced`` or ``sphere``; nothing without a target."""
    return "" if aim.named is None else aim.named.kind


def _deployment(aim: Aiming, origin: Origin) -> tuple[Origin | None, str | None]:
    """What is judged on and matched to, where it lies elsewhere, and the column that clusters it.

    Raises:
        KdbiasError: a target that a study cannot take, or a column that is not there.
    """
    named = aim.named
    if named is None:
        return None, None
    if named.by is not None:
        raise KdbiasError(
            f"--towards {aim.towards}: a study has no shares or weights of it; leave @{named.by} out"
        )
    found = deployment_of(named.what, origin) if named.kind == "reference" else None
    if named.kind == "sphere":
        return found, None
    reference = None if found is None else found.described
    return found, told_of(aim, named, origin.described, reference).clustered


def _reserved_by(deployment: Origin | None, clustered: str | None) -> str | None:
    """The column by whose values the deployment is parted: whole persons, where every sample has one."""
    if deployment is None or clustered is None:
        return None
    return None if deployment.described.column(clustered).null_count else clustered


def _arms(origin: Origin, aim: Aiming, how: Mapping[str, str]) -> dict[str, tuple[dict[str, Any], str]]:
    """The candidate samplings that the data allow, in the order in which they matter."""
    found: dict[str, tuple[dict[str, Any], str]] = {
        BASELINE: ({}, "every sample alike: what others are compared with")
    }
    kind = _kind(aim)
    if kind == "reference":
        found["matched"] = (
            {"towards": REFERENCE, "min_ess": 0.5, **how},
            "like the reference, down to its noise",
        )
    if kind == "balanced":
        found["balanced"] = (
            {"towards": aim.towards, "min_ess": 0.5, **how},
            "every value of the column alike, as far as ESS allows",
        )
    if kind == "sphere":
        found["equilibrium"] = ({"method": "equilibrium", "min_ess": 0.5}, "even in the teacher's space")
    found["inverse-density"] = ({"method": "inverse-density"}, "by one over the density; no target")
    if origin.has_classes:
        found["class-balanced"] = ({"method": "class-balanced"}, "every label alike")
    return found


def _slug(source: str) -> str:
    """A name for data that may be a folder's."""
    stem = Path(source.rpartition(":")[2].rstrip("/")).stem
    return re.sub(r"[^A-Za-z0-9_+-]+", "-", stem).strip("-+_") or "data"


def _read(origin: Origin) -> Iterator[str]:
    """The columns and the root, where they are named."""
    for name, value in origin.read.columns.items():
        yield f"{name} = {_toml(os.path.abspath(value) if name == 'root' else value)}"


def _toml(text: Any) -> str:
    """A value as TOML; a $ would be taken for a variable."""
    if isinstance(text, str) and "$" in text:
        raise KdbiasError(f"{text}: a study's file takes $ for a variable; rename it")
    return json.dumps(text, ensure_ascii=False)


def _inline(table: Mapping[str, Any]) -> str:
    """An inline table."""
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in table.items()) + " }"
