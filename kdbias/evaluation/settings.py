"""Every option of `evaluate` and `compare` but those of the protocols. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdbias.data.settings import Reading
from kdbias.device import MOST_PARALLEL
from kdbias.errors import KdbiasError
from kdbias.evaluation.protocols import PROTOCOLS, Protocol
from kdbias.settings import Branching, Settings, declared_in, option

_MOST_RESAMPLES = 1_000_000
READING = tuple(declared.name for declared in declared_in(Reading) if declared.name != "where")
"""Options that say how data are read."""


@dataclass(frozen=True, kw_only=True)
class _Asked(Branching):
    chooser = "protocol"
    chosen: Protocol

    protocol: str = option("knn", "how to judge", choices=tuple(PROTOCOLS))
    data: str | None = option(
        None, "data to embed with the model, which is then a run folder or a teacher spec", path=True
    )
    group_by: tuple[str, ...] = option((), "report by this column, too; repeatable", metavar="COLUMN")
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
