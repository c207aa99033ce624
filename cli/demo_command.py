"""kdbias demo"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import overwrite
from kdbias.cli.options import stage_command
from kdbias.demonstration.settings import DemoSettings


@stage_command(
    "demo",
    click.option(
        "-o", "--output", default="kdbias-demo", show_default=True, metavar="DIR", help="Folder to write."
    ),
    overwrite,
    DemoSettings,
)
def command(**given: Any) -> Any:
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
    return kdbias.demo(**given)
