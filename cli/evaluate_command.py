"""kdbias evaluate"""

from typing import Any

import click

from kdbias.cli.common import StageCommand, options, overwrite, teacher_folder
from kdbias.cli.options import given, settings_options
from kdbias.evaluation.settings import EvaluateSettings


@click.command("evaluate", cls=StageCommand)
@options(
    click.argument("model", metavar="MODEL|EMB"),
    teacher_folder,
    settings_options(EvaluateSettings),
    overwrite,
)
def command(**parameters: Any) -> Any:
    """Judge a model or an embedding table by a protocol; writes OUT/metrics.json, units.parquet and plots.

    MODEL|EMB is an embedding table, or with --data a run folder or any teacher spec.

    \b
    Protocols:
      knn           accuracy of the nearest class centroid and of k neighbours; overall, balanced, tail
      linear        accuracy of a linear classifier on frozen embeddings
      fidelity      distance to the teacher's embeddings of the same samples; by group and density
      verification  pairs over folds (LFW, CFP, AgeDB), TAR@FAR
      rfw           verification by group, its spread and error ratio
      ijbc          templates pooled over media, TAR@FAR
      reid          CMC, mAP, mINP without same-camera matches

    docs/protocols.md says what each reads and how it was checked.

    \b
    Examples:
      kdbias evaluate run -o score --data test.parquet --gallery teacher_emb
      kdbias evaluate student_emb -o close --protocol fidelity --reference teacher_emb --group-by race
    """
    from kdbias.evaluation import evaluate

    return evaluate(**given(parameters))
