"""kdbias suspects"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import overwrite
from kdbias.cli.options import stage_command
from kdbias.measurement.settings import SuspectsSettings


@stage_command(
    "suspects",
    click.argument("density", metavar="DENSITY"),
    SuspectsSettings,
    click.option("-o", "--output", metavar="FILE", help="Write the whole list: suspects.csv or .parquet."),
    overwrite,
)
def command(**given: Any) -> Any:
    """List samples that look wrong: blank, dark, overexposed, tiny or odd-sized images, near duplicates,
    samples far from all others, labels whose own centroid is not the sample's nearest.

    DENSITY is the folder that `kdbias uniformity` wrote. In the file, `exclude` says which samples
    `kdbias weights --exclude FILE` leaves out: edit it as you see fit.

    \b
    Examples:
      kdbias suspects density
      kdbias suspects density -o suspects.csv
      kdbias suspects density --kind label --kind near-duplicate -o doubtful.parquet
    """
    return kdbias.suspects(**given)
