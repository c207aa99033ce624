"""kdbias run"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import teacher_folder
from kdbias.cli.options import stage_command
from kdbias.data import forms
from kdbias.pipeline.settings import RunSettings


@stage_command(
    "run",
    click.argument("data"),
    teacher_folder,
    RunSettings,
    click.option("--overwrite", is_flag=True, help="Make again the stages that were made differently."),
)
def command(**given: Any) -> Any:
    """From images to a verdict: embed, measure, weigh, write a page, and say what to do.

    DATA is {forms}. Each stage is the command that is printed before it, and leaves in OUT what that would:
    OUT/embeddings, OUT/density (the data as they come and as they are weighed), OUT/weights.parquet,
    OUT/report.html. The same command again goes on where it was interrupted, and passes over what is
    finished.

    \b
    Examples:
      kdbias run photos/ --teacher torchvision:resnet50 -o out
      kdbias run photos/ --teacher torchvision:resnet50 -o out --towards deployed/     # 300 images will do
      kdbias run people.parquet --teacher run:teacher -o out --towards balanced:race --plan
    """
    return kdbias.run(**given)


command.help = str(command.help).format(forms=forms())
