"""kdbias train"""

from typing import Any

import click

import kdbias
from kdbias.cli.common import output_folder, overwrite, plan
from kdbias.cli.options import stage_command
from kdbias.training.settings import TrainingSettings


@stage_command(
    "train",
    click.argument("data"),
    output_folder,
    click.option(
        "--config", metavar="FILE.toml", help="Keys as the options below; options win over the file."
    ),
    click.option("--resume", is_flag=True, help="Refuse to begin anew where there is nothing to resume."),
    plan,
    overwrite,
    TrainingSettings,
)
def command(**given: Any) -> Any:
    """Train a student on the teacher's embeddings, or a network on labels, and leave it in OUT.

    With --weights the samples of the manifest are drawn as often as it says. The same command again resumes
    an interrupted run exactly; a finished one does nothing.

    \b
    Examples:
      kdbias train photos/ -o student --embeddings emb --weights weights.parquet
      kdbias train digits.parquet -o teacher --loss softmax --epochs 10 --where split=train
      kdbias train photos/ -o student --embeddings emb --config recipe.toml --seed 1
    """
    result = kdbias.train(**given)
    from kdbias.sampler.places import usual_place  # with torch, which a refusal does without

    return None if usual_place()[0] else result
