"""kdbias study"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, device, options, output_folder


@click.command("study", cls=StageCommand)
@options(
    click.argument("description", metavar="STUDY.toml"),
    output_folder,
    click.option("--only", multiple=True, metavar="DATA[/BIAS]", help="Run these alone; repeatable."),
    click.option("--rounds", multiple=True, metavar="ROUND", help="Run these rounds alone; repeatable."),
    click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Runs at a time."),
    click.option(
        "--threads", default=1, show_default=True, type=click.IntRange(1), help="CPU threads a worker."
    ),
    device,
    click.option("--dry-run", is_flag=True, help="List the missing runs with their time; run nothing."),
)
def command(**parameters: Any) -> Any:
    """Compare ways of drawing: data x bias x arm x seed, from one file.

    Every arm gets the same steps and options; learning rates are tuned for natural sampling. Runs what is
    missing and writes OUT/results.parquet (a row a metric), OUT/results.md (paired differences with
    intervals) and OUT/plots. Interrupted, the same command goes on; a changed file re-runs only what it
    changes.

    \b
    Examples:
      kdbias study study.toml -o out --workers 2
      kdbias study study.toml -o out --only fashion/tail-100 --rounds screen --dry-run
    """
    from kdbias.studies.stage import study

    return study(**parameters)
