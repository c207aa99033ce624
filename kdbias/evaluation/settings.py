"""Every option of `evaluate` and `compare`, and the protocols with theirs. Imports nothing heavy.

A further protocol is a class here, whose docstring is its line in the command's help, and beside this file a
module of its name with its mathematics: `judge(options, task)` and `score(columns, weights, parameters)`, as
`Protocol` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from kdbias import shared_options as shared
from kdbias.data.settings import Reading
from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.settings import Branching, Settings, declared_in, option

if TYPE_CHECKING:
    import numpy as np

    from kdbias.evaluation.task import Outcome, Task

_MOST_RESAMPLES = 1_000_000
READING = tuple(declared.name for declared in declared_in(Reading) if declared.name != "where")
"""Options that say how data are read."""

_DISTANCES = frozenset({"distance", "squared_distance"})
_TEACHERS = "the teacher's embeddings of the same samples"


def _reads(text: str, metavar: str, required: bool = False, shown: str | None = None) -> Any:
    """An option that names what is read beside the judged embeddings."""
    default = MISSING if required else None
    return option(default, text, path=True, metavar=metavar, shown=shown)


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """A way to judge embeddings; its fields are its options.

    Attributes:
        module: of its mathematics, where that has not the protocol's name.
        unit: what it judges one by one.
        flips: whether it reads the mirrored views, where a table has them.
        lower_is_better: names of metrics of which less is better.
    """

    module: ClassVar[str] = ""
    unit: ClassVar[str] = "sample"
    flips: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def mathematics(cls) -> Any:
        """The module that judges and scores; imported when it is wanted."""
        return import_module(f"kdbias.evaluation.{cls.module or cls.name}")

    def judge(self, task: Task) -> Outcome:
        """The result of every unit.

        Raises:
            KdbiasError: what is judged does not fit the protocol or its other inputs.
        """
        return self.mathematics().judge(self, task)

    @classmethod
    def score(
        cls, columns: Mapping[str, np.ndarray], weights: np.ndarray, parameters: Mapping[str, Any]
    ) -> dict[str, float]:
        """The metrics of weighted units: all that intervals, groups and comparisons need.

        Args:
            columns: per-unit results as `judge` left them, (n,) each, of all units or of some.
            weights: (n,) float64, how often each unit counts.
            parameters: those of the outcome.

        Returns:
            Metric -> value; NaN where it is undefined for these units.
        """
        return cls.mathematics().score(columns, weights, parameters)

    @property
    def paths(self) -> dict[str, str]:
        """What is read beside the judged embeddings, by option."""
        named = {d.name: getattr(self, d.name) for d in declared_in(type(self)) if d.about.path}
        return {name: path for name, path in named.items() if path is not None}

    def check(self) -> None:
        """Refuse an empty list of values."""
        for declared in declared_in(type(self)):
            if getattr(self, declared.name) == ():
                raise KdbiasError(f"{self.name}: {declared.name} is empty; give a number, or leave it out")


@dataclass(frozen=True, kw_only=True)
class _OfSamples(Protocol):
    cluster_by: str | None = option(
        None,
        "column whose values are resampled as a whole, '' for each sample alone",
        metavar="COLUMN",
        shown="the label where labels are identities: 30 or more, with fewer than 30 judged samples each",
    )


@dataclass(frozen=True, kw_only=True)
class _Classifying(_OfSamples):
    tail_from: str | None = _reads("table whose label counts say which classes are the tail", "TABLE")


@dataclass(frozen=True, kw_only=True)
class Knn(_Classifying):
    """Accuracy of the nearest class centroid and of k neighbours; overall, balanced, tail."""

    name = "knn"
    lower_is_better = _DISTANCES

    k: int = option(5, "neighbours that vote", least=1)
    gallery: str | None = _reads("where to search", "EMB", shown="the judged table, less the sample")
    reference: str | None = _reads(_TEACHERS, "EMB")


@dataclass(frozen=True, kw_only=True)
class Linear(_Classifying):
    """Accuracy of a linear classifier on frozen embeddings."""

    name = "linear"

    gallery: str = _reads("labelled embeddings to learn from", "EMB", required=True)


@dataclass(frozen=True, kw_only=True)
class Fidelity(_OfSamples):
    """Distance to the teacher's embeddings of the same samples; by group and density."""

    name = "fidelity"
    lower_is_better = _DISTANCES

    reference: str = _reads(_TEACHERS, "EMB", required=True)
    density: str | None = _reads("density table of the same samples; report by its deciles", "DENSITY")


@dataclass(frozen=True, kw_only=True)
class _OfPairs(Protocol):
    unit = "pair"
    flips = True

    flip_fusion: str | None = option(
        None,
        "add both views as raw embeddings or as unit vectors",
        choices=("raw", "unit"),
        shown="raw, where there are two",
    )


@dataclass(frozen=True, kw_only=True)
class _OverFolds(_OfPairs):
    folds: tuple[int, ...] | None = option(None, "folds of the list to use, e.g. 7,8", shown="all")
    style: str = option("insightface", "thresholds and spreads", choices=("insightface", "facex", "exact"))
    cluster_by: str = option(
        "label", "column of the subjects that are resampled, '' for each pair alone", metavar="COLUMN"
    )

    def check(self) -> None:
        super().check()
        if self.style == "facex" and self.flip_fusion is not None:
            raise KdbiasError(
                f"--flip-fusion {self.flip_fusion} adds two views, and the style facex takes one"
            )


@dataclass(frozen=True, kw_only=True)
class Verification(_OverFolds):
    """Pairs over folds (LFW, CFP, AgeDB), TAR@FAR."""

    name = "verification"
    lower_is_better = frozenset({"eer", "fmr", "fnmr"})

    pairs: str = _reads("list of pairs", "PATH", required=True)
    far: tuple[float, ...] = option((1e-3, 1e-2), "false accept rates", above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class Rfw(_OverFolds):
    """Verification by group, its spread and error ratio."""

    name = "rfw"
    module = "verification"
    lower_is_better = frozenset({"std_percent", "ser", "gap"})

    pairs: str = _reads("folder of one list a group, or with --group-column one list", "PATH", required=True)
    group_column: str | None = option(None, "column that splits one list into groups", metavar="COLUMN")


@dataclass(frozen=True, kw_only=True)
class Ijbc(_OfPairs):
    """Templates pooled over media, TAR@FAR."""

    name = "ijbc"

    pairs: str = _reads("list of pairs of templates", "PATH", required=True)
    templates: str | None = _reads("the benchmark's template file", "PATH")
    detector_scores: str | None = _reads("the benchmark's landmark and score file", "PATH")
    keep_norm: bool = option(True, "let embedding lengths count")
    far: tuple[float, ...] = option(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "false accept rates", above=0, most=1
    )
    cluster_by: str = option("subject", "subject, or '' to resample each pair alone", metavar="COLUMN")

    def check(self) -> None:
        """Refuse to resample by anything but subjects or pairs."""
        super().check()
        if self.cluster_by not in ("subject", ""):
            raise KdbiasError(
                f"ijbc resamples by 'subject' or, with '', by pair; cluster_by is {self.cluster_by!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Reid(Protocol):
    """CMC, mAP, mINP without same-camera matches."""

    name = "reid"
    unit = "query"

    gallery: str | None = _reads("where to search", "EMB", shown="the judged table, less the sample")
    camera_column: str | None = option(
        None,
        "column with the camera, none for no same-camera exclusion",
        metavar="COLUMN",
        shown="camera, cam or camid",
    )
    cluster_by: str = option(
        "label", "column whose values are resampled as a whole, '' for each query alone", metavar="COLUMN"
    )


PROTOCOLS: dict[str, type[Protocol]] = {
    kind.name: kind for kind in (Knn, Fidelity, Verification, Rfw, Ijbc, Reid, Linear)
}
"""Every protocol by its name."""


@dataclass(frozen=True, kw_only=True)
class _Asked(Branching):
    chooser = "protocol"
    chosen: Protocol

    protocol: str = option("knn", "how to judge", choices=tuple(PROTOCOLS))
    data: str | None = option(
        None, "data to embed with the model, which is then a run folder or a teacher spec", path=True
    )
    group_by: tuple[str, ...] = shared.group_by()
    gallery_where: tuple[str, ...] = option(
        (),
        "keep these rows of the gallery, or without --gallery of the judged table",
        metavar="COLUMN=VALUE",
    )
    bootstrap: int | None = option(
        None,
        "resamples behind the intervals, 0 for none",
        shown="1,000, or 200 for over a million units",
        least=0,
        most=_MOST_RESAMPLES,
    )
    seed: int = option(0, "decides the resampling", least=0)

    @classmethod
    def branches(cls) -> Mapping[str, type[Protocol]]:
        return PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class _Embedding(Settings):
    """How data are embedded; None: as `kdbias.embed` does by default."""

    flip: bool = option(False, "--data: embed the mirrored images, too (verification, rfw, ijbc)")
    teacher_output: str | None = option(
        None,
        "--data: which output of a network with several (onnx, openvino, torchscript, python)",
        metavar="NAME|INDEX",
        flag="--output",
    )
    precision: str | None = option(
        None, "--data: arithmetic of the forward pass", choices=("fp32", "bf16", "fp16"), shown="fp32"
    )
    device: str | None = option(None, "--data: where to embed", metavar="auto|cpu|cuda[:N]", shown="auto")
    batch_size: int | None = option(None, "--data: images a batch", least=1, shown="64")
    workers: int | None = option(None, "--data: decoding processes", least=0, most=MOST_PARALLEL, shown="2")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(_Embedding, Reading, _Asked):
    """What is asked of a model; `chosen` is the protocol with its own options."""

    name = "evaluate"

    def check(self) -> None:
        """Refuse options that the chosen protocol or data would not read."""
        idle = {"flip": self.chosen.flips, "gallery_where": hasattr(self.chosen, "gallery")}
        unread = [name for name, reads in idle.items() if getattr(self, name) and not reads]
        if unread:
            raise KdbiasError(f"protocol {self.protocol} does not read {', '.join(unread)}; leave it out")
        if self.embedding and self.data is None:
            stray = ", ".join(self.embedding)
            raise KdbiasError(f"{stray} belong(s) to embedding: give --data, or drop it")

    @property
    def embedding(self) -> dict[str, Any]:
        """Options of `kdbias.embed` that were given, but `where`."""
        known = (*READING, *(declared.name for declared in declared_in(_Embedding)))
        given = {name: getattr(self, name) for name in known}
        return {name: value for name, value in given.items() if value is not None and value is not False}


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings):
    """How two sides are compared."""

    name = "compare"

    bootstrap: int = option(1000, "resamples", least=100, most=_MOST_RESAMPLES)
    seed: int = option(0, "decides the resampling", least=0)


def options_of(protocol: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options in an evaluation's record, with the defaults of those that an earlier one lacks."""
    usual = PROTOCOLS[protocol].usual() if protocol in PROTOCOLS else {}
    return usual | (config.get("options") or {})
