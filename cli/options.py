"""Options of a command, made from the fields of its settings."""

import functools
from collections.abc import Callable
from typing import Any

import click

from kdbias.cli.common import StageCommand, options
from kdbias.command_lines import flag_of
from kdbias.settings import Declared, Settings
from kdbias.wording import nearest


def stage_command(name: str, *parameters: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """The command of a function, which gets by name what the user gave.

    Args:
        name: of the command; the function's docstring is its help.
        parameters: arguments and options of click, and settings classes, in the order of the help.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            return function(**given(values))

        made = [settings_options(each) if isinstance(each, type) else each for each in parameters]
        return click.command(name, cls=StageCommand)(options(*made)(call))

    return decorate


def settings_options(kind: type[Settings]) -> Callable[[Any], Any]:
    """One click option a field. All default to None: what is not given is left to the settings, or a file."""
    return options(*(_option(declared, kind.twosided) for declared in kind.declared()))


def given(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the user gave."""
    return {name: value for name, value in parameters.items() if value is not None and value != ()}


def _option(declared: Declared, twosided: bool) -> Any:
    """The click option of a declared one."""
    about = declared.about
    flag = flag_of(declared)
    help_text = declared.text[0].upper() + declared.text[1:] + "."
    if declared.kind is bool:
        both = twosided or declared.default is not False
        return click.option(
            f"{flag}/--no-{flag[2:]}" if both else flag,
            declared.name,
            is_flag=True,
            default=None,
            help=help_text,
        )
    listed = declared.many and declared.kind is not str and about.parse is None
    kind: Any = _Choice(about.choices) if about.choices else str if about.parse else declared.kind
    return click.option(
        flag,
        declared.name,
        multiple=declared.many and not listed and about.parse is None,
        required=declared.required,
        type=_Listed(declared.kind) if listed else kind,
        metavar=about.metavar or ("PATH" if about.path else None),
        help=help_text,
    )


class _Choice(click.Choice):
    """One of some words; the nearest one is proposed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            error.message = error.message.rstrip(".") + nearest(str(value), self.choices)  # type: ignore[misc]
            raise


class _Listed(click.ParamType):
    """Numbers with commas between them."""

    name = "N,N,..."

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
