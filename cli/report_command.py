"""kdbias report"""

from typing import Any

import click

import kdbias
from kdbias.cli.options import stage_command
from kdbias.reporting.settings import ReportSettings


@stage_command(
    "report",
    click.argument("outputs", nargs=-1, required=True),
    click.option(
        "-o", "--output", default="report.html", show_default=True, metavar="FILE.html", help="Page to write."
    ),
    ReportSettings,
)
def command(**given: Any) -> Any:
    """Write one self-contained HTML page about any OUTPUTS of kdbias: tables, plots, sample images.

    OUTPUTS are folders of embed, uniformity, weights --frontier, train, evaluate, study or demo, weight
    manifests, or a folder that holds several of them.

    \b
    Examples:
      kdbias report density weights.parquet -o bias.html --root photos/
      kdbias report kdbias-demo -o story.html --pictures 0
    """
    return kdbias.report(**given)
