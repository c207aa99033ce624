"""kdbias advise"""

from typing import Any

import click

import kdbias
from kdbias.advice.settings import AdviseSettings
from kdbias.cli.options import stage_command


@stage_command("advise", click.argument("measured", metavar="EMB|DENSITY"), AdviseSettings)
def command(**given: Any) -> Any:
    """Say what to do with your data, in ten lines: rectify or not, towards what, at what cost; what to type.

    EMB is an embedding table, DENSITY the folder that `kdbias uniformity` wrote, whose target counts where
    none is named. The verdict rests on a two-sample test against the target and on the gains of comparable
    cases in our own study (docs/results/README.md); nothing is written.

    \b
    Examples:
      kdbias advise density
      kdbias advise emb --towards deployed --group-by race
    """
    return kdbias.advise(**given)
