"""kdbias inspect"""

from typing import Any

import click

from kdbias.cli.common import StageCommand


class _Description:
    """What `inspect` found, printed like any result."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def summary(self) -> str:
        from kdbias.inspection.printed import as_text

        return as_text(self.document)


@click.command("inspect", cls=StageCommand)
@click.argument("path")
@click.option(
    "--rows", default=5, show_default=True, type=click.IntRange(0, 1_000_000), help="First rows to show."
)
def command(**parameters: Any) -> Any:
    """Say what PATH is: kind, schema, counts, provenance, first rows.

    \b
    Examples:
      kdbias inspect weights.parquet
      kdbias inspect emb/
      kdbias inspect run/student.pt
    """
    from kdbias.inspection.describe import inspect

    return _Description(inspect(**parameters))
