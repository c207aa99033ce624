"""kdbias uniformity"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, device, options, output_folder, overwrite, seed, threads


@click.command("uniformity", cls=StageCommand)
@options(
    click.argument("embeddings", metavar="EMB"),
    output_folder,
    click.option(
        "--weights",
        multiple=True,
        metavar="W.parquet",
        help="Measure the data as this manifest would sample it, too; repeatable.",
    ),
    click.option("--k", type=click.IntRange(1), help="Neighbours a sample [64, or n-1 if smaller]."),
    click.option("--t", default="auto", show_default=True, metavar="auto|2,5,10", help="Bandwidth(s)."),
    click.option(
        "--search",
        default="exact",
        show_default=True,
        type=click.Choice(["exact", "ivf", "hnsw"]),
        help="exact: all pairs; ivf: estimates with intervals, from about 100,000 samples; hnsw: the same by "
        "a graph that may miss isolated samples.",
    ),
    click.option(
        "--estimator",
        type=click.Choice(["potential", "knn", "vmf"]),
        help="What log_density is [potential]; another one is computed from what is stored.",
    ),
    click.option("--exponent", type=float, help="knn: power of the distance [the intrinsic dimension]."),
    device,
    click.option(
        "--precision",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "tf32", "bf16"]),
        help="Of potentials on CUDA.",
    ),
    click.option(
        "--memory",
        default="4GiB",
        show_default=True,
        metavar="SIZE",
        help="Most extra memory to take, 256MiB or more.",
    ),
    threads,
    click.option(
        "--group-by", multiple=True, metavar="COLUMN", help="Report by this column, too; repeatable."
    ),
    click.option(
        "--rectification",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "all", "chosen", "none"]),
        help="At which bandwidths to search the best re-weighting; auto: all up to 16,384 samples, else the "
        "chosen one. none leaves the search out, which takes most of a small run's time.",
    ),
    click.option("--keep-neighbors", is_flag=True, help="Write neighbors.parquet."),
    seed("the samples that are drawn"),
    overwrite,
)
def command(**parameters: Any) -> Any:
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
    from kdbias.measurement.stage import uniformity

    return uniformity(**parameters)
