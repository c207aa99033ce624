"""Judging embeddings by the protocols that the field publishes."""

from typing import TYPE_CHECKING, Any

from kdbias.evaluation.settings import PROTOCOLS

if TYPE_CHECKING:
    from kdbias.evaluation.comparison import ComparisonResult, compare
    from kdbias.evaluation.stage import EvaluationResult, evaluate

__all__ = ["PROTOCOLS", "ComparisonResult", "EvaluationResult", "compare", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name in __all__:
        from importlib import import_module

        home = "comparison" if name in ("compare", "ComparisonResult") else "stage"
        return getattr(import_module(f"kdbias.evaluation.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
