"""What a study is told: the options of `kdbias.study`, and the keys of its TOML file (docs/studies.md)."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.nested_settings import Named, keys, table, tables
from kdbias.settings import Settings, option
from kdbias.studies.biases import Bias, Copies, Reference
from kdbias.tables.documents import read_toml
from kdbias.targets.settings import SPHERE

BASELINE = "natural"
REFERENCE = "@reference"
_BY_LABEL = ("class-balanced", "effective-number", "hard")


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
    threads: int = option(1, "CPU threads a worker", least=1, most=MOST_PARALLEL)
    device: str = option("auto", "of teachers and students: auto, cpu, cuda or cuda:N")
    dry_run: bool = option(False, "list the missing runs with their time; run nothing")

    @property
    def machine(self) -> Machine:
        """Where and how to compute."""
        return Machine(self.device, self.threads)


@dataclass(frozen=True, kw_only=True)
class Arm(Named):
    """One way to draw and train."""

    weights: Mapping[str, Any] = keys(
        "options of `kdbias.weights`; the method is natural by default, matched where `towards` is named: "
        "`@reference` (the data set's first), `@reference:NAME`, balanced:COLUMN or sphere"
    )
    train: Mapping[str, Any] = keys("options of `kdbias.train` that this arm alone has")
    scratch: bool = option(False, "learn from labels alone, with the data set's `scratch` options")

    @property
    def manifest(self) -> dict[str, Any]:
        """Options of `kdbias.weights`, the method among them."""
        return {"method": "natural" if self.towards is None else "matched", **self.weights}

    @property
    def towards(self) -> str | None:
        """The target as it is named; None for none."""
        return self.weights.get("towards")

    @property
    def needs(self) -> str:
        """What it must be given beside the data: "labels" (or another column), "a reference" or "nothing"."""
        of_labels = self.manifest["method"] in _BY_LABEL or "with_column" in self.weights
        if self.scratch or of_labels or (self.towards or "").startswith("balanced:"):
            return "labels"
        return "nothing" if self.towards in (None, SPHERE) else "a reference"

    def check(self) -> None:
        """Refuse a target whose file would not count in the name of a run."""
        _require_target(self.towards, self.place)


@dataclass(frozen=True, kw_only=True)
class Judge(Named):
    """One evaluation of every student: a protocol of `kdbias.evaluate`, its options, maybe own data."""

    protocol: str = option(text="of `kdbias.evaluate`")
    data: str | None = option(None, "another data set to embed and judge on")
    options: Mapping[str, Any] = keys(
        "of `kdbias.evaluate`; `@teacher`: the teacher's embeddings of all samples, `@draw`: of the biased "
        "training samples, `@density`: the density table of all samples"
    )

    @property
    def in_teacher_space(self) -> bool:
        """Whether a student that never saw the teacher cannot be judged."""
        return "@teacher" in (self.options.get("reference"), self.options.get("gallery"))


@dataclass(frozen=True, kw_only=True)
class Tuning(Settings):
    """The learning rates tried with natural sampling, and the metric that chooses."""

    lr: tuple[float, ...] = option(text="learning rates to try", above=0)
    bias: str = option(text="on which to try them")
    metric: str = option(text="JUDGE.METRIC that chooses")
    seed: int = option(text="no seed of a round", least=0)
    scratch_metric: str | None = option(None, "JUDGE.METRIC that chooses for arms from scratch")


def _image_size(value: Any) -> Any:
    """N or HxW; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"is {value!r}, should be N or HxW")
    return value


@dataclass(frozen=True, kw_only=True)
class DataSet(Named):
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
    id_column: str | None = option(None, "as of `kdbias.embed`")
    label_column: str | None = option(None, "as of `kdbias.embed`")
    measure: Mapping[str, Any] = keys("options of `kdbias.uniformity`")
    arms: tuple[str, ...] | None = option(None, "those to run", shown="all")

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of ids and labels that are named, as options of `kdbias.embed`."""
        given = {"id_column": self.id_column, "label_column": self.label_column}
        return {name: column for name, column in given.items() if column is not None}

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
        if own and self.holdout is None and not self.test_where:
            raise KdbiasError(f"{here}: say what the students are judged on: test_where or holdout")

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
        _require_target(measured, f"{place}.measure")
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


def _require_target(towards: Any, place: str) -> None:
    """Refuse a target that names a file: its content would not count in the name of a run."""
    if towards is None:
        return
    kind, _, what = str(towards).partition(":")
    if not (kind in (REFERENCE, SPHERE) or (kind == "balanced" and what and "@" not in what)):
        raise KdbiasError(
            f"{place}: towards {towards!r} should be @reference, @reference:NAME, balanced:COLUMN or sphere"
        )


def _require(names: Collection[str] | None, known: Collection[str], where: str) -> None:
    """Refuse names that are not among the known."""
    for name in names or ():
        if name not in known:
            raise KdbiasError(f"{where}: there is no {name!r}; there are {', '.join(known)}")
