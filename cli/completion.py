"""What a shell proposes after Tab: files where a path is meant, the words of an option that has some."""

import re
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

_PLACE = re.compile(r"PATH|OUT|DIR|EMB|DENSITY|TABLE|REF\b.*|A\.\.\.|B\.\.\.|(FILE|W|STUDY)\.\w+")
_WORDS = re.compile(r"[a-z][a-z0-9-]*")


class Place(click.types.StringParamType):
    """A text that is a path, or may be one: the shell proposes files and folders."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The item by which a shell knows that it is to look for files itself."""
        return [CompletionItem(incomplete, type="file")]


class Words(click.types.StringParamType):
    """A text that is mostly one of some words, which the shell proposes."""

    def __init__(self, words: Callable[[], Iterable[str]]) -> None:
        self.words = words

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The words that begin so."""
        return [CompletionItem(word) for word in self.words() if word.startswith(incomplete)]


def complete(parameters: Iterable[click.Parameter]) -> None:
    """Let texts say what a shell may propose, by what stands for their value in the help."""
    for parameter in parameters:
        if type(parameter.type) is not click.types.StringParamType:
            continue
        shown = (parameter.metavar or "").strip("[]")
        words = [word for part in shown.split("|") if _WORDS.fullmatch(word := part.partition("[")[0])]
        if isinstance(parameter, click.Argument) or _PLACE.fullmatch(shown):
            parameter.type = Place()
        elif parameter.name == "student":
            parameter.type = Words(_students)
        elif parameter.name == "device" or words:
            parameter.type = Words(lambda words=tuple(words) or ("auto", "cpu", "cuda"): words)  # type: ignore[misc]


def _students() -> Iterable[str]:
    from kdbias.networks import NETWORKS

    return NETWORKS
