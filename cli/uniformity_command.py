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
    click.option("--verbose", is_flag=True, help="Show all bandwidths, not the chosen one alone."),
    overwrite,
)
def command(**given: Any) -> Any:
    """Measure how crowded each sample's neighbourhood is and how uniform the sampled data are.

    Writes OUT/density.parquet (a row a sample) and OUT/uniformity.json (a scheme a sampling distribution).
    Beside each uniformity stands its null: what points spread evenly over the sphere of this dimension would
    give. Giving --weights for an OUT that exists adds them to the schemes that it holds, reuses the rest and
    shows all; --overwrite starts over, with the --weights of that call alone.

    With --towards all is measured against what the student will be used on, too: whether the data differ from
    it at all, how much of that each manifest removes, which samples and groups are short or over-full, and
    whether the reference is large enough. It may be named later, and another one takes its place; schemes
    that come after it are measured against it unasked.

    \b
    Examples:
      kdbias uniformity emb -o density
      kdbias uniformity emb -o density --group-by race --t 2,5,10
      kdbias uniformity emb -o density --weights equilibrium.parquet --weights balanced.parquet
      kdbias uniformity emb -o density --towards deployment-emb
      kdbias uniformity emb -o density --towards deployment-emb --with camera
      kdbias uniformity emb -o density --towards balanced:race
    """
    return kdbias.uniformity(**given)
