"""The options of `run`: those of `embed`, a target, and a few of the stages behind. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from kdbias import shared_options as shared
from kdbias.device import parse_bytes
from kdbias.embedding.settings import EmbedSettings
from kdbias.settings import option
from kdbias.targets.settings import Aiming


@dataclass(frozen=True, kw_only=True)
class RunSettings(EmbedSettings, Aiming):
    """How images are embedded, what they are held against, and what the stages behind may take."""

    name = "run"

    towards: str | None = option(
        None,
        "what the student will be used on: some hundred images of it (a folder or anything that DATA may be; "
        "labels are not needed), which the same teacher embeds into OUT/reference, or their embedding table; "
        "balanced:COLUMN, each value of a column of the data alike; or sphere",
        metavar="REF|balanced:COLUMN|sphere",
        parse=Aiming.declared()[0].about.parse,
        accepts="str",
    )
    min_ess: float | None = option(
        None, "least ESS / distinct samples of the weights", shown="0.5", least=0, most=1
    )
    group_by: tuple[str, ...] = shared.group_by(operational=True)
    memory: str | None = option(
        None,
        "most extra memory of measuring and weighing, 256MiB or more",
        shown="4GiB",
        metavar="SIZE",
        operational=True,
    )
    threads: int | None = shared.threads("CPU threads of these")
    pictures: int = option(
        10, "sample images of each kind on the page; 0 for none", least=0, operational=True
    )

    def check(self) -> None:
        """The rules of `embed` and of targets."""
        EmbedSettings.check(self)
        Aiming.check(self)
        if self.memory is not None:
            parse_bytes(self.memory)
