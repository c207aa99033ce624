"""kdbias demo"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options, overwrite
from kdbias.cli.options import given, settings_options
from kdbias.demonstration.settings import DemoSettings


@click.command("demo", cls=StageCommand)
@options(
    click.option(
        "-o", "--output", default="kdbias-demo", show_default=True, metavar="DIR", help="Folder to write."
    ),
    overwrite,
    settings_options(DemoSettings),
)
def command(**parameters: Any) -> Any:
    """All stages on real digits, in minutes on two cores, offline.

    5,000 handwritten digits, cut to a long tail with near-duplicates: a teacher that comes with kdbias embeds
    them, density and uniformity are measured, four weight manifests are written, a student is distilled with
    each, and all are judged on balanced test digits. Every number comes from a file in DIR; the separate
    commands that do the same are printed.

    \b
    Examples:
      kdbias demo
      kdbias demo -o story --seeds 5
    """
    from kdbias.demonstration.story import demo

    return demo(**given(parameters))
