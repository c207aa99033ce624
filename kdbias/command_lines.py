"""A call of a library function as the command line that does the same, quoted for a POSIX shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kdbias.scratch import recorded
from kdbias.settings import Declared, Settings


def flag_of(declared: Declared) -> str:
    """How the command line spells an option."""
    return declared.about.flag or "--" + declared.name.replace("_", "-")


def command_line(
    stage: str, source: object, output: object, kind: type[Settings], options: Mapping[str, Any]
) -> str:
    """``kdbias STAGE SOURCE -o OUTPUT --option value ...``.

    Args:
        stage: the command.
        source, output: its argument and what ``-o`` names; None for none.
        kind: the settings of the stage, which know how options are spelled.
        options: name -> value; None, False and empty ones are left out.
    """
    return shlex.join(_words(stage, source, output, kind, options))


@dataclass(frozen=True)
class Step:
    """One call of a stage: ``stage(source, output, **options)``, or the same as a command.

    Attributes:
        title: what it does, for people.
        stage: the function and command.
        settings: those of the stage, which know how options are spelled.
    """

    title: str
    stage: str
    source: str
    output: str
    options: Mapping[str, Any]
    settings: type[Settings] = Settings

    def run(self, **more: Any) -> Any:
        """Run the stage; returns its result."""
        import kdbias

        return getattr(kdbias, self.stage)(self.source, self.output, **self.options, **more)

    @property
    def words(self) -> list[str]:
        """The command line, before quoting."""
        return _words(self.stage, self.source, self.output, self.settings, self.options)

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join(self.words)


def _words(
    stage: str, source: object, output: object, kind: type[Settings], options: Mapping[str, Any]
) -> list[str]:
    """The words of `command_line`."""
    words = ["kdbias", stage]
    words += [] if source is None else [os.fspath(source)]  # type: ignore[call-overload]
    words += [] if output is None else ["-o", os.fspath(output)]  # type: ignore[call-overload]
    return recorded([*words, *option_words(kind, options)])


def option_words(kind: type[Settings], options: Mapping[str, Any]) -> Iterator[str]:
    """The options as words; a list repeats its option, or joins its numbers by commas."""
    flags = {declared.name: flag_of(declared) for declared in kind.declared()}
    for name, value in options.items():
        flag = flags.get(name, "--" + name.replace("_", "-"))
        if value is None or value is False or value == ():
            continue
        if value is True:
            yield flag
        elif isinstance(value, list | tuple) and not isinstance(value[0], str):
            yield from (flag, ",".join(f"{one:g}" for one in value))
        else:
            for one in value if isinstance(value, list | tuple) else (value,):
                yield from (flag, str(one))
