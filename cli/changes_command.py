"""kdbias changes"""

from typing import Any

import click

import kdbias
from kdbias.cli.options import stage_command
from kdbias.weighting.settings import ChangesSettings


@stage_command(
    "changes",
    click.argument("manifest", metavar="W.parquet"),
    click.option(
        "--density", metavar="DENSITY", help="Folder that uniformity wrote [the one in the provenance]."
    ),
    ChangesSettings,
    click.option(
        "-o", "--output", metavar="DIR", help="Write groups.csv, hardness.csv and samples.csv there."
    ),
)
def command(output: str | None = None, **given: Any) -> Any:
    """Say what a weight manifest changes: draws by group and label, easy and hard, before and after.

    \b
    Examples:
      kdbias changes weights.parquet
      kdbias changes weights.parquet --group-by race --top 20 -o changes
    """
    result = kdbias.what_changed(**given)
    if output is not None:
        result.write(output)
    return result
