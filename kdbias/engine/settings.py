"""Where units of work run, as a user says it. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kdbias.errors import KdbiasError
from kdbias.settings import Settings, option
from kdbias.wording import nearest

_KINDS = ("here", "ranks", "ray")


def parse_engine(text: str) -> str:
    """`here`, `ranks`, `ray` or `ray:ADDRESS`; raises KdbiasError for anything else."""
    kind, colon, address = str(text).partition(":")
    if kind not in _KINDS or (colon and (kind != "ray" or not address)):
        known = "here, ranks, ray or ray:ADDRESS"
        raise KdbiasError(f"--engine {text!r} is not one of {known}{nearest(kind, _KINDS)}")
    return str(text)


@dataclass(frozen=True, kw_only=True)
class Engines(Settings):
    """How units of work are done, which changes no result."""

    engine: str | None = option(
        None,
        "where units of work run: in this process, in the processes of torchrun or srun, on a Ray cluster",
        parse=parse_engine,
        metavar="here|ranks|ray[:ADDRESS]",
        shown="ranks where WORLD_SIZE is above 1, else here",
        operational=True,
    )
    retries: int = option(
        5, "times that a unit may be lost with its worker or node, on Ray", least=0, operational=True
    )
    unit_cpus: int | None = option(
        None, "CPUs that a unit is given, on Ray", least=1, shown="1", operational=True
    )
    unit_gpus: float | None = option(
        None, "GPUs that a unit is given, on Ray", least=0, shown="1 with --device cuda", operational=True
    )

    @property
    def engine_kind(self) -> str:
        """`here`, `ranks` or `ray`."""
        if self.engine is not None:
            return self.engine.partition(":")[0]
        return "ranks" if os.environ.get("WORLD_SIZE", "1") != "1" else "here"

    def check(self) -> None:
        """Refuse options of Ray elsewhere."""
        super().check()
        if self.engine_kind != "ray":
            why = "that is an option of --engine ray"
            self.refuse_idle(dict.fromkeys(("retries", "unit_cpus", "unit_gpus"), why))
