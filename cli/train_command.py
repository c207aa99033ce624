"""kdbias train"""

from dataclasses import Field, fields
from typing import Any

import click

from kdbias.cli.common import StageCommand, options, output_folder, overwrite
from kdbias.training.config import TrainingConfig

_TYPES: dict[str, Any] = {"int": int, "float": float}


def _option(field: Field[Any]) -> Any:
    """The option of one key of the configuration; unset ones leave the file's value or the default."""
    flag = "--" + field.name.replace("_", "-")
    about = field.metadata
    kind = str(field.type).removesuffix(" | None")
    text = about["help"][0].upper() + about["help"][1:]
    default = field.default
    if kind == "bool":
        return click.option(
            f"{flag}/--no-{flag[2:]}", default=None, help=f"{text} [{'yes' if default else 'no'}]."
        )
    shown = "" if default is None or default == () else f" [{_shown(default)}]"
    return click.option(
        flag,
        multiple=kind == "tuple[str, ...]",
        type=click.Choice(about["choices"]) if about["choices"] else _TYPES.get(kind, str),
        callback=_numbers if kind == "tuple[float, ...]" else None,
        metavar="PATH" if about["path"] else None,
        help=f"{text}{shown}.",
    )


def _shown(default: Any) -> str:
    return ",".join(f"{v:g}" for v in default) if isinstance(default, tuple) else str(default)


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0.5,0.75") from None


@click.command("train", cls=StageCommand)
@options(
    click.argument("data"),
    output_folder,
    click.option(
        "--config", metavar="FILE.toml", help="Keys as the options below; options win over the file."
    ),
    click.option("--resume", is_flag=True, help="Refuse to begin anew where there is nothing to resume."),
    overwrite,
    *[_option(field) for field in fields(TrainingConfig)],
)
def command(**parameters: Any) -> Any:
    """Train a student on the teacher's embeddings, or a network on labels, and leave it in OUT.

    With --weights the samples of the manifest are drawn as often as it says. The same command again resumes
    an interrupted run exactly; a finished one does nothing.

    \b
    Examples:
      kdbias train photos/ -o student --embeddings emb --weights weights.parquet
      kdbias train digits.parquet -o teacher --loss softmax --epochs 10 --where split=train
      kdbias train photos/ -o student --embeddings emb --config recipe.toml --seed 1
    """
    from kdbias.training.loop import train
    from kdbias.training.processes import announced_rank

    parameters = {name: value for name, value in parameters.items() if value not in (None, ())}
    result = train(**parameters)
    return None if announced_rank() else result
