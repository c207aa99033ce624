"""kdbias report"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options


@click.command("report", cls=StageCommand)
@options(
    click.argument("outputs", nargs=-1, required=True),
    click.option(
        "-o", "--output", default="report.html", show_default=True, metavar="FILE.html", help="Page to write."
    ),
    click.option(
        "--title", default="kdbias report", show_default=True, metavar="TEXT", help="Heading of the page."
    ),
    click.option(
        "--pictures",
        default=10,
        show_default=True,
        type=click.IntRange(0),
        help="Sample images of each kind (most crowded, most isolated, most and least drawn); 0 for none.",
    ),
    click.option(
        "--root",
        metavar="DIR",
        help="Folder that holds the data: sample images come from below it or from below an OUTPUT alone.",
    ),
    click.option(
        "--overwrite/--no-overwrite",
        default=True,
        show_default=True,
        help="Replace a page that kdbias report wrote.",
    ),
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

    return report(**parameters)
