"""kdbias evaluate"""

import inspect
from typing import Any

import click

from kdbias.cli.common import StageCommand, options, overwrite, teacher_folder
from kdbias.cli.options import given, settings_options
from kdbias.evaluation.settings import PROTOCOLS, EvaluateSettings


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
      PROTOCOLS

    docs/protocols.md says what each reads and how it was checked.

    \b
    Examples:
      kdbias evaluate run -o score --data test.parquet --gallery teacher_emb
      kdbias evaluate student_emb -o close --protocol fidelity --reference teacher_emb --group-by race
    """
    from kdbias.evaluation import evaluate

    return evaluate(**given(parameters))


_LINES = (f"{name:<13} {(kind.__doc__ or '').rstrip('.')}" for name, kind in PROTOCOLS.items())
command.help = inspect.cleandoc(command.help or "").replace("PROTOCOLS", "\n  ".join(_LINES))
