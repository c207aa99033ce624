"""kdbias report"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options
from kdbias.cli.options import given, settings_options
from kdbias.reporting.settings import ReportSettings


@click.command("report", cls=StageCommand)
@options(
    click.argument("outputs", nargs=-1, required=True),
    click.option(
        "-o", "--output", default="report.html", show_default=True, metavar="FILE.html", help="Page to write."
    ),
    settings_options(ReportSettings),
)
def command(**parameters: Any) -> Any:
    """Write one self-contained HTML page about any OUTPUTS of kdbias: tables, plots, sample images.

    OUTPUTS are folders of embed, uniformity, weights --frontier, train, evaluate or demo, weight manifests,
    or a folder that holds several of them.

    \b
    Examples:
      kdbias report density weights.parquet -o bias.html --root photos/
      kdbias report kdbias-demo -o story.html --pictures 0
    """
    from kdbias.reporting import report

    return report(**given(parameters))
