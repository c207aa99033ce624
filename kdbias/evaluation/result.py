"""What an evaluation came to: ``metrics.json`` read back, and told to people."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbias.display.table import FEW, more
from kdbias.errors import KdbiasError
from kdbias.evaluation.roc import far_name
from kdbias.tables.documents import read_document
from kdbias.wording import counted, visible

METRICS = "metrics.json"
_NUMBER = (float, None)
_METRICS = {str: {"value": _NUMBER, "low?": _NUMBER, "high?": _NUMBER, "reason?": str}}
_SHAPE = {
    "protocol": str,
    "unit": str,
    "n": int,
    "metrics": _METRICS,
    "groups": {str: {str: {"n": int, "metrics": _METRICS}}},
    "spread?": {str: {str: {"worst": (str, None), "gap": _NUMBER}}},
    "config": {str: object},
    "inputs": {str: (str, None)},
    "interval": {"repeats": int, "resampled": object},
    "left_out": {str: int},
    "details": {"operating_point?": ({"far": float}, None)},
    "parameters?": {str: object},
    "test_data?": {str: {"n": int, "digest": str}},
    "plots?": [str],
}


@dataclass(frozen=True)
class EvaluationResult:
    """What :func:`evaluate` wrote.

    Attributes:
        document: the content of ``metrics.json``.
        path: the output folder.
    """

    document: dict[str, Any]
    path: Path

    def value(self, metric: str) -> float | None:
        """One metric by name, over all units."""
        found = self.document["metrics"]
        if metric not in found:
            raise KdbiasError(f"{self.path} has no metric {metric!r}; it has {', '.join(found)}")
        return found[metric]["value"]

    def summary(self) -> str:
        """A few lines for people: every metric with its interval, then the groups."""
        document = self.document
        lines = [f"{document['protocol']}: {counted(document['n'], document['unit'])} judged"]
        if document["interval"]["repeats"]:
            lines[0] += f", resampled by {document['interval']['resampled']}"
        left_out = [f"{count:,} {reason}" for reason, count in document["left_out"].items() if count]
        if left_out:
            lines[0] += f"; left out: {', '.join(left_out)}"
        named = {name: _named(name, document["details"]) for name in document["metrics"]}
        width = max(map(len, named.values()))
        lines += [f"  {named[name]:<{width}}  {_shown(entry)}" for name, entry in document["metrics"].items()]
        for column, groups in document["groups"].items():
            for value, group in list(groups.items())[:FEW]:
                some = "  ".join(
                    f"{named.get(name, name)} {_short(entry['value'])}"
                    for name, entry in group["metrics"].items()
                    if entry["value"] is not None
                )
                lines.append(visible(f"  {column}={value} ({group['n']:,}): {some}"))
            lines += [f"  {line}" for line in more(len(groups), f"{METRICS} has them all")]
        return "\n".join(lines)


def read_metrics(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``metrics.json`` that ``evaluate`` left in a folder.

    Raises:
        KdbiasError: there is none, or it is damaged.
    """
    return read_document(Path(folder) / METRICS, _SHAPE)


def _named(metric: str, details: Mapping[str, Any]) -> str:
    """A metric as it is printed: error rates at one threshold with the FAR that chose it."""
    point = details.get("operating_point")
    return f"{metric}@far<={far_name(point['far'])}" if point and metric in ("fmr", "fnmr") else metric


def _shown(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None and "reason" in entry:
        return f"n/a ({entry['reason']})"
    low, high = entry.get("low"), entry.get("high")
    interval = "" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]"
    return _short(entry["value"]) + interval


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
