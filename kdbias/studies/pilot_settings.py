"""The options of a pilot. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias import shared_options as shared
from kdbias.device import MOST_PARALLEL
from kdbias.kinds import seconds_of
from kdbias.settings import Settings, option
from kdbias.targets.settings import Aiming


@dataclass(frozen=True, kw_only=True)
class PilotOptions(Settings):
    """How long small students may be trained, and how."""

    name = "pilot"

    within: float = option(
        600.0,
        "train small students under the candidate samplings, for so long at most (such as 10m), and compare "
        "them",
        flag="--pilot",
        parse=seconds_of,
        metavar="TIME",
        shown="",  # without --pilot there is none
        accepts="str | float",
    )
    flip: str = option("none", "mirror half the students' images: same for faces", choices=("none", "same"))
    most_seeds: int = option(10, "students of each sampling at most", least=1, most=100)
    workers: int | None = option(
        None, "students at a time", shown="one a CPU, one on a GPU", least=1, most=MOST_PARALLEL
    )
    device: str = shared.device("of the students", operational=False)


@dataclass(frozen=True, kw_only=True)
class PilotSettings(PilotOptions, Aiming):
    """The same, with what the student will be used on and whom it is judged for."""

    name = "pilot"

    embeddings: str | None = shared.embeddings()
    group_by: tuple[str, ...] = shared.judged_groups()
