"""Judging embeddings by the protocols that the field publishes.

A protocol is one module of this package, named in ``PROTOCOLS``, with

- ``UNIT``: what it judges one by one (``"sample"``, ``"pair"``, ``"query"``),
- ``OPTIONS``: the options of :func:`evaluate` that it reads, with their defaults,
- ``READS``: what it reads beside the judged embeddings (``"reference"``, ``"gallery"``, ``"flip"``: their
  mirrored views),
- ``LOWER_IS_BETTER``: names of metrics for which less is better,
- ``judge(task) -> Outcome``: the result of every unit,
- ``score(columns, weights, parameters) -> dict``: the metrics of weighted units, which is all that intervals,
  groups and comparisons need.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbias.evaluation.comparison import ComparisonResult, compare
    from kdbias.evaluation.result import EvaluationResult
    from kdbias.evaluation.stage import evaluate

PROTOCOLS: dict[str, str] = {
    "knn": "kdbias.evaluation.knn",
    "fidelity": "kdbias.evaluation.fidelity",
    "verification": "kdbias.evaluation.verification",
    "rfw": "kdbias.evaluation.rfw",
    "ijbc": "kdbias.evaluation.ijbc",
    "reid": "kdbias.evaluation.reid",
    "linear": "kdbias.evaluation.linear",
}

__all__ = ["PROTOCOLS", "ComparisonResult", "EvaluationResult", "compare", "evaluate"]

_HOMES = {
    "evaluate": "kdbias.evaluation.stage",
    "EvaluationResult": "kdbias.evaluation.result",
    "compare": "kdbias.evaluation.comparison",
    "ComparisonResult": "kdbias.evaluation.comparison",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
