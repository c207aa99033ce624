"""kdbias pilot"""

from typing import Any

import click

import kdbias
from kdbias.cli.options import stage_command
from kdbias.studies.pilot_settings import PilotSettings


@stage_command(
    "pilot",
    click.argument("measured", metavar="EMB|DENSITY"),
    click.option(
        "-o", "--output", default="pilot", show_default=True, metavar="OUT", help="Folder to write."
    ),
    PilotSettings,
)
def command(**given: Any) -> Any:
    """Train small students under the candidate samplings, within a time, and compare them."""
    return kdbias.pilot(**given)
