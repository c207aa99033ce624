"""kdbias study"""

from typing import Any

import click

import kdbias
from kdbias.cli.options import stage_command
from kdbias.studies.settings import NewStudySettings, StudySettings


@stage_command(
    "study",
    click.argument("description", metavar="[STUDY.toml]", required=False),
    click.option(
        "-o",
        "--output",
        metavar="OUT",
        help="Folder to write, by default named after the file and beside it; with --init the file.",
    ),
    StudySettings,
    click.option(
        "--init",
        "data",
        metavar="PATH",
        help="Write the file for these data (or embedding table) instead; the options below go with it.",
    ),
    NewStudySettings,
)
def command(description: str | None = None, data: str | None = None, **given: Any) -> Any:
    """Compare ways of drawing: data x bias x arm x seed, from one file.

    Every arm gets the same steps and options; learning rates are tuned for natural sampling. Runs what is
    missing and writes OUT/results.parquet (a row a metric), OUT/results.md (paired differences with
    intervals) and OUT/plots. Interrupted, the same command goes on; a changed file re-runs only what it
    changes. `kdbias report OUT` makes a page of it.

    \b
    Examples:
      kdbias study --init photos/ --teacher torchvision:resnet50 --towards deployed/ -o study.toml
      kdbias study study.toml --workers 2
      kdbias study study.toml -o out --only fashion/tail-100 --rounds screen --dry-run
    """
    if data is None:
        if description is None:
            raise click.UsageError("give a study's file, or --init DATA to write one")
        return kdbias.study(description, **given)
    if description is not None:
        raise click.UsageError(f"--init writes a study's file, so leave out {description}; -o names the file")
    given.setdefault("output", "study.toml")
    return kdbias.new_study(data, **given)
