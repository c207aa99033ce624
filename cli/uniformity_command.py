"""kdbias uniformity"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import output_folder, overwrite
from kdbias.cli.options import stage_command
from kdbias.measurement.settings import UniformitySettings


@stage_command(
    "uniformity",
    click.argument("embeddings", metavar="EMB"),
    output_folder,
    UniformitySettings,
    overwrite,
)
def command(**given: Any) -> Any:
    """Measure how crowded each sample's neighbourhood is and how uniform the sampled data are.

    Writes OUT/density.parquet (a row a sample) and OUT/uniformity.json (a scheme a sampling distribution).
    Beside each uniformity stands its null: what points spread evenly over the sphere of this dimension would
    give. Giving --weights for an OUT that exists adds them to the schemes that it holds, reuses the rest and
    shows all; --overwrite starts over, with the --weights of that call alone.

    \b
    Examples:
      kdbias uniformity emb -o density
      kdbias uniformity emb -o density --group-by race --t 2,5,10
      kdbias uniformity emb -o density --weights equilibrium.parquet --weights balanced.parquet
    """
    return kdbias.uniformity(**given)
