"""An advice: its parts, and its lines, which terminal and page share."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdbias.advice.costs import Cost
from kdbias.advice.data import Counts
from kdbias.advice.finding import Choice
from kdbias.advice.groups import GroupShift
from kdbias.advice.groups import told as told_groups
from kdbias.advice.matching import Difference, Offer
from kdbias.display.result import Result
from kdbias.display.table import Table
from kdbias.errors import KdbiasError
from kdbias.scratch import named
from kdbias.wording import duration, visible_lines

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_WIDTH = 110
_TOPIC = 11  # characters of the column with what a line is about


@dataclass(frozen=True)
class Fact:
    """One line: what it is about, in a word, and the text."""

    topic: str
    text: str


@dataclass(frozen=True)
class Expected:
    """What came of it in a case of our own study.

    Attributes:
        case, what: its name there, and in words.
        tried: "matched" (to 300 images), "labels" (balanced by them) or "inverse-density" (without a target).
        value, low, high: share of natural sampling's error that was removed, with its 95 % interval.
        seeds: of its students.
        file: where it is written.
    """

    case: str
    what: str
    tried: str
    value: float
    low: float
    high: float
    seeds: int
    file: str


@dataclass(frozen=True, repr=False)
class Advice(Result):
    """What to do with some data, and why.

    Attributes:
        choice: "matched" (draw by weights matched to the target), "compare" (train both ways: in the case
            most like it such weights did not help), "copies" (draw exact copies as one sample, by the same
            weights), "natural" (leave the data as they come) or "unknown" (no target).
        verdict: the same in one line.
        samples, dimensions: of the data.
        counts: of odd samples.
        target: how the data stand to it; None without one.
        offers: what matched weights would do at several effective sample sizes.
        advised: the offer that the groups and the commands are about; None where none is.
        facts: lines about the data, the target and the weights.
        groups: a row for each value of each column, before and after.
        expected: what came of it in the cases of our study that are most like these data, the nearest first.
        costs: what the stages take here.
        commands: to type next.
    """

    choice: Choice
    verdict: str
    samples: int
    dimensions: int
    counts: Counts
    target: Difference | None
    offers: tuple[Offer, ...]
    advised: Offer | None
    facts: tuple[Fact, ...]
    groups: tuple[GroupShift, ...]
    expected: tuple[Expected, ...]
    expectation: str
    costs: tuple[Cost, ...]
    commands: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The advice as JSON values, its lines among them."""
        return dataclasses.asdict(self) | {"lines": self.lines()}

    def lines(self) -> list[str]:
        """The advice for people, the verdict first; a line may be long."""
        return [f"{fact.topic}: {fact.text}" for fact in self._told()] + list(self.commands)

    def blocks(self) -> list[str | Table]:
        """The same as text: what each line is about stands before it, commands stay whole."""
        lines = []
        for fact in self._told():
            head = fact.topic.ljust(_TOPIC)
            lines += textwrap.wrap(
                visible_lines(named(fact.text)),
                _WIDTH,
                initial_indent=head,
                subsequent_indent=" " * _TOPIC,
                break_on_hyphens=False,
                break_long_words=False,
            )
        heads = ["to do".ljust(_TOPIC), *[" " * _TOPIC] * len(self.commands)]
        return ["\n".join([*lines, *(h + c for h, c in zip(heads, self.commands, strict=False))])]

    def to_pandas(self) -> pd.DataFrame:
        """A row for each value of each column: its share before, after and in the target."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(row) for row in self.groups])

    def plot(self) -> Figure:
        """Who is drawn: the share of each value of a column before, after, and in the target."""
        from kdbias.display import plots

        rows = [
            (
                f"{row.column}: {row.value or '(none)'}",
                {kind: plots.percent(getattr(row, kind)) for kind in ("before", "after", "target")},
                None,
            )
            for row in self.groups
        ]
        if not rows:
            raise KdbiasError("these data have no columns of a few values, so there is nobody to draw apart")
        told = plots.dots(rows, "share of the draws (%)", "Who is drawn")
        return plots.figure(told, height=plots.height_of(len(rows)), legend=3)

    def _told(self) -> Iterator[Fact]:
        yield Fact("verdict", self.verdict)
        yield from self.facts
        for line in told_groups(self.groups):
            yield Fact("groups", line)
        yield Fact("expected", self.expectation)
        if self.costs:
            yield Fact("costs", "; ".join(map(_cost, self.costs)))


def _cost(cost: Cost) -> str:
    time = "" if cost.seconds is None else f" about {duration(cost.seconds)}"
    return f"{cost.stage}{time} ({cost.how})"
