"""What a pilot found: shares of the distance to the teacher, by group, and a verdict."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kdbias.display.result import Result
from kdbias.display.table import Cell, Table
from kdbias.studies.arms import BASELINE
from kdbias.studies.comparisons import CaseRows, cases_of, few_seeds
from kdbias.studies.results import read_results
from kdbias.studies.statistics import Difference, Estimate
from kdbias.wording import counted, duration

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_METRIC = "fidelity.distance"
_UNLEARNT = 1.0
"""Students that are farther from the teacher have hardly begun: unrelated vectors are at sqrt(2)."""


@dataclass(frozen=True, repr=False)
class PilotResult(Result):
    """What a pilot came to.

    Attributes:
        path: its folder: a study's, with `study.toml`.
        document: the same as JSON values: arms, seeds, steps, seconds, and for each arm and group the share
            of natural sampling's distance that was removed, its 95 % interval, and whether it is decided.
        shown: for people: texts and a table.
    """

    path: Path
    document: dict[str, Any]
    shown: tuple[str | Table, ...]

    def blocks(self) -> list[str | Table]:
        """What was trained, the differences, and the verdict."""
        return list(self.shown)

    def to_pandas(self) -> pd.DataFrame:
        """A row an arm and what it is judged on: ``removed_percent``, ``low``, ``high``, ``decided``."""
        import pandas as pd

        return pd.DataFrame(self.document["differences"])

    def plot(self) -> Figure:
        """The share of natural sampling's distance that each arm removes, with its interval."""
        from kdbias.display import plots

        rows = [
            (
                entry["arm"],
                {"mean": entry["removed_percent"]},
                None if entry["low"] is None else (entry["low"], entry["high"]),
            )
            for entry in self.document["differences"]
            if entry["metric"] == _METRIC
        ]
        return plots.figure(
            plots.dots(rows, "distance removed (%)", "against natural sampling", zero=True),
            height=plots.height_of(len(rows)),
        )


def conclude_pilot(out: Path, seconds: float, within: float, again: str) -> PilotResult:
    """What the finished students say.

    Args:
        out: the pilot's folder.
        seconds, within: taken, and given.
        again: the command that goes on with its study.
    """
    outline, rows, _ = read_results(out)
    (case,) = cases_of(outline, rows)
    arms = [arm for arm in case.arms if arm != BASELINE]
    facts = case.facts(BASELINE)
    metrics = [_METRIC, *(name for name in case.rows[0].metrics if _is_group(name))]
    found = [{"arm": arm, "metric": metric, **_told(case, arm, metric)} for metric in metrics for arm in arms]
    document = {
        "path": str(out),
        "arms": case.arms,
        "seeds": case.seeds,
        "steps": facts["steps"],
        "samples": facts["samples"],
        "seconds": round(seconds, 1),
        "few_seeds": few_seeds([case]) or None,
        "differences": found,
        "verdict": _verdict(case, arms, found),
    }
    natural = fmean(case.values(BASELINE, _METRIC).values())
    lines = [
        [Cell(_heading(name)), *(Cell(_cell(case, arm, name), True) for arm in arms)] for name in metrics
    ]
    shown = (
        f"pilot: {counted(case.seeds, 'seed')} of {', '.join(case.arms)}; {counted(facts['steps'], 'step')} "
        f"of {facts['batch_size']} on {counted(facts['samples'], 'image')}; {duration(seconds)} of "
        f"{duration(within)}",
        f"Share that is taken away of the distance to the teacher under natural sampling ({natural:.4f}), % "
        "with 95 % intervals over seeds; ▲ better, ▼ worse:",
        Table("", "", [("judged on", ""), *((arm, "") for arm in arms)], lines),
        document["verdict"],
        *_unlearnt(natural, facts["steps"]),
        "A pilot says which way, not how much: students are small and see a part of the data, and intervals "
        "cover the luck of training alone.",
        f"page: kdbias report {shlex.quote(str(out))}\nmore: edit {out / 'study.toml'}, then {again}",
    )
    return PilotResult(out, document, shown)


def _unlearnt(natural: float, steps: int) -> list[str]:
    """What is to be said of students that have hardly begun to learn."""
    if natural <= _UNLEARNT:
        return []
    return [
        f"note: after {counted(steps, 'step')} students have hardly begun to learn (unrelated vectors are at "
        f"{math.sqrt(2):.2f}): what helps then need not help later; give --pilot more time"
    ]


def _is_group(metric: str) -> bool:
    """Whether a metric is the distance within one value of a column."""
    return metric.startswith(f"{_METRIC}[") and "=" in metric


def _heading(metric: str) -> str:
    return metric.partition("[")[2].rstrip("]") or "all"


def _gain(case: CaseRows, arm: str, metric: str) -> tuple[Estimate, Difference] | None:
    """Share of natural sampling's distance that an arm takes away, in percent; and the difference itself."""
    compared = case.compare(arm, metric)
    if compared is None or compared.difference is None:
        return None
    return compared.gain.times(100), compared.difference


def _told(case: CaseRows, arm: str, metric: str) -> dict[str, Any]:
    """A difference as JSON values."""
    gain = _gain(case, arm, metric)
    if gain is None:
        return {"removed_percent": None, "low": None, "high": None, "decided": 0}
    low, high = (None if math.isnan(end) else end for end in (gain[0].low, gain[0].high))
    return {"removed_percent": gain[0].value, "low": low, "high": high, "decided": gain[1].better}


def _cell(case: CaseRows, arm: str, metric: str) -> str:
    gain = _gain(case, arm, metric)
    return "n/a" if gain is None else gain[0].write(1) + gain[1].mark


def _verdict(case: CaseRows, arms: Sequence[str], found: Sequence[dict[str, Any]]) -> str:
    """In one line: which sampling helps, whom it harms, or that nothing is shown."""
    if few := few_seeds([case]):
        return f"verdict: none ({few})"
    whole = {entry["arm"]: entry for entry in found if entry["metric"] == _METRIC}
    better, worse = ([arm for arm in arms if whole[arm]["decided"] == sign] for sign in (1, -1))
    against = f"; {', '.join(worse)} brought them farther away" if worse else ""
    if not better:
        return f"verdict: stay natural: nothing is shown to bring students nearer to the teacher{against}"
    best = max(better, key=lambda arm: whole[arm]["removed_percent"])
    within = [entry for entry in found if entry["arm"] == best and entry["metric"] != _METRIC]
    return (
        f"verdict: {best} takes away {whole[best]['removed_percent']:.1f} % of the distance to the teacher"
        f"{_harm(within)}{against}"
    )


def _harm(groups: Sequence[dict[str, Any]]) -> str:
    """Which of the groups an arm brings farther from the teacher; nothing where there are none."""
    harmed = ", ".join(_heading(entry["metric"]) for entry in groups if entry["decided"] < 0)
    if harmed:
        return f"; but farther for {harmed}"
    return "; no group is shown to be farther away" if groups else ""
