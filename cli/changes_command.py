"""kdbias changes"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options


@click.command("changes", cls=StageCommand)
@options(
    click.argument("manifest", metavar="W.parquet"),
    click.option(
        "--density", metavar="DENSITY", help="Folder that uniformity wrote [the one in the provenance]."
    ),
    click.option(
        "--group-by", multiple=True, metavar="COLUMN", help="Report by this column [all]; repeatable."
    ),
    click.option(
        "--top", default=10, show_default=True, type=click.IntRange(1), help="Samples of each end to list."
    ),
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

    parameters["group_by"] = parameters["group_by"] or None
    result = what_changed(**parameters)
    if output is not None:
        result.write(output)
    return result
