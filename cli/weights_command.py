"""kdbias weights"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import overwrite
from kdbias.cli.common import plan as plan_option
from kdbias.cli.options import stage_command
from kdbias.errors import KdbiasError
from kdbias.weighting.settings import FrontierSettings, WeightsSettings


@stage_command(
    "weights",
    click.argument("density", metavar="DENSITY"),
    click.option("-o", "--output", required=True, metavar="W.parquet", help="Manifest to write."),
    WeightsSettings,
    click.option(
        "--frontier",
        is_flag=True,
        help="Compare all methods instead: a table and a plot of uniformity against ESS, in the folder -o.",
    ),
    plan_option,
    overwrite,
)
def command(frontier: bool, plan: bool, **given: Any) -> Any:
    """Write how often each sample should be drawn: a Parquet file with a row a sample.

    DENSITY is the folder that `kdbias uniformity` wrote. A weight is the expected number of draws an epoch;
    the mean is 1. With --towards, samples are matched to what the student will be used on, no nearer than a
    reference of its size tells, with a certificate of how near to the best that is. Without, the default is
    inverse-density, one over how crowded it is around a sample: what our study's stated rule chose.

    `kdbias train --weights` draws by it; in your own trainer `kdbias.ManifestSampler.from_manifest` does,
    whose ids may be paths, absolute or relative to any folder.

    \b
    Examples:
      kdbias weights density -o weights.parquet
      kdbias weights density -o gentle.parquet --min-ess 0.8
      kdbias weights density -o matched.parquet --towards deployed_embeddings
      kdbias weights density -o even.parquet --towards balanced:race
      kdbias weights density -o balanced.parquet --method class-balanced --clip 10
      kdbias weights density -o frontier --frontier
    """
    if not frontier:
        return kdbias.weights(**given, plan=plan)
    known = {"density", "output", "overwrite", *(d.name for d in FrontierSettings.declared())}
    other = [f"--{name.replace('_', '-')}" for name in given if name not in known]
    other += ["--plan"] if plan else []
    if other:
        raise KdbiasError(f"--frontier compares all methods by themselves; leave out {', '.join(other)}")
    return kdbias.frontier(**given)
