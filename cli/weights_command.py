"""kdbias weights"""

from typing import Any

import click
from click.core import ParameterSource

from kdbias.cli.common import StageCommand, options, overwrite, threads

METHODS = (
    "natural",
    "class-balanced",
    "effective-number",
    "inverse-density",
    "knn-distance",
    "equilibrium",
    "cluster-balanced",
    "hard",
)


class _Numbers(click.ParamType):
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1000,100", param, ctx)


@click.command("weights", cls=StageCommand)
@options(
    click.argument("density", metavar="DENSITY"),
    click.option("-o", "--output", required=True, metavar="W.parquet", help="Manifest to write."),
    click.option("--embeddings", metavar="EMB", help="Embedding table [the one that DENSITY was made from]."),
    click.option(
        "--method",
        default="equilibrium",
        show_default=True,
        type=click.Choice(METHODS),
        help="Weight scheme.",
    ),
    click.option("--t", type=float, metavar="T", help="Bandwidth [the one that uniformity chose]."),
    click.option(
        "--min-ess", type=float, metavar="F", help="Least ESS, 0 to 1 [equilibrium: 0.5, else none]."
    ),
    click.option("--temper", default=1.0, show_default=True, metavar="A", help="Exponent on the weights."),
    click.option("--clip", type=float, metavar="C", help="No weight above C times the mean."),
    click.option(
        "--cap", type=float, metavar="C", help="The same inside equilibrium's problem, staying optimal."
    ),
    click.option(
        "--mix", default=0.0, show_default=True, metavar="L", help="Share of natural sampling, 0 to 1."
    ),
    click.option(
        "--collapse",
        type=click.Choice(["exact", "near", "none"]),
        help="Which copies share one sample's weight [exact; natural: none].",
    ),
    click.option("--near", type=float, metavar="COS", help="Least cosine of --collapse near [0.999]."),
    click.option("--beta", type=float, help="effective-number: 0 = natural, near 1 = class-balanced [0.99]."),
    click.option("--exponent", type=float, help="knn-distance, hard: power of the distance."),
    click.option(
        "--keep", type=float, help="cluster-balanced: share of the samples that water-filling keeps."
    ),
    click.option(
        "--clusters", type=_Numbers(), help="cluster-balanced: clusters of each level, e.g. 1000,100."
    ),
    click.option("--tolerance", type=float, help="equilibrium: relative gap to stop at [0.001]."),
    click.option(
        "--max-seconds", type=float, help="equilibrium: stop by then, with the gap that was reached."
    ),
    click.option(
        "--memory", metavar="SIZE", help="equilibrium: most extra memory to take, 256MiB or more [4GiB]."
    ),
    threads,
    click.option("--seed", type=click.IntRange(0), help="cluster-balanced: of the clusters [0]."),
    click.option(
        "--frontier",
        is_flag=True,
        help="Compare all methods instead: a table and a plot of uniformity against ESS, in the folder -o.",
    ),
    overwrite,
)
@click.pass_context
def command(ctx: click.Context, frontier: bool, **parameters: Any) -> Any:
    """Write how often each sample should be drawn: a Parquet file with a row a sample.

    DENSITY is the folder that `kdbias uniformity` wrote. A weight is the expected number of draws an epoch;
    the mean is 1. The default, equilibrium, is the distribution of least crowding that keeps half of the
    effective sample size, with a certificate of how near to the best it is.

    \b
    Examples:
      kdbias weights density -o weights.parquet
      kdbias weights density -o gentle.parquet --min-ess 0.8
      kdbias weights density -o balanced.parquet --method class-balanced --clip 10
      kdbias weights density -o frontier --frontier
    """
    if frontier:
        return _frontier(ctx, parameters)
    from kdbias.weighting.stage import weights

    return weights(**parameters)


_OF_FRONTIER = ("density", "output", "embeddings", "t", "tolerance", "memory", "threads", "seed", "overwrite")


def _frontier(ctx: click.Context, parameters: dict[str, Any]) -> Any:
    from kdbias.errors import KdbiasError
    from kdbias.weighting.frontier import frontier

    given = [name for name in parameters if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    other = [f"--{name.replace('_', '-')}" for name in given if name not in _OF_FRONTIER]
    if other:
        raise KdbiasError(f"--frontier compares all methods by themselves; leave out {', '.join(other)}")
    return frontier(**{name: parameters[name] for name in _OF_FRONTIER if parameters[name] is not None})
