"""What a study is told: the options of `kdbias.study`, and the keys of its TOML file (docs/studies.md)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kdbias import shared_options as shared
from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.kinds import seconds_of
from kdbias.nested_settings import Named, keys, table, tables
from kdbias.settings import Settings, option
from kdbias.studies.arms import BASELINE, REFERENCE, Arm, Judge, require_target
from kdbias.studies.biases import Bias, Copies, Deployment, Read, Reference
from kdbias.tables.documents import read_toml


@dataclass(frozen=True)
class Machine:
    """How to compute: device, and threads of one worker; another choice rounds differently."""

    device: str = "auto"
    threads: int = 1

    @property
    def training(self) -> dict[str, Any]:
        """Options of `kdbias.train`."""
        return {"device": self.device, "threads": self.threads, "workers": 1}

    @property
    def embedding(self) -> dict[str, Any]:
        """Options of `kdbias.embed` and `kdbias.evaluate`."""
        return {"device": self.device, "workers": 0, "batch_size": 256}


@dataclass(frozen=True, kw_only=True)
class StudySettings(Settings):
    """The options of a call: what of the study to run, and how."""

    name = "study"

    only: tuple[str, ...] = option(
        (),
        "run these data sets (DATA) or cases (DATA/BIAS) alone; results cover every finished run; repeatable",
        metavar="DATA[/BIAS]",
    )
    rounds: tuple[str, ...] = option((), "run these rounds alone; repeatable", metavar="ROUND")
    workers: int = option(1, "processes, each with one run at a time", least=1, most=MOST_PARALLEL)
    threads: int = shared.threads("CPU threads a worker", 1, operational=False)
    device: str = shared.device("of teachers and students", operational=False)
    within: float | None = option(
        None,
        "start no run that would end after so long; the same command goes on",
        parse=seconds_of,
        metavar="TIME",
        accepts="str | float",
    )
    dry_run: bool = option(False, "list the missing runs with their time; run nothing")

    @property
    def machine(self) -> Machine:
        """Where and how to compute."""
        return Machine(self.device, self.threads)


@dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """The learning rates tried with natural sampling, and the metric that chooses."""

    lr: tuple[float, ...] = option(text="learning rates to try", above=0)
    bias: str = option(text="on which to try them")
    metric: str = option(text="JUDGE.METRIC that chooses")
    seed: int = option(text="no seed of a round", least=0)
    scratch_metric: str | None = option(None, "JUDGE.METRIC that chooses for arms from scratch")


@dataclass(frozen=True, kw_only=True)
class NewStudySettings(Read):
    """The options of a description that is written for some data."""

    name = "study --init"

    teacher: str | None = option(
        None, "what computes the embeddings, for data", shown="that of an embedding table", metavar="SPEC"
    )
    towards: str | None = option(
        None,
        "what the student will be used on: an embedding table of a sample of it, or its images; or "
        "balanced:COLUMN",
        metavar="REF|balanced:COLUMN",
    )
    group_by: tuple[str, ...] = shared.judged_groups()
    flip: str = option("none", "mirror half the students' images", choices=("none", "same"))


def _image_size(value: Any) -> Any:
    """N or HxW; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"is {value!r}, should be N or HxW")
    return value


@dataclass(frozen=True, kw_only=True)
class DataSet(Named, Read):
    """Data, teacher, student and judges of one part of a study."""

    source: str = option(text="anything that `kdbias.embed` reads; $VARIABLES are expanded")
    steps: int = option(text="of every student", least=1)
    student: Mapping[str, Any] = keys("options of `kdbias.train`", MISSING)
    bias: Mapping[str, Bias] = tables(Bias, "biases", lambda: {"none": {}})
    judge: Mapping[str, Judge] = tables(Judge, "what every student is judged by")
    primary: tuple[str, ...] = option(text="JUDGE.METRIC, the first one in plots")
    teacher: str | None = option(None, "spec of a teacher")
    train_teacher: Mapping[str, Any] | None = keys("options of `kdbias.train` for a teacher of its own", None)
    scratch: Mapping[str, Any] = keys("options of `kdbias.train` for arms from scratch")
    tune: Tuning | None = table(Tuning, "learning rates")  # noqa: RUF009
    image_size: str | int | None = option(None, "of students; shrunk once", parse=_image_size)
    holdout: float | None = option(None, "share of the training samples to judge on", above=0, below=1)
    holdout_seed: int = option(0, "which samples these are", least=0)
    train_where: tuple[str, ...] = option((), "the training samples", shown="all")
    test_where: tuple[str, ...] = option((), "the samples to judge on")
    reserve: float | None = option(
        None, "share of the test samples to draw references from, not judged", above=0, below=1
    )
    reserve_by: str | None = option(None, "column, each value of which is reserved as a whole: people")
    reserve_seed: int = option(0, "which samples these are", least=0)
    reference_where: tuple[str, ...] = option((), "further samples to draw references from")
    reference: Mapping[str, Reference] = tables(Reference, "samples of what the student will be used on")
    copies: Copies | None = table(Copies, "near duplicates")  # noqa: RUF009
    samples: int | None = option(
        None, "of the source that take part, drawn at random; others are not read", shown="all", least=2
    )
    samples_seed: int = option(0, "which samples these are", least=0)
    deployment: Deployment | None = table(Deployment, "what the student will be used on")  # noqa: RUF009
    measure: Mapping[str, Any] = keys("options of `kdbias.uniformity`")
    arms: tuple[str, ...] | None = option(None, "those to run", shown="all")

    @property
    def extracted(self) -> bool:
        """Whether only a part of the data is read, or more than one source."""
        return self.samples is not None or self.deployment is not None

    def check(self) -> None:
        """Refuse what contradicts itself or names what is not there (`KdbiasError`)."""
        self._check_sources()
        self._check_primary()
        self._check_references()
        if self.tune is not None:
            _require((self.tune.bias,), self.bias, f"{self.place}.tune.bias")

    def _check_sources(self) -> None:
        """Refuse a data set without one teacher, without judges, or without samples to judge on."""
        here = self.place
        if (self.teacher is None) == (self.train_teacher is None):
            raise KdbiasError(
                f"{here}: give either teacher (a spec) or train_teacher (options of kdbias train)"
            )
        if not self.judge:
            raise KdbiasError(f"{here}: needs a table [{here.rpartition(' ')[2]}.judge.NAME]")
        if self.holdout is not None and (self.test_where or not self.image_size):
            raise KdbiasError(f"{here}: holdout goes without test_where, and needs image_size")
        own = [judge for judge in self.judge.values() if judge.data is None]
        if own and self.holdout is None and not self.test_where and self.deployment is None:
            raise KdbiasError(
                f"{here}: say what the students are judged on: test_where, holdout or deployment"
            )
        self._check_extract()

    def _check_extract(self) -> None:
        """Refuse a part of the data, or a deployment, with what it does not go with."""
        here = self.place
        if self.extracted and (not self.image_size or self.copies is not None):
            raise KdbiasError(f"{here}: samples and deployment need image_size, and go without copies")
        if self.deployment is None:
            return
        if self.test_where or self.holdout is not None or self.reference_where:
            raise KdbiasError(
                f"{here}: the deployment is judged on, and references are drawn from it: leave out "
                "test_where, holdout and reference_where"
            )
        stored = f"{self.teacher}".startswith("precomputed:")
        if stored != f"{self.deployment.teacher}".startswith("precomputed:"):
            raise KdbiasError(
                f"{self.deployment.place}: teacher is precomputed:FILE where the data set's is, and left out "
                "where that computes"
            )

    @property
    def reserves(self) -> bool:
        """Whether there are samples for references."""
        return self.reserve is not None or bool(self.reference_where)

    def named_reference(self, towards: str) -> str | None:
        """NAME of ``@reference:NAME``, the first one's of ``@reference``; None for any other target."""
        kind, _, name = towards.partition(":")
        return (name or next(iter(self.reference), "")) if kind == REFERENCE else None

    def require_reference(self, towards: str | None, place: str) -> None:
        """Refuse a reference that the data set has not."""
        name = None if towards is None else self.named_reference(towards)
        if name is not None and name not in self.reference:
            known = ", ".join(self.reference) or "none"
            raise KdbiasError(f"{place}: {towards}: data.{self.name} has no such reference; it has: {known}")

    def _check_references(self) -> None:
        """Refuse references without samples to draw from, and options that miss what they need."""
        here = self.place
        own = [reference.place for reference in self.reference.values() if reference.source is None]
        if own and not self.reserves:
            raise KdbiasError(f"{own[0]}: there is nothing to draw from; give reserve or reference_where")
        if (self.reserves or self.copies) and not self.image_size:
            raise KdbiasError(f"{here}: reserve, reference_where and copies need image_size")
        if self.reserve_by is not None and not self.reserves:
            raise KdbiasError(f"{here}: reserve_by goes with reserve or reference_where")
        if self.copies is not None and self.train_teacher is None:
            raise KdbiasError(f"{here}: copies need train_teacher: a stored teacher has not seen them")

    def _check_primary(self) -> None:
        """Refuse main metrics that no judge gives."""
        here, judges = self.place, ", ".join(self.judge)
        if not self.primary:
            raise KdbiasError(f"{here}.primary is empty, should name JUDGE.METRIC; judges: {judges}")
        for metric in self.primary:
            if metric.partition(".")[0] not in self.judge:
                raise KdbiasError(f"{here}.primary: {metric!r} should be JUDGE.METRIC; judges: {judges}")


@dataclass(frozen=True, kw_only=True)
class Round(Named):
    """Seeds, and which arms and cases they are for; an empty list: none."""

    seeds: tuple[int, ...] = option(text="of the students", least=0)
    arms: tuple[str, ...] | None = option(None, "those to run", shown="all")
    cases: tuple[str, ...] | None = option(None, "DATASET/BIAS to run", shown="all")

    def check(self) -> None:
        """Refuse no seeds, or the same twice."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise KdbiasError(f"{self.place}.seeds should be different whole numbers")

    def has(self, case: str) -> bool:
        """Whether the round runs a case (DATASET/BIAS)."""
        return self.cases is None or case in self.cases


@dataclass(frozen=True, kw_only=True)
class Study(Settings):
    """A whole study, as its file describes it."""

    name: str = option("", "heading of the results", shown="the file's name")  # type: ignore[misc]
    arms: Mapping[str, Arm] = tables(Arm, "ways to draw", MISSING)
    data: Mapping[str, DataSet] = tables(DataSet, "data sets", MISSING)
    rounds: Mapping[str, Round] = tables(Round, "seeds", MISSING)

    def check(self) -> None:
        """Refuse missing tables, and names that are not there."""
        here = self.place
        for key in ("arms", "data", "rounds"):
            if not getattr(self, key):
                raise KdbiasError(f"{here}: needs a table [{key}.NAME]")
        if BASELINE not in self.arms or self.arms[BASELINE].manifest["method"] != "natural":
            raise KdbiasError(f"{here}: needs an arm named natural with natural weights, to compare with")
        for round_ in self.rounds.values():
            _require(round_.arms, self.arms, f"{round_.place}.arms")
            _require(round_.cases, self.cases, f"{round_.place}.cases")
        used = {seed for round_ in self.rounds.values() for seed in round_.seeds}
        for data in self.data.values():
            self._check_references(data)
            _require(data.arms, self.arms, f"{data.place}.arms")
            for bias in data.bias.values():
                _require(bias.arms, self.arms, f"{bias.place}.arms")
            if data.tune is not None and data.tune.seed in used:
                raise KdbiasError(
                    f"{data.place}.tune.seed: {data.tune.seed} is a seed of a round; tune on another"
                )

    def _check_references(self, data: DataSet) -> None:
        """Refuse references that are not there: of other data sets, of measures, of arms that are run."""
        place = f"data.{data.name}"
        sources = [r.source for r in data.reference.values() if r.source is not None]
        _require(sources, [name for name in self.data if name != data.name], f"{place}.reference")
        measured = data.measure.get("towards")
        require_target(measured, f"{place}.measure")
        data.require_reference(measured, f"{place}.measure")
        for bias, round_ in product(data.bias.values(), self.rounds.values()):
            if round_.has(f"{data.name}/{bias.name}"):
                for arm in self.arms_of(data, bias, round_):
                    data.require_reference(arm.towards, f"arms.{arm.name}")

    @property
    def cases(self) -> list[str]:
        """DATASET/BIAS of all data sets and biases, in the order of the file."""
        return [f"{data.name}/{bias}" for data in self.data.values() for bias in data.bias]

    def arms_of(self, data: DataSet, bias: Bias, round_: Round) -> list[Arm]:
        """The arms of one case in one round, in the order of the file."""
        wanted = [data.arms, bias.arms, round_.arms]
        return [arm for arm in self.arms.values() if all(w is None or arm.name in w for w in wanted)]


def read_study(path: str | os.PathLike[str]) -> Study:
    """Read and check a study.

    Raises:
        KdbiasError: no TOML, unknown keys (named), values of the wrong kind, names that do not exist.
    """
    file = Path(path)
    return Study.of({"name": file.stem} | read_toml(file), str(file))


def _require(names: Collection[str] | None, known: Collection[str], where: str) -> None:
    """Refuse names that are not among the known."""
    for name in names or ():
        if name not in known:
            raise KdbiasError(f"{where}: there is no {name!r}; there are {', '.join(known)}")
