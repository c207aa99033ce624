"""kdbias study"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import output_folder
from kdbias.cli.options import stage_command
from kdbias.studies.settings import StudySettings


@stage_command("study", click.argument("description", metavar="STUDY.toml"), output_folder, StudySettings)
def command(**given: Any) -> Any:
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
    return kdbias.study(**given)
