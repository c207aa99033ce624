"""kdbias inspect"""

from typing import Any

import click

import kdbias
from kdbias.cli.options import stage_command


@stage_command(
    "inspect",
    click.argument("path"),
    click.option(
        "--rows", default=5, show_default=True, type=click.IntRange(0, 1_000_000), help="First rows to show."
    ),
)
def command(**given: Any) -> Any:
    """Say what PATH is: kind, schema, counts, provenance, first rows.

    \b
    Examples:
      kdbias inspect weights.parquet
      kdbias inspect emb/
      kdbias inspect run/student.pt
    """
    return kdbias.inspect(**given)
