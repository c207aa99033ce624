"""One HTML page about any outputs. Figures are one file a subject; ``page`` puts them together."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbias.reporting.page import ReportResult, report

__all__ = ["ReportResult", "report"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name in __all__:
        return getattr(import_module("kdbias.reporting.page"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
