"""A study's TOML file as checked values; docs/studies.md explains every key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from kdbias.errors import KdbiasError
from kdbias.tables.documents import read_toml

BASELINE = "natural"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Arm:
    """One way to draw and train.

    weights   options of `kdbias.weights`; its `method` is natural by default
    train     options of `kdbias.train` that this arm alone has (`sampling = "iid"`)
    scratch   learn from labels alone, with the data set's `scratch` options
    """

    name: str
    weights: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    scratch: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        return {"method": "natural", **self.weights}


@dataclass(frozen=True)
class Bias:
    """Which training samples there are: the bias that is brought into a data set.

    kind        none, long-tail (`imbalance`, maybe `samples` of the largest class),
                skew (`share` of `samples` have `value` in `column`),
                fraction (`fraction` of the samples, or `samples` of them)
    steps       overrides the data set's; arms: those of the data set's to run here (default: all)
    """

    name: str
    kind: str = "none"
    imbalance: float | None = None
    column: str | None = None
    value: str | None = None
    share: float | None = None
    samples: int | None = None
    fraction: float | None = None
    seed: int = 0
    steps: int | None = None
    arms: tuple[str, ...] | None = None

    @property
    def draw(self) -> dict[str, Any]:
        """What decides the drawn samples."""
        names = ("kind", "imbalance", "column", "value", "share", "samples", "fraction", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Judge:
    """One evaluation of every student: a protocol of `kdbias.evaluate`, its options, maybe data of its own.

    Among the options, `@teacher` stands for the teacher's embeddings of all samples, `@draw` for those of
    the biased training samples and `@density` for the density table of all samples.
    """

    name: str
    protocol: str
    data: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def in_teacher_space(self) -> bool:
        """Whether a student that never saw the teacher cannot be judged."""
        return "@teacher" in (self.options.get("reference"), self.options.get("gallery"))


@dataclass(frozen=True)
class Tuning:
    """The learning rates tried with natural sampling, and the metric that chooses."""

    lr: tuple[float, ...]
    bias: str
    metric: str
    seed: int
    scratch_metric: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Data, teacher, student and judges of one part of a study."""

    name: str
    source: str
    steps: int
    student: dict[str, Any]
    bias: dict[str, Bias]
    judge: dict[str, Judge]
    primary: tuple[str, ...]
    teacher: str | None = None
    train_teacher: dict[str, Any] | None = None
    scratch: dict[str, Any] = field(default_factory=dict)
    tune: Tuning | None = None
    image_size: str | int | None = None
    holdout: float | None = None
    holdout_seed: int = 0
    train_where: tuple[str, ...] = ()
    test_where: tuple[str, ...] = ()
    id_column: str | None = None
    label_column: str | None = None
    measure: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Round:
    """Seeds, and which arms and cases ("DATASET/BIAS") they are for (default: all; an empty list: none)."""

    name: str
    seeds: tuple[int, ...]
    arms: tuple[str, ...] | None = None
    cases: tuple[str, ...] | None = None

    def has(self, case: str) -> bool:
        return self.cases is None or case in self.cases


@dataclass(frozen=True)
class Description:
    name: str
    arms: dict[str, Arm]
    data: dict[str, DataSet]
    rounds: dict[str, Round]

    def arms_of(self, data: DataSet, bias: Bias, round_: Round) -> list[Arm]:
        """The arms of one case in one round, in the order of the file."""
        wanted = [data.arms, bias.arms, round_.arms]
        return [arm for arm in self.arms.values() if all(w is None or arm.name in w for w in wanted)]


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read and check a study.

    Raises:
        KdbiasError: no TOML, unknown keys (named), values of the wrong kind, names that do not exist.
    """
    file = Path(path)
    content = read_toml(file)
    _refuse_unknown(content, ("name", "arms", "data", "rounds"), str(file))
    for key in ("arms", "data", "rounds"):
        if not isinstance(content.get(key), dict) or not content[key]:
            raise KdbiasError(f"{file}: needs a table [{key}.NAME]")
    study = Description(
        name=str(content.get("name", file.stem)),
        arms=_named(Arm, content["arms"], f"{file}: arms"),
        data={name: _data_set(name, table, f"{file}: data") for name, table in content["data"].items()},
        rounds=_named(Round, content["rounds"], f"{file}: rounds"),
    )
    _check(study, str(file))
    return study


def _data_set(name: str, table: Any, where: str) -> DataSet:
    here = f"{where}.{name}"
    if not isinstance(table, dict):
        raise KdbiasError(f"{here} should be a table")
    nested = dict(table)
    nested["bias"] = _named(Bias, table.get("bias", {"none": {}}), f"{here}.bias")
    nested["judge"] = _named(Judge, table.get("judge", {}), f"{here}.judge")
    if "tune" in table:
        nested["tune"] = _made(Tuning, table["tune"], f"{here}.tune")
    return _named(DataSet, {name: nested}, where)[name]


def _named(kind: type[_T], tables: Any, where: str) -> dict[str, _T]:
    if not isinstance(tables, dict):
        raise KdbiasError(f"{where} should hold tables [{where.rpartition(' ')[2]}.NAME]")
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            raise KdbiasError(f"{where}: {name!r} is no name; use letters, digits and . _ + -")
        if not isinstance(table, dict):
            raise KdbiasError(f"{where}.{name} should be a table")
        if "name" in table:
            raise KdbiasError(f"{where}.{name}: unknown key name")
    return {name: _made(kind, {**table, "name": name}, f"{where}.{name}") for name, table in tables.items()}


def _made(kind: Any, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise KdbiasError(f"{where} should be a table")
    known = {f.name: f for f in fields(kind)}
    _refuse_unknown(table, [name for name in known if name != "name"], where, ignore=("name",))
    for name, f in known.items():
        needed = f.default is MISSING and f.default_factory is MISSING
        if needed and name not in table:
            raise KdbiasError(f"{where}: the key {name} is missing")
    return kind(**{name: _value(known[name].type, value, f"{where}.{name}") for name, value in table.items()})


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "dict": ((dict,), "a table"),
}


def _value(kind: Any, value: Any, where: str) -> Any:
    """A TOML value of the annotated type; lists become tuples."""
    text = str(kind)
    if text.startswith("Tuning"):
        return value
    if text.startswith("tuple"):
        inner = text[len("tuple[") :].partition(",")[0]
        if not isinstance(value, list):
            raise KdbiasError(f"{where} is {value!r}, should be a list")
        return tuple(_value(inner, item, where) for item in value)
    options = [o.partition("[")[0].strip() for o in text.split("|") if o.strip() != "None"]
    for option in options:
        types, _ = _KINDS[option]
        if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
            return value
    wanted = " or ".join(_KINDS[option][1] for option in options)
    raise KdbiasError(f"{where} is {value!r}, should be {wanted}")


def _refuse_unknown(table: Mapping[str, Any], known: Any, where: str, ignore: tuple[str, ...] = ()) -> None:
    unknown = sorted(set(table) - set(known) - set(ignore))
    if unknown:
        raise KdbiasError(f"{where}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")


def _check(study: Description, file: str) -> None:
    if BASELINE not in study.arms or study.arms[BASELINE].manifest["method"] != "natural":
        raise KdbiasError(f"{file}: needs an arm named natural with natural weights, to compare with")
    cases = [f"{d.name}/{b}" for d in study.data.values() for b in d.bias]
    for round_ in study.rounds.values():
        _require(round_.arms, study.arms, f"{file}: rounds.{round_.name}.arms")
        _require(round_.cases, cases, f"{file}: rounds.{round_.name}.cases")
        if not round_.seeds or len(set(round_.seeds)) < len(round_.seeds):
            raise KdbiasError(f"{file}: rounds.{round_.name}.seeds should be different whole numbers")
    for data in study.data.values():
        _check_data(study, data, f"{file}: data.{data.name}")


def _check_data(study: Description, data: DataSet, here: str) -> None:
    _require(data.arms, study.arms, f"{here}.arms")
    if (data.teacher is None) == (data.train_teacher is None):
        raise KdbiasError(f"{here}: give either teacher (a spec) or train_teacher (options of kdbias train)")
    if not data.judge:
        raise KdbiasError(f"{here}: needs a table [data.{data.name}.judge.NAME]")
    if data.steps < 1:
        raise KdbiasError(f"{here}.steps is {data.steps}, should be at least 1")
    if data.holdout is not None and (not 0 < data.holdout < 1 or data.test_where or not data.image_size):
        raise KdbiasError(f"{here}: holdout is a share in (0, 1), without test_where, and needs image_size")
    own = [judge for judge in data.judge.values() if judge.data is None]
    if own and data.holdout is None and not data.test_where:
        raise KdbiasError(f"{here}: say what the students are judged on: test_where or holdout")
    if not data.primary:
        raise KdbiasError(f"{here}.primary is empty, should name JUDGE.METRIC; judges: {_list(data.judge)}")
    for metric in data.primary:
        if metric.partition(".")[0] not in data.judge:
            raise KdbiasError(
                f"{here}.primary: {metric!r} should be JUDGE.METRIC; judges: {_list(data.judge)}"
            )
    for bias in data.bias.values():
        _require(bias.arms, study.arms, f"{here}.bias.{bias.name}.arms")
    if data.tune is not None:
        _require((data.tune.bias,), data.bias, f"{here}.tune.bias")
        used = {seed for round_ in study.rounds.values() for seed in round_.seeds}
        if data.tune.seed in used:
            raise KdbiasError(f"{here}.tune.seed: {data.tune.seed} is a seed of a round; tune on another")


def _require(names: Any, known: Any, where: str) -> None:
    for name in names or ():
        if name not in known:
            raise KdbiasError(f"{where}: there is no {name!r}; there are {_list(known)}")


def _list(names: Any) -> str:
    return ", ".join(names)
