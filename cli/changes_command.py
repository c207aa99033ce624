"""kdbias changes"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options
from kdbias.cli.options import given, settings_options
from kdbias.weighting.settings import ChangesSettings


@click.command("changes", cls=StageCommand)
@options(
    click.argument("manifest", metavar="W.parquet"),
    click.option(
        "--density", metavar="DENSITY", help="Folder that uniformity wrote [the one in the provenance]."
    ),
    settings_options(ChangesSettings),
    click.option(
        "-o", "--output", metavar="DIR", help="Write groups.csv, hardness.csv and samples.csv there."
    ),
)
def command(output: str | None, **parameters: Any) -> Any:
    """Say what a weight manifest changes: draws by group and label, easy and hard, before and after.

    \b
    Examples:
      kdbias changes weights.parquet
      kdbias changes weights.parquet --group-by race --top 20 -o changes
    """
    from kdbias.weighting.changes import what_changed

    result = what_changed(**given(parameters))
    if output is not None:
        result.write(output)
    return result
