"""What a stage would do, take and write, where it is asked with `--plan` and does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbias.wording import duration, human_bytes


@dataclass(frozen=True)
class Planned:
    """A stage that was not run.

    Attributes:
        stage: its command.
        work: what it would do, in words.
        seconds: how long that should take on this machine and device; None where nothing tells.
        timed: what the time was taken from.
        memory: bytes that it takes at most beside the program itself; None where nothing tells.
        files: what it would write.
    """

    stage: str
    work: str
    seconds: float | None
    timed: str
    memory: int | None
    files: Sequence[str]

    @classmethod
    def finished(cls, stage: str, output: object) -> Planned:
        """Of an output that is there already, as the same command made it."""
        return cls(stage, f"{output} is finished already; nothing to do", 0.0, "it is there", None, [])

    def lines(self) -> list[str]:
        """What it is, its time, its memory and its files."""
        time = self.timed if self.seconds is None else f"about {duration(self.seconds)} ({self.timed})"
        return [
            f"plan of kdbias {self.stage}: {self.work}",
            f"  time    {time}",
            *(
                []
                if self.memory is None
                else [f"  memory  {human_bytes(self.memory)} at most, beside the program"]
            ),
            *([f"  writes  {', '.join(self.files)}"] if self.files else []),
        ]

    def summary(self) -> str:
        """The plan for people."""
        return "\n".join([*self.lines(), "nothing was done"])
