"""Which samples a study trains on and which it keeps as references, as described; `samples` draws them.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbias.errors import KdbiasError
from kdbias.nested_settings import Named
from kdbias.settings import Branching, Settings, option


@dataclass(frozen=True, kw_only=True)
class LongTail(Settings):
    """Classes of geometrically falling size."""

    imbalance: float = option(text="largest class / smallest", least=1)
    samples: int | None = option(None, "of the largest class", shown="as the data's smallest", least=1)
    capped: bool = option(False, "classes that have fewer samples than their place asks for keep all of them")

    def check(self) -> None:
        """Refuse a cap without a size that it is of."""
        if self.capped and self.samples is None:
            raise KdbiasError(f"{self.place}: capped needs samples")


@dataclass(frozen=True, kw_only=True)
class Skew(Settings):
    """A share of the samples has one value, or one of several."""

    column: str = option(text="where the value stands")
    value: tuple[str, ...] = option(text="of the column, or several values")
    share: float = option(text="of the samples that have it", above=0, below=1)
    samples: int = option(text="in all", least=1)


@dataclass(frozen=True, kw_only=True)
class Fraction(Settings):
    """A random part of the training samples."""

    fraction: float | None = option(None, "of the samples", above=0, most=1)
    samples: int | None = option(None, "how many", least=1)

    def check(self) -> None:
        """Refuse both or neither of fraction and samples."""
        if (self.fraction is None) == (self.samples is None):
            raise KdbiasError(f"{self.place}: kind fraction needs fraction or samples")


BIASES: dict[str, type[Settings]] = {
    "none": Settings,
    "long-tail": LongTail,
    "skew": Skew,
    "fraction": Fraction,
}


@dataclass(frozen=True, kw_only=True)
class Bias(Named, Branching):
    """Which training samples there are: the bias that is brought into a data set."""

    chooser = "kind"

    kind: str = option("none", "which samples are kept", choices=tuple(BIASES))
    seed: int = option(0, "of the draw", least=0)
    steps: int | None = option(None, "of every student", shown="the data set's", least=1)
    arms: tuple[str, ...] | None = option(None, "those of the data set's to run here", shown="all")

    @classmethod
    def branches(cls) -> Mapping[str, type[Settings]]:
        """The options of each kind of bias."""
        return BIASES

    @property
    def draw(self) -> dict[str, Any]:
        """What decides the drawn samples."""
        names = ("imbalance", "column", "value", "share", "samples", "fraction")
        chosen = {name: getattr(self.chosen, name, None) for name in names}
        if chosen["value"] is not None:  # as before there could be several
            chosen["value"] = chosen["value"][0] if len(chosen["value"]) == 1 else list(chosen["value"])
        if getattr(self.chosen, "capped", False):
            chosen["capped"] = True
        return {"kind": self.kind, **chosen, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class Reference(Named):
    """A sample of what the student will be used on: neither trained on nor judged."""

    samples: int | None = option(None, "how many; smaller ones are part of larger ones", shown="all", least=2)
    skip: int = option(0, "how many to leave out first, for a second sample that shares none", least=0)
    where: tuple[str, ...] = option((), "which of the reserved samples", shown="all")
    source: str | None = option(
        None,
        "another data set of the study, by the same teacher: a sample of all of it",
        shown="the reserved samples",
    )
    seed: int = option(0, "of the order in which they are drawn", least=0)

    @property
    def draw(self) -> dict[str, Any]:
        """What decides the drawn samples."""
        return {name: value for name, value in self.record().items() if name != "source"}


@dataclass(frozen=True, kw_only=True)
class Copies(Settings):
    """Near duplicates that are made of some training samples, for biases with bursts of them."""

    originals: int = option(text="training samples that are copied", least=1)
    each: int = option(text="copies of each", least=1)
    seed: int = option(0, "of the choice and of the copies", least=0)


@dataclass(frozen=True, kw_only=True)
class Read(Settings):
    """How data are read where their columns have other than the usual names: options of `kdbias.embed`."""

    id_column: str | None = option(None, "as of `kdbias.embed`")
    label_column: str | None = option(None, "as of `kdbias.embed`")
    path_column: str | None = option(None, "as of `kdbias.embed`")
    image_column: str | None = option(None, "as of `kdbias.embed`")
    root: str | None = option(None, "as of `kdbias.embed`")

    @property
    def columns(self) -> dict[str, Any]:
        """Those that are given, as options of `kdbias.embed`."""
        given = {declared.name: getattr(self, declared.name) for declared in Read.declared()}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Deployment(Read):
    """What the student will be used on, where that lies elsewhere: judged on, and drawn on for references."""

    source: str = option(text="anything that `kdbias.embed` reads")
    teacher: str | None = option(None, "stored vectors, precomputed:FILE", shown="the data set's teacher")
    where: tuple[str, ...] = option((), "which of its samples", shown="all")
    samples: int | None = option(None, "how many take part, drawn at random", shown="all", least=2)
    seed: int = option(0, "which samples these are", least=0)
